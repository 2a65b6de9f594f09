"""Tensors, their hash, and repetitions that count once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.errors import WeightsError
from lm_bounds.weights import Tensor, Weights, distinct


def tensor(name: str, values: np.ndarray, dtype: str = "F32", shape: tuple[int, ...] | None = None) -> Tensor:
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return Tensor.of_bytes(name, dtype, values.shape if shape is None else shape, raw)


def weights(*tensors: Tensor) -> Weights:
    kept, aliases = distinct(tensors)
    return Weights("test", kept, aliases)


ONES = np.ones((2, 3), np.float32)


def test_sizes_of_a_tensor() -> None:
    scalar = tensor("s", np.float32(3.0).reshape(()))
    assert (scalar.shape, scalar.n_elements, scalar.n_bytes) == ((), 1, 4)
    empty = tensor("e", np.zeros((0, 5), np.float32))
    assert (empty.n_elements, empty.n_bytes, list(empty.chunks())) == (0, 0, [])


def test_unknown_dtypes_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"'w' has dtype 'F4'; supported are BF16, BOOL"):
        Tensor.of_bytes("w", "F4", (2,), np.zeros(1, np.uint8))
    with pytest.raises(WeightsError, match="negative size"):
        Tensor.of_bytes("w", "U8", (-1,), np.zeros(1, np.uint8))
    with pytest.raises(WeightsError, match="must give 8 bytes"):
        Tensor.of_bytes("w", "F32", (2,), np.zeros(7, np.uint8)).data()
    with pytest.raises(WeightsError, match="must give 2 bytes; for those from 0 to 2 it gave float32"):
        Tensor.of_bytes("w", "U8", (2,), np.zeros(2, np.float32)).data()


def test_weights_must_be_sorted_and_named_once() -> None:
    a, b = tensor("a", ONES), tensor("b", 2 * ONES)
    for tensors, aliases in (
        ((b, a), ()),
        ((a, a), ()),
        ((a, b), (("a", "b"),)),
        ((a, b), (("c", "missing"),)),
        ((a, b), (("d", "a"), ("c", "a"))),
    ):
        with pytest.raises(WeightsError, match=r"test: (tensors|aliases) must be sorted"):
            Weights("test", tensors, aliases)


def test_equal_tensors_count_once_under_their_first_name() -> None:
    measured = weights(tensor("b", ONES), tensor("c", ONES), tensor("a", ONES), tensor("d", 2 * ONES))
    assert [entry.name for entry in measured.tensors] == ["a", "d"]
    assert measured.aliases == (("b", "a"), ("c", "a"))
    assert measured.n_parameters == 12
    assert measured.stored_bytes == 48


def test_equal_bytes_of_another_shape_or_dtype_stay_distinct() -> None:
    measured = weights(tensor("a", ONES), tensor("b", ONES, shape=(3, 2)), tensor("c", ONES, "I32"), tensor("d", -ONES))
    assert measured.aliases == ()


def test_only_tensors_that_may_repeat_are_read_for_it() -> None:
    def unread(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read")

    kept, _ = distinct([Tensor("a", "F32", (2,), unread), Tensor("b", "F32", (3,), unread)])
    assert len(kept) == 2


def test_every_part_of_the_schema_changes_the_hash() -> None:
    base = weights(tensor("a", ONES), tensor("b", 2 * ONES)).sha256()
    assert base == weights(tensor("b", 2 * ONES), tensor("a", ONES)).sha256()
    others = [
        weights(tensor("a", ONES), tensor("c", 2 * ONES)),
        weights(tensor("a", ONES), tensor("b", 2 * ONES, shape=(3, 2))),
        weights(tensor("a", ONES), tensor("b", 2 * ONES, "I32")),
        weights(tensor("a", ONES)),
        weights(tensor("a", ONES), tensor("b", 2 * ONES), tensor("c", ONES)),
        weights(tensor("a", 2 * ONES), tensor("b", ONES)),
    ]
    assert len({base, *(other.sha256() for other in others)}) == 1 + len(others)


def test_configuration_is_part_of_the_hash_and_the_source_is_not() -> None:
    kept, _ = distinct([tensor("a", ONES)])
    hashes = [Weights(source, kept, (), config).sha256() for source in "xy" for config in (b"{}", b'{"a":1}')]
    assert hashes[:2] == hashes[2:]
    assert hashes[0] != hashes[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(min_value=0, max_value=6 * 32 - 1))
def test_one_changed_bit_changes_the_hash(bit: int) -> None:
    raw = ONES.reshape(-1).view(np.uint8).copy()
    raw[bit // 8] ^= 1 << (bit % 8)
    changed = tensor("a", raw.view(np.float32).reshape(2, 3))
    assert weights(changed).sha256() != weights(tensor("a", ONES)).sha256()
