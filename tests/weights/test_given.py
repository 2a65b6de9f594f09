"""Weights given a prior: what is left is small, and with the prior it gives every bit back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import total_bits
from lm_bounds.compressors import get_compressor, measure, measure_given
from lm_bounds.errors import WeightsError
from lm_bounds.weights import Given, Tensor, Weights, distinct, relative, restore
from lm_bounds.weights.prior.differences import difference, undone
from lm_bounds.weights.prior.given import Treatment
from lm_bounds.weights.prior.merged_config import merged_header, split_header
from lm_bounds.weights.protocol import DTYPE_BYTES

CONFIG = b'{"hidden_size":4,"layers":[1,2],"model_type":"test"}'
FLOATS = {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}


def tensor(name: str, dtype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    return Tensor.of_bytes(name, dtype, shape, np.frombuffer(raw, np.uint8))


def floats(name: str, values: np.ndarray, dtype: str = "F32") -> Tensor:
    words = np.ascontiguousarray(values, np.float32)
    raw = (words.view("<u4") >> 16).astype("<u2") if dtype == "BF16" else words
    return tensor(name, dtype, values.shape, raw.tobytes())


def weights(*tensors: Tensor, config: bytes = CONFIG, source: str = "test") -> Weights:
    kept, aliases = distinct(tensors)
    return Weights(source, kept, aliases, config)


def content(some: Weights) -> tuple[object, ...]:
    described = [(each.name, each.dtype, each.shape, each.data().tobytes()) for each in some.tensors]
    return described, some.aliases, some.config


def assert_restored(own: Weights, prior: Weights) -> Given:
    described = relative(own, prior)
    again = restore(prior, described)
    assert content(again) == content(own)
    assert again.sha256() == own.sha256()
    return described


def slow_difference(own: int, before: int, n_bits: int, is_float: bool) -> int:
    """Of two bit patterns, in Python's integers: signed rank, difference mod 2^w, zigzag."""

    def rank(pattern: int) -> int:
        magnitude = pattern & ((1 << n_bits - 1) - 1)
        if not is_float:
            return pattern
        return -1 - magnitude if pattern >> (n_bits - 1) else magnitude

    gap = (rank(own) - rank(before)) % 2**n_bits
    if gap >= 2 ** (n_bits - 1):
        gap -= 2**n_bits
    return 2 * gap if gap >= 0 else -2 * gap - 1


@settings(max_examples=150, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(DTYPE_BYTES)))
def test_differences_are_those_of_slow_arithmetic(data: st.DataObject, dtype: str) -> None:
    """Over all bit patterns: NaNs with payloads, infinities, zeros of either sign."""
    if dtype == "C64":
        n_bits, is_float, dtype_coded, shape = 32, True, "U32", (3, 2)
    else:
        n_bits, is_float, shape = 8 * DTYPE_BYTES[dtype], dtype in FLOATS, (6,)
        dtype_coded = f"U{n_bits}"
    special = st.sampled_from([0, 1, 2 ** (n_bits - 1), 2 ** (n_bits - 1) - 1, 2**n_bits - 1, 2**n_bits - 2])
    patterns = st.lists(st.integers(0, 2**n_bits - 1) | special, min_size=6, max_size=6)
    own, before = data.draw(patterns), data.draw(patterns)
    one, other = (tensor("w", dtype, shape[:1], np.array(each, f"<u{n_bits // 8}").tobytes()) for each in (own, before))
    coded = difference(one, other)
    assert (coded.dtype, coded.shape) == (dtype_coded, shape)
    expected = [slow_difference(*pair, n_bits, is_float) for pair in zip(own, before, strict=True)]
    assert coded.data().view(f"<u{n_bits // 8}").tolist() == expected
    again = undone(coded, other)
    assert (again.dtype, again.shape, again.data().tobytes()) == (dtype, shape[:1], one.data().tobytes())
    start = data.draw(st.integers(0, one.n_bytes))
    stop = data.draw(st.integers(start, one.n_bytes))
    assert coded.read(start, stop).tobytes() == coded.data()[start:stop].tobytes()
    assert again.read(start, stop).tobytes() == one.data()[start:stop].tobytes()


def test_neighbouring_numbers_have_small_differences() -> None:
    before = np.array([1.0, -1.0, 0.0, -0.0, 65504.0], np.float32)
    own = np.nextafter(before, np.float32(np.inf))
    coded = difference(floats("w", own), floats("w", before)).data().view("<u4")
    # From +0 to the smallest number is one step, from -0 it is two: over +0.
    assert coded.tolist() == [2, 2, 2, 4, 2]


def test_tensors_of_other_shape_or_dtype_have_no_difference() -> None:
    one, other = floats("w", np.ones((2, 3))), floats("w", np.ones((3, 2)))
    with pytest.raises(WeightsError, match="no difference to one of other dtype or shape"):
        difference(one, other)
    with pytest.raises(WeightsError, match=r"'w' is no difference to one of F32 \(3, 2\)"):
        undone(difference(one, one), other)


SHAPES = [(), (0, 3), (5,), (2, 3)]


@st.composite
def some_weights(draw: st.DrawFn) -> Weights:
    """A few tensors of few contents, so that priors share, repeat, drop and change them."""
    tensors = []
    for name in draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6)):
        dtype, shape = draw(st.sampled_from(["F32", "BF16", "I8", "C64"])), draw(st.sampled_from(SHAPES))
        n_bytes = DTYPE_BYTES[dtype] * int(np.prod(shape))
        raw = draw(st.sampled_from([b"\0", b"\x80", b"\xff\x01", b"\x7f"])) * n_bytes
        tensors.append(tensor(name, dtype, shape, raw[:n_bytes]))
    entries = st.dictionaries(st.sampled_from("xyz"), st.sampled_from([0, True, 1.5, float("nan"), {"x": 1}, "ä"]))
    config = json.dumps(draw(entries), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return weights(*tensors, config=config)


@settings(max_examples=200, deadline=None)
@given(some_weights(), some_weights())
def test_any_weights_come_back_from_any_prior(own: Weights, prior: Weights) -> None:
    described = assert_restored(own, prior)
    assert described.n_identical + described.n_differ + described.n_new == len(own.tensors)
    assert_restored(own, own)


def test_every_treatment() -> None:
    rng = np.random.default_rng(0)
    near = rng.normal(size=(40, 50)).astype(np.float32)
    far = rng.normal(size=(40, 50)).astype(np.float32)
    prior = weights(
        floats("dropped", np.ones(3)),
        floats("far", near),
        floats("near", near[::-1]),
        floats("other_dtype", near, "BF16"),
        floats("same", far),
    )
    own = weights(
        floats("far", far * 1e30),
        floats("near", near[::-1] * np.float32(1 + 1e-6)),
        floats("new", near * 2),
        floats("other_dtype", near),
        floats("same", far),
    )
    described = assert_restored(own, prior)
    assert [treatment.name for treatment in described.treatments] == [
        *("ABSENT", "PLAIN", "DIFFERENCE", "PLAIN", "SAME"),
    ]
    assert [each.name for each in described.rest.tensors] == ["far", "near", "new", "other_dtype"]
    assert (described.n_identical, described.n_differ, described.n_differences, described.n_new) == (1, 3, 1, 1)


def test_the_same_model_costs_its_name_and_two_bits_a_tensor() -> None:
    own = weights(floats("a", np.arange(600)), floats("b", np.ones(5)), floats("tied", np.arange(600)))
    described = assert_restored(own, own)
    assert described.rest.tensors == ()
    assert [(item.item, item.bits) for item in described.ledger] == [
        ("prior model (sha256)", 256 + 4),
        ("tensors of the prior", 2 * 3),
    ]
    for name in ("arithmetic", "best", "gzip"):
        length = measure_given(own, own, name)
        assert length.bits < 260 + 6 + 1000
        assert length.sha256 == own.sha256()
        assert (length.n_parameters, length.n_tensors, length.stored_bytes) == (605, 2, 2420)


def test_a_tensor_that_takes_the_place_of_a_repeated_one() -> None:
    """The prior's first name of a repeated tensor changes: its other names have to be told apart again."""
    ones = np.ones(8)
    prior = weights(floats("a", ones), floats("b", ones), floats("c", ones))
    own = weights(floats("a", 2 * ones), floats("b", ones), floats("c", ones))
    assert (prior.aliases, own.aliases) == ((("b", "a"), ("c", "a")), (("c", "b"),))
    described = assert_restored(own, prior)
    assert described.n_identical == 1


def fine_tuned(dtype: str) -> tuple[Weights, Weights]:
    """A base, and the same with one row in a hundred of each matrix drawn anew."""
    rng = np.random.default_rng(5)
    base, tuned = [], []
    for name in ("down", "embed", "up"):
        values = rng.normal(0, 0.02, (400, 128)).astype(np.float32)
        changed = values.copy()
        changed[rng.choice(400, 4, replace=False)] = rng.normal(0, 0.02, (4, 128))
        base.append(floats(name, values, dtype))
        tuned.append(floats(name, changed, dtype))
    norm = floats("norm", rng.normal(1, 0.1, 128), dtype)
    return weights(*base, norm), weights(*tuned, norm)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_one_row_in_a_hundred_changed_costs_under_five_percent(dtype: str) -> None:
    base, tuned = fine_tuned(dtype)
    described = assert_restored(tuned, base)
    assert (described.n_identical, described.n_differences) == (1, 3)
    for name in ("arithmetic", "best", "gzip", "zstd", "xz", "bz2"):
        assert measure_given(tuned, base, name).bits < 0.05 * measure(tuned, name).bits


def test_all_weights_changed_a_little_cost_less() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(0, 0.02, (200, 128)).astype(np.float32)
    base = weights(floats("w", values))
    tuned = weights(floats("w", values + rng.normal(0, 1e-5, values.shape).astype(np.float32)))
    assert assert_restored(tuned, base).n_differences == 1
    assert measure_given(tuned, base, "arithmetic").bits < 0.7 * measure(tuned, "arithmetic").bits


def test_an_unrelated_prior_costs_no_more_than_naming_it() -> None:
    rng = np.random.default_rng(7)
    own, prior = (weights(floats("w", rng.normal(size=(100, 64)))) for _ in range(2))
    assert relative(own, prior).treatments == (Treatment.PLAIN,)
    alone, together = measure(own, "arithmetic"), measure_given(own, prior, "arithmetic")
    assert alone.bits < together.bits < alone.bits + 260 + 2 + 200


class Codes:
    """Stands for a packing, whose codes a compressor would read."""


@pytest.mark.parametrize(("n_steps", "packed"), [(128, Treatment.PLAIN), (8, Treatment.DIFFERENCE)])
def test_packed_codes_are_left_unless_the_difference_is_much_shorter(n_steps: int, packed: Treatment) -> None:
    """Differences of n_steps values take log2(n_steps) of 8 bits: 7 of them for 128, 3 for 8."""
    rng = np.random.default_rng(8)
    before = rng.integers(0, 256, 20_000, np.uint8)
    own = tensor("w", "U8", before.shape, (before + rng.integers(0, n_steps, 20_000, np.uint8)).tobytes())
    prior = weights(tensor("w", "U8", before.shape, before.tobytes()))
    assert relative(weights(own), prior).treatments == (Treatment.DIFFERENCE,)
    assert relative(weights(dataclasses.replace(own, packing=Codes())), prior).treatments == (packed,)


@pytest.mark.parametrize("name", ["arithmetic", "best", "gzip"])
def test_the_ledger_names_all_that_is_paid(name: str) -> None:
    base, tuned = fine_tuned("BF16")
    described = relative(tuned, base)
    length = measure_given(tuned, base, name)
    assert length.ledger == (*described.ledger, *get_compressor(name).ledger(described.rest))
    assert length.bits == total_bits(length.ledger)
    assert length.n_parameters == tuned.n_parameters


def test_weights_without_parameters_are_refused() -> None:
    with pytest.raises(WeightsError, match="holds no parameters"):
        measure_given(weights(), weights(floats("w", np.ones(3))), "gzip")


def test_identical_tensors_are_read_for_their_hash_alone() -> None:
    values = np.arange(3_000_000, dtype=np.uint8)
    read: list[int] = []

    def load(start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return values[start:stop]

    own, prior = (weights(Tensor("w", "U8", values.shape, load)) for _ in range(2))
    described = relative(own, prior)
    assert described.n_identical == 1
    assert sum(read) == 2 * values.size


def test_another_prior_is_refused() -> None:
    base, tuned = fine_tuned("F32")
    with pytest.raises(WeightsError, match=r"test is not the prior that was used, whose sha256 is [0-9a-f]{64}"):
        restore(tuned, relative(tuned, base))


def test_descriptions_that_do_not_fit_are_refused() -> None:
    base, tuned = fine_tuned("F32")
    described = relative(tuned, base)
    fewer = dataclasses.replace(described, treatments=described.treatments[1:])
    with pytest.raises(WeightsError, match="has 4 names, 3 are described"):
        restore(base, fewer)
    rest = dataclasses.replace(described.rest, tensors=described.rest.tensors[1:])
    with pytest.raises(WeightsError, match="nothing is left of tensor 'down'"):
        restore(base, dataclasses.replace(described, rest=rest))
    for header in (b"{", b"[]", b'{"config":null}', b'{"aliases":3,"config":null}', b'{"aliases":null,"config":{}}'):
        broken = dataclasses.replace(described, rest=dataclasses.replace(described.rest, config=header))
        with pytest.raises(WeightsError, match="the header of weights given a prior is broken"):
            restore(base, broken)


ALIASES = (("lm_head", "embed"),)
ADAPTED = b'{"adapter":{"r":2},"base":' + CONFIG + b"}"


@pytest.mark.parametrize(
    ("config", "prior", "header"),
    [
        (CONFIG, CONFIG, b'{"aliases":null,"config":null}'),
        (CONFIG, b"{}", b'{"aliases":null,"config":{"set":' + CONFIG + b',"unset":[]}}'),
        (
            CONFIG.replace(b"4", b"5"),
            CONFIG,
            b'{"aliases":null,"config":{"set":{"hidden_size":5},"unset":[]}}',
        ),
        (ADAPTED, CONFIG, b'{"aliases":null,"config":{"prior_as":["base"],"set":{"adapter":{"r":2}}}}'),
        (
            CONFIG + b" ",
            CONFIG,
            b'{"aliases":null,"config":{"text":' + json.dumps(CONFIG.decode() + " ").encode() + b"}}",
        ),
        (b"no JSON", CONFIG, b'{"aliases":null,"config":{"text":"no JSON"}}'),
        (b'{"a":1}', b'{"a":true}', b'{"aliases":null,"config":{"text":"{\\"a\\":1}"}}'),
    ],
)
def test_configurations_are_written_given_the_priors(config: bytes, prior: bytes, header: bytes) -> None:
    assert split_header(config, ALIASES, prior, ALIASES) == header
    assert merged_header(header, prior, ALIASES) == (config, ALIASES)


def test_other_aliases_are_written_down() -> None:
    header = split_header(CONFIG, ALIASES, CONFIG, ())
    assert header == b'{"aliases":[["lm_head","embed"]],"config":null}'
    assert merged_header(header, CONFIG, ()) == (CONFIG, ALIASES)
