"""What the adaptive code of each tensor costs, and what that may depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.compressors import Arithmetic
from lm_bounds.models import built_in_model
from lm_bounds.weights import Weights, read_checkpoint

tensor_bits = Arithmetic().tensor_bits


def test_ledger_names_every_tensor_in_order(mixed: Weights) -> None:
    names = [item.item for item in Arithmetic().ledger(mixed)]
    assert names == ["config.json", "schema", *(tensor.name for tensor in mixed.tensors), "coder termination"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30), shuffle=st.randoms())
def test_order_of_the_elements_does_not_matter(tensor, values: list[float], shuffle) -> None:
    shuffled = list(values)
    shuffle.shuffle(shuffled)
    one, other = (tensor("w", np.array(order, np.float32)) for order in (values, shuffled))
    assert tensor_bits(one) == pytest.approx(tensor_bits(other), abs=1e-9)


def test_no_tensor_costs_more_than_its_bytes_and_the_mode(mixed: Weights) -> None:
    for tensor in mixed.tensors:
        assert tensor_bits(tensor) <= 8 * tensor.n_bytes + 2
    empty = next(tensor for tensor in mixed.tensors if tensor.name == "empty")
    assert tensor_bits(empty) == 2


def test_normal_weights_reach_their_entropy(tensor) -> None:
    """Sign, exponent and three mantissa bits leave little of the entropy of a normal density unused."""
    n, sigma = 200_000, 2.0**-6
    bits = tensor_bits(tensor("w", np.random.default_rng(0).normal(0, sigma, n), "F32")) / n
    # h(X) minus the mean of log2 of the spacing of 24-bit numbers, E[floor(log2|X|)] - 23.
    sample = np.abs(np.random.default_rng(1).normal(0, sigma, n))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * sigma**2) - (np.floor(np.log2(sample)).mean() - 23)
    assert entropy - 0.02 < bits < entropy + 0.05


def test_half_precision_values_stored_in_single_cost_no_more(tensor) -> None:
    values = np.random.default_rng(4).normal(0, 0.02, 5000).astype(np.float32)
    kept = (values.view("<u4") >> 16 << 16).view(np.float32)
    single, half = tensor_bits(tensor("w", kept)), tensor_bits(tensor("w", values, "BF16"))
    assert single == pytest.approx(half, abs=4)


def test_chunks_add_up(tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(0, 0.02, 999)
    examples = [tensor("w", values), tensor("w", values * 1e4, "I32")]
    whole = [tensor_bits(example) for example in examples]
    monkeypatch.setattr("lm_bounds.weights.protocol.CHUNK_BYTES", 64)
    monkeypatch.setattr("lm_bounds.compressors.counts._PIECE", 5)
    assert [tensor_bits(example) for example in examples] == whole


@pytest.mark.parametrize(("name", "bits"), [("structured", 1_442_017), ("random", 160_755)])
def test_sizes_of_the_built_in_models_stay_what_they_are(name: str, bits: int) -> None:
    tensors = read_checkpoint(built_in_model(name).path).tensors
    assert sum(math.ceil(tensor_bits(tensor)) for tensor in tensors) == bits
