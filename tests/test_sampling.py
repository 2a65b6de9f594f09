"""Draws are those of the published generator, and windows partition every document."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import TokenCorpus
from lm_bounds.corpora.token_stream import find_document_starts
from lm_bounds.errors import UsageError
from lm_bounds.sampling import (
    Windows,
    all_windows,
    count_windows,
    draw_distinct_tokens,
    draw_distinct_windows,
    draw_windows,
    draws_sha256,
    fixed_windows,
    stream_seed,
    uniform_chunks,
    uniform_indices,
)

END_OF_TEXT = 256


def corpus_of(parts: list[list[int]], end_of_text_id: int | None = END_OF_TEXT) -> TokenCorpus:
    tokens = np.array([token for part in parts for token in part], dtype=np.uint32)
    sources = np.cumsum([0, *(len(part) for part in parts)])
    starts = find_document_starts(tokens, sources, end_of_text_id)
    return TokenCorpus("local", "-", tokens, starts, "", end_of_text_id)


def every_window(corpus: TokenCorpus, context: int) -> Windows:
    """The windows of all m equally likely draws."""
    index = np.arange(corpus.n_tokens)
    return fixed_windows(*corpus.document_bounds(index), index, context)


def philox_4x64(counter: int, key: int) -> list[int]:
    """Philox4x64-10 of Salmon et al. (2011), one block of four numbers."""
    mask = (1 << 64) - 1
    c0, c1, c2, c3 = ((counter >> 64 * word) & mask for word in range(4))
    k0, k1 = key & mask, key >> 64
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (high >> 64) ^ c1 ^ k0, high & mask, (low >> 64) ^ c3 ^ k1, low & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


def test_philox_known_answer() -> None:
    """The published test vector of Random123 for the zero counter and the zero key."""
    assert philox_4x64(0, 0) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def uniform_indices_slowly(n: int, n_tokens: int, seed: int) -> list[int]:
    """Rejection one number at a time, on a generator written out here."""
    limit = (2**64 // n_tokens) * n_tokens
    found: list[int] = []
    counter = 0
    while len(found) < n:
        counter += 1  # numpy counts before it generates
        found += [raw % n_tokens for raw in philox_4x64(counter, seed) if raw < limit]
    return found[:n]


@pytest.mark.parametrize(
    "n_tokens", [1, 2, 3, 7, 1000, 2**32 - 1, 2**32, 2**62, 2**63, 2**63 - 1, 3 * 2**61, 2**62 + 1]
)
@pytest.mark.parametrize("seed", [0, 1234, 2**64, 2**128 - 1])
def test_indices_equal_the_slow_twin(n_tokens: int, seed: int) -> None:
    drawn = uniform_indices(50, n_tokens, seed)
    assert drawn.dtype == np.int64
    assert drawn.tolist() == uniform_indices_slowly(50, n_tokens, seed)


@pytest.mark.parametrize(
    ("n_tokens", "expected"),
    [(10, [9, 0, 9, 0]), (2, [1, 0, 1, 0, 1, 0]), (1, [0, 0, 0, 0, 0, 0])],
)
def test_rejection_at_the_limit(n_tokens: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest number kept is limit - 1; nothing is rejected where n_tokens divides 2^64."""
    limit = 2**64 // 10 * 10
    raw = iter([limit - 1, limit, 2**64 - 1, 0, 9, 10])

    class Scripted:
        def random_raw(self, count: int) -> np.ndarray[Any, Any]:
            return np.array([next(raw) for _ in range(count)], dtype=np.uint64)

    monkeypatch.setattr(np.random, "Philox", lambda key: Scripted())
    assert uniform_indices(len(expected), n_tokens, seed=0).tolist() == expected


GOLDEN_SEED = stream_seed("certify", "golden", 1234)


def test_golden_draws() -> None:
    """Pinned for ever: certificates name only the seed, and their draws must come out the same."""
    assert GOLDEN_SEED == 152194698785333818890284189948821847577
    assert uniform_indices(6, 1_259_130_000_000, GOLDEN_SEED).tolist() == [
        736074020789,
        86155059907,
        862796379650,
        91206688509,
        1001161655807,
        270054663640,
    ]
    assert uniform_indices(6, 3 * 2**61, GOLDEN_SEED).tolist() == [
        384933388602938933,
        1246556413975059907,
        3101007632006379650,
        4414706538325606653,
        1264870622992111623,
        3445253623777128970,
    ]


@settings(max_examples=60, deadline=None)
@given(
    n_tokens=st.one_of(st.integers(1, 50), st.integers(2**62, 2**63)),
    seed=st.integers(0, 2**128 - 1),
    n=st.integers(0, 40),
    more=st.integers(0, 40),
)
def test_more_draws_keep_the_first(n_tokens: int, seed: int, n: int, more: int) -> None:
    longer = uniform_indices(n + more, n_tokens, seed)
    assert longer[:n].tolist() == uniform_indices(n, n_tokens, seed).tolist()
    assert longer.size == n + more
    assert ((longer >= 0) & (longer < n_tokens)).all()


@pytest.mark.parametrize(
    ("n", "n_tokens", "seed"),
    [(-1, 5, 0), (1, 0, 0), (1, -3, 0), (1, 2**63 + 1, 0), (1, 5, -1), (1, 5, 2**128)],
)
def test_indices_out_of_range(n: int, n_tokens: int, seed: int) -> None:
    with pytest.raises(UsageError, match="given"):
        uniform_indices(n, n_tokens, seed)


def test_streams_and_parts_differ() -> None:
    seeds = [stream_seed(stream, *parts) for stream in ("calibration", "pilot", "certify") for parts in PARTS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**128 for seed in seeds)
    draws = [tuple(uniform_indices(4, 10**9, seed)) for seed in seeds]
    assert len(set(draws)) == len(draws)


PARTS: list[tuple[object, ...]] = [
    (),
    (1,),
    ("1",),
    (1, 2),
    ([1, 2],),
    (12,),
    (1.0,),
    (True,),
    (None,),
    ({"a": 1, "b": 2},),
    ("é",),
    ("a", "b"),
    ("ab",),
]


def test_seed_is_canonical() -> None:
    assert stream_seed("pilot", {"b": 2, "a": 1}) == stream_seed("pilot", {"a": 1, "b": 2})
    text = '["lm-bounds/draws/1","pilot",["w",{"a":1,"b":[2.5,null]}]]'
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert stream_seed("pilot", "w", {"b": (2.5, None), "a": 1}) == int(digest[:32], 16)


@pytest.mark.parametrize("part", [float("nan"), float("inf"), object(), {1, 2}, np.int64(3), b"bytes"])
def test_seed_refuses_what_has_no_canonical_form(part: object) -> None:
    with pytest.raises(UsageError, match="finite JSON values"):
        stream_seed("pilot", part)


def test_unknown_stream() -> None:
    with pytest.raises(UsageError, match="one of calibration, pilot, certify, corpus, given 'train'"):
        stream_seed("train")


PARTS_OF_CORPUS = st.lists(st.lists(st.sampled_from([1, 2, END_OF_TEXT]), max_size=9), min_size=1, max_size=8).filter(
    any
)


@settings(max_examples=200, deadline=None)
@given(parts=PARTS_OF_CORPUS, context=st.integers(1, 12), end_of_text_id=st.sampled_from([END_OF_TEXT, None]))
def test_windows_partition_every_document(parts: list[list[int]], context: int, end_of_text_id: int | None) -> None:
    corpus = corpus_of(parts, end_of_text_id)
    windows = every_window(corpus, context)
    distinct = sorted(set(zip(windows.start.tolist(), windows.stop.tolist(), strict=True)))
    covered = [token for start, stop in distinct for token in range(start, stop)]
    assert covered == list(range(corpus.n_tokens))  # all tokens, in order, none twice
    document_start, document_stop = corpus.document_bounds(np.array([start for start, _ in distinct]))
    for (start, stop), first, end in zip(distinct, document_start, document_stop, strict=True):
        assert 1 <= stop - start <= context
        assert first <= start < stop <= end
        assert (start - first) % context == 0
        assert stop - start == context or stop == end  # only the last of a document is shorter
        assert end_of_text_id not in corpus.tokens[start : stop - 1]  # it can only come last


@settings(max_examples=60, deadline=None)
@given(parts=PARTS_OF_CORPUS, context=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_mean_over_draws_is_the_mean_over_tokens(parts: list[list[int]], context: int, seed: int) -> None:
    """Exact: losses are integers times 27720 = lcm(1..12), so that every window mean is an integer."""
    corpus = corpus_of(parts)
    losses = np.random.default_rng(seed).integers(0, 1000, corpus.n_tokens) * 27_720
    windows = every_window(corpus, context)
    sums = [int(losses[start:stop].sum()) for start, stop in zip(windows.start, windows.stop, strict=True)]
    means = [total // int(size) for total, size in zip(sums, windows.stop - windows.start, strict=True)]
    assert all(m * int(s) == t for m, s, t in zip(means, windows.stop - windows.start, sums, strict=True))
    assert sum(means) == int(losses.sum())  # both divided by m


def test_shifting_the_last_window_would_bias_the_mean() -> None:
    """Positive control of the enumeration: windows that overlap give another mean."""
    losses = np.array([0, 0, 0, 0, 10], dtype=float)
    index = np.arange(5)
    start = np.minimum(index // 4 * 4, 1)  # the last window is shifted left to full size
    shifted = np.mean([losses[first : first + 4].mean() for first in start])
    windows = fixed_windows(np.zeros(5, np.int64), np.full(5, 5), index, 4)
    exact = np.mean([losses[a:b].mean() for a, b in zip(windows.start, windows.stop, strict=True)])
    assert exact == losses.mean() != shifted


def test_draw_windows_follow_the_draws() -> None:
    corpus = corpus_of([[1] * 10, [2] * 3])
    windows = draw_windows(corpus, 25, 4, seed=9)
    longer = draw_windows(corpus, 40, 4, seed=9)
    assert len(windows) == 25
    assert windows.token_index.tolist() == uniform_indices(25, 13, 9).tolist()
    for mine, theirs in [(windows.start, longer.start), (windows.stop, longer.stop)]:
        assert mine.tolist() == theirs[:25].tolist()
    assert len(draw_windows(corpus, 0, 4, seed=9)) == 0


def test_context_longer_than_anything() -> None:
    corpus = corpus_of([[1] * 10, [2] * 3])
    for context in (10, 2**40, 2**63 - 1, 2**70):
        windows = every_window(corpus, context)
        assert set(zip(windows.start.tolist(), windows.stop.tolist(), strict=True)) == {(0, 10), (10, 13)}


def test_windows_are_checked() -> None:
    index = np.array([3])
    with pytest.raises(UsageError, match="context must be at least 1 token, given 0"):
        fixed_windows(np.array([0]), np.array([5]), index, 0)
    for start, stop in [(4, 5), (0, 3)]:
        with pytest.raises(UsageError, match="must lie in its document"):
            fixed_windows(np.array([start]), np.array([stop]), index, 2)
        with pytest.raises(UsageError, match="must lie in its window"):
            Windows(index, np.array([start]), np.array([stop]))
    with pytest.raises(UsageError, match="one length"):
        Windows(index, np.array([0, 0]), np.array([5]))
    with pytest.raises(UsageError, match="int64"):
        Windows(index, np.array([0.0]), np.array([5]))  # type: ignore[arg-type]


CHANGES: list[Callable[[Windows], Windows]] = [
    lambda w: Windows(w.token_index[::-1], w.start[::-1], w.stop[::-1]),
    lambda w: Windows(w.token_index[:-1], w.start[:-1], w.stop[:-1]),
    lambda w: Windows(w.token_index, w.start, w.stop + 1),
    lambda w: Windows(w.token_index, w.start - 1, w.stop),
]


def test_hash_of_draws() -> None:
    windows = Windows(np.array([3, 9]), np.array([2, 8]), np.array([4, 12]))
    same = Windows(windows.token_index.copy(), windows.start.copy(), windows.stop.copy())
    assert draws_sha256(windows) == draws_sha256(same)
    expected = hashlib.sha256(b"lm-bounds/windows/1 2\n" + struct.pack("<6q", 3, 9, 2, 8, 4, 12))
    assert draws_sha256(windows) == expected.hexdigest()
    assert len({draws_sha256(windows), *(draws_sha256(change(windows)) for change in CHANGES)}) == 5


# Draws without replacement


def slow_distinct(corpus: TokenCorpus, n: int, context: int, seed: int, by_token: bool) -> list[tuple[int, int, int]]:
    """One token of the stream after the other, those of windows that came up before passed over."""
    found: list[tuple[int, int, int]] = []
    n_draws = 64
    while n > 0:
        found.clear()
        for token in uniform_indices(n_draws, corpus.n_tokens, seed).tolist():
            document = int(np.searchsorted(corpus.document_starts, token, side="right")) - 1
            first = int(corpus.document_starts[document])
            start = first + (token - first) // context * context
            following = corpus.document_starts[document + 1 : document + 2].tolist() or [corpus.n_tokens]
            stop = token + 1 if by_token else min(start + context, following[0])
            known = {row[0] if by_token else row[1] for row in found}
            if (token if by_token else start) not in known:
                found.append((token, start, stop))
            if len(found) == n:
                return found
        n_draws *= 2
    return found


def rows_of(windows: Windows) -> list[tuple[int, int, int]]:
    return list(zip(windows.token_index.tolist(), windows.start.tolist(), windows.stop.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(parts=PARTS_OF_CORPUS, context=st.integers(1, 12), seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_distinct_draws_equal_the_slow_twin(parts: list[list[int]], context: int, seed: int, share: float) -> None:
    corpus = corpus_of(parts)
    n_windows = count_windows(corpus.document_starts, corpus.n_tokens, context)
    n = round(share * n_windows)
    found = draw_distinct_windows(corpus, n, context, seed)
    assert rows_of(found) == slow_distinct(corpus, n, context, seed, by_token=False)
    assert len(set(found.start.tolist())) == n
    assert rows_of(draw_distinct_windows(corpus, n // 2, context, seed)) == rows_of(found)[: n // 2]
    n = round(share * corpus.n_tokens)
    tokens = draw_distinct_tokens(corpus, n, context, seed)
    assert rows_of(tokens) == slow_distinct(corpus, n, context, seed, by_token=True)
    assert len(set(tokens.token_index.tolist())) == n
    assert tokens.stop.tolist() == (tokens.token_index + 1).tolist()
    assert rows_of(draw_distinct_tokens(corpus, n // 2, context, seed)) == rows_of(tokens)[: n // 2]


@settings(max_examples=100, deadline=None)
@given(parts=PARTS_OF_CORPUS, context=st.integers(1, 12))
def test_all_windows_are_those_of_all_draws_once(parts: list[list[int]], context: int) -> None:
    corpus = corpus_of(parts)
    every = every_window(corpus, context)
    wanted = sorted(set(zip(every.start.tolist(), every.stop.tolist(), strict=True)))
    found = all_windows(corpus.document_starts, corpus.n_tokens, context)
    assert list(zip(found.start.tolist(), found.stop.tolist(), strict=True)) == wanted
    assert found.token_index.tolist() == found.start.tolist()
    assert len(found) == count_windows(corpus.document_starts, corpus.n_tokens, context)
    assert int((found.stop - found.start).sum()) == corpus.n_tokens
    assert found.start[1:].tolist() == found.stop[:-1].tolist()


class TwoWindows:
    """A document of nearly all tokens and one of a single token."""

    n_tokens = 1 << 40
    slots = None

    def document_bounds(self, token_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        last = token_index == self.n_tokens - 1
        return np.where(last, self.n_tokens - 1, 0), np.where(last, self.n_tokens, self.n_tokens - 1)


def test_windows_that_are_hardly_ever_drawn_are_not_waited_for() -> None:
    [(_, start, stop)] = rows_of(draw_distinct_windows(TwoWindows(), 1, 1 << 40, 3))
    assert (start, stop) == (0, (1 << 40) - 1)
    with pytest.raises(UsageError, match=r"2 different windows are nearly all .* or for all of them"):
        draw_distinct_windows(TwoWindows(), 2, 1 << 40, 3)


def test_chunks_of_the_stream_are_the_stream() -> None:
    whole = uniform_indices(1000, 3 * 2**61, 7)  # a quarter of the raw numbers is rejected
    for size in (1, 7, 64):
        chunks = itertools.islice(uniform_chunks(size, 3 * 2**61, 7), 1000 // size)
        assert np.concatenate(list(chunks)).tolist() == whole[: 1000 // size * size].tolist()
