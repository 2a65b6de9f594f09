"""Documents partition the token sequence."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import TokenCorpus
from lm_bounds.corpora.token_stream import find_document_starts
from lm_bounds.errors import CorpusError, UsageError


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8),
    end_of_text_id=st.sampled_from([None, 2, 70_000]),
    dtype=st.sampled_from([np.uint16, np.uint32]),
    chunk=st.integers(1, 4),
)
def test_document_starts_against_a_loop(
    parts: list[list[int]], end_of_text_id: int | None, dtype: Any, chunk: int
) -> None:
    tokens = [token for part in parts for token in part]
    source_starts = np.cumsum([0, *(len(part) for part in parts)])
    expected = [
        index
        for index in range(len(tokens))
        if index in source_starts or (index and tokens[index - 1] == end_of_text_id)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_bounds.corpora.token_stream.CHUNK_TOKENS", chunk)
        found = find_document_starts(np.array(tokens, dtype=dtype), source_starts, end_of_text_id)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_document_bounds_against_a_loop(sizes: list[int]) -> None:
    stops = np.cumsum(sizes)
    starts = stops - sizes
    corpus = TokenCorpus("local", "-", np.zeros(stops[-1], np.uint16), starts, "", None)
    index = np.arange(corpus.n_tokens)[::-1]
    start, stop = corpus.document_bounds(index)
    for position, token_index in enumerate(index):
        holder = next(d for d in range(len(sizes)) if starts[d] <= token_index < stops[d])
        assert (start[position], stop[position]) == (starts[holder], stops[holder])
    as_unsigned = corpus.document_bounds(index.astype(np.uint64))
    np.testing.assert_array_equal(as_unsigned, (start, stop))


@pytest.mark.parametrize("index", [[-1], [4], [0.0], [True]])
def test_document_bounds_refuses_what_is_no_token(index: list[Any]) -> None:
    corpus = TokenCorpus("local", "-", np.zeros(4, np.uint32), np.array([0, 2]), "", None)
    with pytest.raises(UsageError, match="token indices must be"):
        corpus.document_bounds(np.array(index))


@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        (np.zeros(0, np.uint32), np.array([0])),
        (np.zeros(3, np.int64), np.array([0])),
        (np.zeros((3, 1), np.uint32), np.array([0])),
        (np.zeros(3, np.uint32), np.array([], np.int64)),
        (np.zeros(3, np.uint32), np.array([1])),
        (np.zeros(3, np.uint32), np.array([0, 2, 2])),
        (np.zeros(3, np.uint32), np.array([0, 3])),
        (np.zeros(3, np.uint32), np.array([0, 1], np.int32)),
    ],
)
def test_a_corpus_must_be_partitioned(tokens: Any, starts: Any) -> None:
    with pytest.raises(CorpusError):
        TokenCorpus("local", "-", tokens, starts, "", None)


def test_sha256_covers_tokens_and_starts_not_the_integer_type() -> None:
    def digest(tokens: list[int], starts: list[int], dtype: Any = np.uint32) -> str:
        return TokenCorpus("local", "-", np.array(tokens, dtype), np.array(starts), "", None).sha256()

    reference = digest([1, 2, 3], [0, 1])
    expected = hashlib.sha256(b"lm-bounds/tokens/1 3 2\n" + struct.pack("<3I2q", 1, 2, 3, 0, 1))
    assert reference == expected.hexdigest()
    assert digest([1, 2, 3], [0, 1], np.uint16) == reference
    assert len({reference, digest([1, 2, 3], [0, 2]), digest([1, 2, 3], [0]), digest([1, 2, 4], [0, 1])}) == 4
