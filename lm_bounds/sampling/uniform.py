"""Uniform numbers that can be drawn again years later, and the seeds of their streams.

Everything here is a function of (stream, parts, number of draws), so that a certificate can be redrawn years
later. Only numpy's raw Philox output is used: Philox is a published algorithm (Salmon et al., SC 2011), its
key is the seed itself, and numpy keeps raw streams fixed, which it does not promise for
``Generator.integers``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from lm_bounds.errors import UsageError

IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

STREAMS = ("calibration", "pilot", "certify", "corpus")
_SEED_BITS = 128
_RAW_BITS = 64
LARGEST_RANGE = 1 << 63
LEAST_ROUND, _MOST_ROUNDS = 1 << 12, 1 << 8


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
    if not 1 <= n_tokens <= LARGEST_RANGE:
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


def rounds(n: int, n_tokens: int, seed: int) -> Iterator[IntArray]:
    """The stream of ``uniform_indices`` in as many draws as may be spent on ``n`` that differ."""
    return itertools.islice(uniform_chunks(max(n, LEAST_ROUND), n_tokens, seed), _MOST_ROUNDS)


def first_of_each(values: IntArray) -> IntArray:
    """Where each value comes up for the first time, in increasing order.

    >>> first_of_each(np.array([7, 5, 7, 6, 5])).tolist()
    [0, 1, 3]
    """
    return np.sort(np.unique(values, return_index=True)[1])
