"""Which tokens are scored: uniform draws from a corpus, and the window of its document around each.

Everything here is a function of (stream, parts, number of tokens), so that a certificate can be redrawn years
later. Only numpy's raw Philox output is used: Philox is a published algorithm (Salmon et al., SC 2011), its
key is the seed itself, and numpy keeps raw streams fixed, which it does not promise for
``Generator.integers``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from lm_bounds.errors import UsageError

IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

STREAMS = ("calibration", "pilot", "certify", "corpus")
_SEED_BITS = 128
_RAW_BITS = 64
_MAX_TOKENS = 1 << 63
_LEAST_ROUND, _MOST_ROUNDS = 1 << 12, 1 << 8


class SampledCorpus(Protocol):
    """What sampling needs of a corpus."""

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        ...

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens."""
        ...


@dataclass(frozen=True, eq=False)
class Windows:
    """The tokens drawn and the window ``[start, stop)`` around each, in the order of the draws.

    Args:
        token_index: the tokens drawn. # shape: (n_draws,)
        start: index of each window's first token. # shape: (n_draws,)
        stop: index after each window's last token. # shape: (n_draws,)

    Raises:
        UsageError: not three int64 arrays of one shape with ``start <= token_index < stop``.
    """

    token_index: IntArray
    start: IntArray
    stop: IntArray

    def __post_init__(self) -> None:
        arrays = (self.token_index, self.start, self.stop)
        if any(values.dtype != np.int64 or values.shape != (len(self),) for values in arrays):
            raise UsageError("token_index, start and stop must be one-dimensional int64 arrays of one length")
        if (self.start > self.token_index).any() or (self.token_index >= self.stop).any():
            raise UsageError("every token drawn must lie in its window: start <= token_index < stop")

    def __len__(self) -> int:
        return int(self.token_index.size)


def stream_seed(stream: str, *parts: object) -> int:
    """Seed of one stream of draws, a 128-bit integer.

    ``seed`` is the first 128 bits of SHA-256 of the canonical JSON of
    ``["lm-bounds/draws/1", stream, parts]``, so other streams and parts with other JSON give unrelated draws.

    Args:
        stream: ``"calibration"``, ``"pilot"``, ``"certify"``, or ``"corpus"`` for corpora that are made from a seed.
        parts: whatever the draws must depend on; strings, numbers, None, lists and dicts of them.

    Raises:
        UsageError: the stream is unknown, or a part has no canonical JSON.

    >>> stream_seed("pilot", 1234) == stream_seed("certify", 1234)
    False
    """
    if stream not in STREAMS:
        raise UsageError(f"stream must be one of {', '.join(STREAMS)}, given {stream!r}")
    try:
        canonical = json.dumps(
            ["lm-bounds/draws/1", stream, parts],
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the parts of a seed must be finite JSON values: {error}") from error
    return int.from_bytes(hashlib.sha256(canonical.encode("ascii")).digest()[: _SEED_BITS // 8], "big")


def uniform_indices(n: int, n_tokens: int, seed: int) -> IntArray:
    """``n`` token indices, independent and exactly uniform on ``[0, n_tokens)``, with replacement.

    Raw 64-bit numbers ``r`` of Philox4x64-10 with key ``seed`` are kept where
    ``r < floor(2^64 / n_tokens) n_tokens`` and give ``r mod n_tokens``: every index has the same number of
    preimages, where a bare ``r mod n_tokens`` would favour the small ones. The first ``k`` of more draws are
    the ``k`` draws, so draws can be added later.

    Args:
        n: number of draws, >= 0.
        n_tokens: ``m``, in ``[1, 2^63]``.
        seed: in ``[0, 2^128)``, e.g. of ``stream_seed``.

    Returns:
        int64. # shape: (n,)

    Raises:
        UsageError: an argument is out of range.

    >>> uniform_indices(3, 1000, seed=7).tolist() == uniform_indices(5, 1000, seed=7)[:3].tolist()
    True
    """
    return next(uniform_chunks(n, n_tokens, seed))


def uniform_chunks(size: int, n_tokens: int, seed: int) -> Iterator[IntArray]:
    """The stream of ``uniform_indices`` without an end, ``size`` draws at a time.

    Args:
        size: draws of a chunk, >= 0.
        n_tokens, seed: as in ``uniform_indices``.

    Raises:
        UsageError: an argument is out of range.
    """
    # Python's own integers: 2^64 does not fit in numpy's.
    size, n_tokens, seed = operator.index(size), operator.index(n_tokens), operator.index(seed)
    if size < 0:
        raise UsageError(f"the number of draws must be at least 0, given {size}")
    if not 1 <= n_tokens <= _MAX_TOKENS:
        raise UsageError(f"n_tokens must be in [1, 2^63], given {n_tokens}")
    if not 0 <= seed < 1 << _SEED_BITS:
        raise UsageError(f"a seed must be in [0, 2^128), given {seed}")
    largest_kept = np.uint64((1 << _RAW_BITS) // n_tokens * n_tokens - 1)
    raw_stream = np.random.Philox(key=seed)
    while True:
        indices = np.empty(size, dtype=np.int64)
        n_drawn = 0
        while n_drawn < size:
            raw = raw_stream.random_raw(size - n_drawn)
            kept = raw[raw <= largest_kept] % np.uint64(n_tokens)
            indices[n_drawn : n_drawn + kept.size] = kept.astype(np.int64)
            n_drawn += kept.size
        yield indices


def fixed_windows(document_start: IntArray, document_stop: IntArray, token_index: IntArray, context: int) -> Windows:
    """The window of each token: its document is cut every ``context`` tokens from its start.

    ``start = document_start + context floor((token_index - document_start) / context)`` and
    ``stop = min(start + context, document_stop)``. The last window of a document is the shorter one: shifting
    it would let the windows tell where the document ends.

    Args:
        document_start: first token of the document of each draw. # shape: (n_draws,)
        document_stop: index after the last token of that document. # shape: (n_draws,)
        token_index: the tokens drawn. # shape: (n_draws,)
        context: scored tokens of a full window, >= 1.

    Raises:
        UsageError: ``context`` is below 1, or a token is not in its document.

    >>> windows = fixed_windows(np.array([10]), np.array([15]), np.array([14]), context=4)
    >>> windows.start.tolist(), windows.stop.tolist()
    ([14], [15])
    """
    if context < 1:
        raise UsageError(f"context must be at least 1 token, given {context}")
    if (document_start > token_index).any() or (token_index >= document_stop).any():
        raise UsageError("every token must lie in its document: document_start <= token_index < document_stop")
    # No window is longer than its document, and a stride of at most 2^63 - 1 keeps the arithmetic in int64.
    stride = min(context, _MAX_TOKENS - 1)
    start = document_start + (token_index - document_start) // stride * stride
    stop = start + np.minimum(stride, document_stop - start)
    return Windows(token_index, start, stop)


def rounds(n: int, n_tokens: int, seed: int) -> Iterator[IntArray]:
    """The stream of ``uniform_indices`` in as many draws as may be spent on ``n`` that differ."""
    return itertools.islice(uniform_chunks(max(n, _LEAST_ROUND), n_tokens, seed), _MOST_ROUNDS)


def first_of_each(values: IntArray) -> IntArray:
    """Where each value comes up for the first time, in increasing order.

    >>> first_of_each(np.array([7, 5, 7, 6, 5])).tolist()
    [0, 1, 3]
    """
    return np.sort(np.unique(values, return_index=True)[1])


def draw_windows(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` windows around tokens drawn uniformly and with replacement.

    A window comes up in proportion to its size, so the expectation of a window's mean loss is the mean loss
    of the corpus: ``sum_w (|w| / m) (1/|w|) sum_{i in w} l_i = (1/m) sum_i l_i``.

    Args:
        corpus: where the tokens are.
        n: number of draws, >= 0.
        context: scored tokens of a full window, >= 1.
        seed: in ``[0, 2^128)``, e.g. of ``stream_seed``.

    Raises:
        UsageError: an argument is out of range.
    """
    return windows_around(corpus, uniform_indices(n, corpus.n_tokens, seed), context)


def windows_around(corpus: SampledCorpus, token_index: IntArray, context: int) -> Windows:
    """The window of its document around each of some tokens of a corpus."""
    document_start, document_stop = corpus.document_bounds(token_index)
    return fixed_windows(document_start, document_stop, token_index, context)


def draw_distinct_windows(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` windows without replacement, each drawn in proportion to its size among those that are left.

    The tokens are those of ``draw_windows``; a token in a window that has been drawn before is passed over, which
    leaves the others in proportion. The first ``k`` of more draws are the ``k`` draws.

    Args:
        corpus: where the tokens are.
        n: number of windows, >= 0, fewer than the corpus has.
        context: scored tokens of a full window, >= 1.
        seed: in ``[0, 2^128)``, e.g. of ``stream_seed``.

    Raises:
        UsageError: an argument is out of range, or the windows that are left are hardly ever drawn.
    """
    return _distinct(corpus, n, context, seed, lambda drawn: drawn.start)


def draw_distinct_tokens(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` tokens without replacement, uniform; each window ends with its token.

    Args and errors as those of ``draw_distinct_windows``, with tokens for windows.
    """
    return ending_with_token(_distinct(corpus, n, context, seed, lambda drawn: drawn.token_index))


def _distinct(
    corpus: SampledCorpus, n: int, context: int, seed: int, identity: Callable[[Windows], IntArray]
) -> Windows:
    """The first ``n`` windows of the stream that are new, two of them the same where ``identity`` is."""
    kept, size = draw_windows(corpus, 0, context, seed), n
    for tokens in rounds(n, corpus.n_tokens, seed):
        while tokens.size:  # mostly the first n do: looking for the documents of more of them can be slow
            windows = joined_windows(kept, windows_around(corpus, tokens[:size], context))
            kept = chosen_windows(windows, first_of_each(identity(windows))[:n])
            if len(kept) == n:
                return kept
            tokens, size = tokens[size:], max(_LEAST_ROUND >> 4, 2 * (n - len(kept)))
    raise UsageError(
        f"{n} different windows are nearly all that the corpus has, and those that are left are hardly ever drawn: "
        "ask for fewer windows, or for all of them"
    )


def chosen_windows(windows: Windows, numbers: IntArray) -> Windows:
    """Some of the windows, by their numbers."""
    return Windows(windows.token_index[numbers], windows.start[numbers], windows.stop[numbers])


def joined_windows(one: Windows, other: Windows) -> Windows:
    """The windows of one and then those of the other."""
    parts = zip((one.token_index, one.start, one.stop), (other.token_index, other.start, other.stop), strict=True)
    return Windows(*(np.concatenate(pair) for pair in parts))


def ending_with_token(windows: Windows) -> Windows:
    """The same draws, each window cut behind its token."""
    return Windows(windows.token_index, windows.start, windows.token_index + 1)


def count_windows(document_starts: IntArray, n_tokens: int, context: int) -> int:
    """How many windows documents are cut into.

    >>> count_windows(np.array([0, 5]), 6, context=2)
    4
    """
    return int((-(-np.diff(document_starts, append=n_tokens) // context)).sum())


def all_windows(document_starts: IntArray, n_tokens: int, context: int) -> Windows:
    """Every window once, in the corpus' order; its first token stands for the draw.

    >>> all_windows(np.array([0, 5]), 6, context=2).start.tolist()
    [0, 2, 4, 5]
    """
    stops = np.append(document_starts[1:], n_tokens)
    counts = -(-(stops - document_starts) // context)
    document = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(document)) - (np.cumsum(counts) - counts)[document]
    start = document_starts[document] + place * context
    return Windows(start, start, np.minimum(start + context, stops[document]))


def draws_sha256(windows: Windows) -> str:
    """Hash of the draws and their windows, in their order."""
    digest = hashlib.sha256(f"lm-bounds/windows/1 {len(windows)}\n".encode())
    for values in (windows.token_index, windows.start, windows.stop):
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()
