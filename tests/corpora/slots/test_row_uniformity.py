"""Every token of hostile rows is equally likely, and the naive samplers are caught by the same tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from lm_bounds.errors import UsageError
from lm_bounds.sampling import (
    draw_distinct_tokens,
    draw_distinct_windows,
    draw_windows,
    stream_seed,
    uniform_indices,
)

LEAST_P_VALUE = 1e-6
CONTEXT = 3
MALFORMED = [
    b"",
    b'{"ids": [1, 2, 3, 4, 5], "source": "one too few"}',
    b'{"ids": [1, 2, 3, 4, 5, 6, 7], "source": "one too many"}',
    b'{"ids": [1, 2, 3, s4, 5, 6], "source": "broken"}',
    b'{"ids": [1, 2, 3, 4, 5, 100000], "source": "no such id"}',
    b'{"ids": [1, 2, 3, 4, 5, 6], "source": "cut',
    b"\r",
    b"[]",
]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


def ids_of(generator: np.random.Generator, digits: int) -> list[int]:
    ids = generator.integers(10 ** (digits - 1), 10**digits, size=6).tolist()
    return [7 if generator.random() < 0.2 else each for each in ids]


def row(ids: list[int], source: str, wide: bool = True) -> bytes:
    spaces = (", ", ": ") if wide else (",", ":")
    listed = spaces[0].join(map(str, ids))
    return f'{{"ids"{spaces[1]}[{listed}]{spaces[0]}"source"{spaces[1]}"{source}"}}'.encode()


def shards_of(name: str) -> list[bytes]:
    generator = np.random.default_rng(5)
    short = [row(ids_of(generator, 1), "", wide=False) for _ in range(30)]
    long = [row(ids_of(generator, 5), "books" * 20) for _ in range(30)]
    if name == "lines of very different lengths":
        mixed = [each for pair in zip(short, long, strict=True) for each in pair]
        return [b"\n".join(mixed) + b"\n"]
    if name == "sources in separate shards":
        return [b"\n".join(short) + b"\n", b"\n".join(long) + b"\n", b"\n".join(short[:3]) + b"\n"]
    if name == "malformed rows":
        mixed = [each for number, one in enumerate(short[:20] + long[:20]) for each in (one, MALFORMED[number % 8])]
        return [b"\n".join(mixed[:25]) + b"\n", b"\n".join(mixed[25:])]
    assert name == "last lines without newline"
    return [b"\n".join(long[:2]), short[0], b"\n".join(short[1:20])]


NAMES = [
    "lines of very different lengths",
    "sources in separate shards",
    "malformed rows",
    "last lines without newline",
]


def p_values(written: Any, token: IntArray) -> list[float]:
    """Of some draws being uniform over (row, position), positions, and shards."""
    tokens = written.tokens
    assert set(token.tolist()) <= written.ids.keys()
    counts = np.bincount(np.searchsorted(tokens, token), minlength=tokens.size)
    position = np.arange(tokens.size) % 4  # 4 tokens a row
    shard = np.array([written.shard[each] for each in tokens.tolist()])
    found = [chisquare(counts).pvalue, chisquare(np.bincount(position, counts)).pvalue]
    if len(set(shard.tolist())) > 1:
        found.append(chisquare(np.bincount(shard, counts), np.bincount(shard) * (token.size / tokens.size)).pvalue)
    return [float(each) for each in found]


def rows_of(written: Any) -> IntArray:
    """The first token of every row."""
    return written.tokens[::4]


def line_of_a_uniform_byte(written: Any, n: int, seed: int) -> IntArray:
    """The tempting sampler: the line of a uniform byte, malformed ones passed over, and a uniform token of it."""
    generator = np.random.default_rng(seed)
    firsts, byte = rows_of(written), generator.integers(written.token.size, size=8 * n)
    line = np.array([cell.base for cell, _ in written.corpus.read_cells(np.arange(written.token.size))])[byte]
    line = line[np.isin(line, firsts)][:n]
    return line + generator.integers(4, size=n)


def shuffled_stream(written: Any, n: int, seed: int) -> IntArray:
    """The other one: rows of shards in random order through a buffer of 10 of them, and a uniform token of each."""
    generator = np.random.default_rng(seed)
    drawn: list[int] = []
    firsts = rows_of(written)
    of_shard = np.array([written.shard[each] for each in firsts.tolist()])
    while len(drawn) < n:  # many times, each from the start, the first 5 rows are taken
        stream = np.concatenate([firsts[of_shard == shard] for shard in generator.permutation(np.unique(of_shard))])
        buffer, rest = stream[:10].tolist(), iter(stream[10:].tolist())
        for _ in range(5):
            place = int(generator.integers(len(buffer)))
            drawn.append(buffer[place])
            buffer[place] = next(rest)
    return np.array(drawn[:n]) + generator.integers(4, size=n)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2])
def test_draws_are_uniform(write: Callable[..., Any], name: str, seed: int) -> None:
    written = write(shards_of(name))
    n = 100 * written.tokens.size
    drawn = draw_windows(written.corpus, n, CONTEXT, stream_seed("certify", seed))
    assert min(p_values(written, drawn.token_index)) > LEAST_P_VALUE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("naive", [line_of_a_uniform_byte, shuffled_stream])
def test_naive_samplers_are_caught(write: Callable[..., Any], name: str, naive: Callable[..., IntArray]) -> None:
    written = write(shards_of(name))
    n = 100 * written.tokens.size
    assert min(p_values(written, naive(written, n, seed=1))) < LEAST_P_VALUE


@pytest.mark.parametrize("name", NAMES)
def test_draws_windows_and_voids_are_those_of_every_byte(write: Callable[..., Any], name: str) -> None:
    """Slot after slot of the stream, looked up in a table of all bytes."""
    written, seed = write(shards_of(name)), stream_seed("certify", 3)
    drawn = draw_windows(written.corpus, 2_000, CONTEXT, seed)
    wanted, n_void = [], 0
    for number, slot in enumerate(uniform_indices(40_000, written.token.size, seed).tolist()):
        token = int(written.token[slot])
        n_void += token == -2
        if token < 0:
            continue
        start, stop = written.bounds[token]
        cut = next(each for each in range(start, stop, CONTEXT) if each <= token < each + CONTEXT)
        wanted.append((token, cut, min(cut + CONTEXT, stop), number, n_void))
    assert list(zip(*drawn.arrays().values(), strict=True)) == wanted[:2_000]
    for start, stop in zip(drawn.start.tolist(), drawn.stop.tolist(), strict=True):
        assert written.corpus.read(start, stop).tolist() == [written.ids[each] for each in range(start, stop)]


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_is_what_it_should_be(write: Callable[..., Any], name: str) -> None:
    written = write(shards_of(name))
    np.testing.assert_array_equal(written.corpus.tokens_at(np.arange(written.token.size)), written.token)
    assert (np.bincount(written.token[written.token >= 0])[written.tokens] == 2).all()  # slots of each token


def test_a_row_of_the_fewest_bytes_has_slots_for_its_tokens(write: Callable[..., Any]) -> None:
    written = write([b'{"ids":[1,2,3,4,5,6]}'])
    slots = np.arange(written.token.size)
    assert sorted(written.corpus.tokens_at(slots).tolist()) == sorted([0, 1, 2, 3] * 2 + [-1] * (slots.size - 8))


@pytest.mark.parametrize("draw", [draw_distinct_windows, draw_distinct_tokens])
def test_draws_without_replacement_are_refused(write: Callable[..., Any], draw: Callable[..., Any]) -> None:
    """They are drawn from the indices below the number of tokens, which here are those of the first rows alone."""
    written = write(shards_of("last lines without newline"), n_counted=64)
    with pytest.raises(UsageError, match="they are drawn with replacement only"):
        draw(written.corpus, 2, CONTEXT, stream_seed("certify", 1))
