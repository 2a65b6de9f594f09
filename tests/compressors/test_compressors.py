"""What every compressor must do, and how they are found by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import LedgerItem, total_bits
from lm_bounds.compressors import COMPRESSORS, Compressor, compressor_names, get_compressor, measure, registry
from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.weights import Weights

every_compressor = pytest.mark.parametrize("name", sorted(COMPRESSORS))
shared_fixtures = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.lists(st.floats(width=32), max_size=12).map(lambda values: np.array(values, np.float32))


@every_compressor
def test_conformance(name: str, mixed: Weights) -> None:
    compressor = get_compressor(name)
    assert isinstance(compressor, Compressor)
    assert compressor.name == name
    assert isinstance(compressor.exact, bool)
    assert compressor.version()
    ledger = compressor.ledger(mixed)
    assert all(item.item and item.bits >= 0 and item.bits == int(item.bits) for item in ledger)
    assert compressor.ledger(mixed) == ledger, "the same weights must cost the same again"


@every_compressor
def test_measure_adds_up(name: str, mixed: Weights) -> None:
    measured = measure(mixed, name)
    assert measured.bits == total_bits(measured.ledger) == sum(item.bits for item in measured.ledger)
    assert measured.bits == int(measured.bits) > 0
    assert (measured.compressor, measured.exact) == (name, COMPRESSORS[name]().exact)
    assert (measured.n_parameters, measured.n_tensors) == (mixed.n_parameters, len(mixed.tensors))
    assert (measured.stored_bytes, measured.sha256) == (mixed.stored_bytes, mixed.sha256())
    assert measured.bits_per_parameter == measured.bits / mixed.n_parameters
    assert measured.seconds >= 0


@every_compressor
def test_the_description_holds_every_part(name: str, tensor, weights) -> None:
    """Each part of the weights costs something: name, shape, values, alias, configuration."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=64)
    base = measure(weights(tensor("w", values)), name).bits
    long_name = "".join(map(chr, rng.integers(97, 123, 60)))
    assert measure(weights(tensor(long_name, values)), name).bits > base + 60
    assert measure(weights(tensor("w", rng.normal(size=128))), name).bits > base + 64 * 20
    assert measure(weights(tensor("w", values), tensor("x", values)), name).bits > base
    config = b'{"model_type":"test","note":"%s"}' % long_name.encode()
    assert measure(weights(tensor("w", values), config=config), name).bits > base + 60


@every_compressor
@shared_fixtures
@given(values=VALUES, more=VALUES)
def test_one_more_tensor_never_lowers_the_total(name: str, tensor, weights, values, more) -> None:
    one = COMPRESSORS[name]().ledger(weights(tensor("a", values)))
    two = COMPRESSORS[name]().ledger(weights(tensor("a", values), tensor("b", more)))
    assert total_bits(two) >= total_bits(one)


@every_compressor
def test_repeated_tensors_are_paid_once(name: str, tensor, weights) -> None:
    values = np.random.default_rng(2).normal(size=4000)
    once = measure(weights(tensor("a", values)), name)
    twice = measure(weights(tensor("a", values), tensor("b", values)), name)
    assert twice.n_parameters == once.n_parameters
    assert once.bits < twice.bits < once.bits + 500


@every_compressor
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_normal_weights_take_less_than_they_are_stored_in(name: str, dtype: str, tensor, weights) -> None:
    values = np.random.default_rng(1).normal(0, 0.02, 20_000)
    assert measure(weights(tensor("w", values, dtype)), name).ratio_to_stored < 0.97


@every_compressor
def test_incompressible_bytes_cost_little_more_than_they_are(name: str, tensor, weights) -> None:
    values = np.random.default_rng(1).integers(0, 256, 20_000)
    measured = measure(weights(tensor("w", values, "U8")), name)
    assert 1 <= measured.ratio_to_stored < 1.02


@every_compressor
def test_nothing_to_measure_is_refused(name: str, tensor, weights) -> None:
    with pytest.raises(WeightsError, match="no parameters"):
        measure(weights(tensor("empty", np.zeros((0, 3)))), name)


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"'gzipp': did you mean 'gzip'\?$"):
        get_compressor("gzipp")
    with pytest.raises(UsageError, match=r"'quantum': use one of arithmetic, gzip$"):
        measure(Weights("test", ()), "quantum")


class Constant:
    """A third party's compressor."""

    name = "constant"
    exact = False

    def version(self) -> str:
        return "1"

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        return (LedgerItem("everything", 7.0),)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"constant": Constant, "broken": Constant().ledger, "poor": dict, "gzip": Constant}
    points = [EntryPoint(name, f"plugin:{name}", registry.ENTRY_POINT_GROUP) for name in found]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: found[self.name])


@pytest.mark.usefixtures("installed")
def test_compressors_of_others_join_by_entry_point(mixed: Weights) -> None:
    assert compressor_names() == ("arithmetic", "broken", "constant", "gzip", "poor")
    assert measure(mixed, "constant").bits == 7
    assert measure(mixed, "gzip").bits > 7, "an installed name never replaces a built-in one"
    with pytest.raises(UsageError, match=r"'broken' \(plugin:broken\) cannot be loaded: TypeError"):
        get_compressor("broken")
    with pytest.raises(UsageError, match=r"'poor' .* lacks name"):
        get_compressor("poor")


def test_importing_the_room_loads_no_framework() -> None:
    heavy = "torch", "transformers", "lm_eval", "matplotlib", "safetensors", "scipy"
    code = f"import sys, lm_bounds.compressors; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
