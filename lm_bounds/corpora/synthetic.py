"""Corpora that are never stored: rows of integer sequences, each made from a seed and its own number alone.

A row is a fixed number of tokens: sequences of integers one after another, each a document of its own, the last one cut
at the row's end. So token t lies in row t // row_tokens, and a corpus of 10^12 tokens costs nothing until it is drawn
from.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lm_bounds.corpora.expressions import Grammar, grammar_from_dict
from lm_bounds.corpora.integer_processes import Process, RandomProcess, StructuredProcess
from lm_bounds.corpora.number_text import number_tokens
from lm_bounds.corpora.protocol import CountedTokens, UnlistedDocuments, check_token_indices
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import stream_seed

_KEPT_ROWS = 1 << 15
_HASHED_ROWS = 4

Row = tuple["np.ndarray[Any, np.dtype[np.uint16]]", IntArray]  # tokens, starts of the documents


_PROCESSES: dict[str, type[StructuredProcess] | type[RandomProcess]] = {
    "structured": StructuredProcess,
    "random": RandomProcess,
}
_COUNTS = ("tokens", "row_tokens")


@dataclass(frozen=True)
class SyntheticParameters:
    """What a synthetic corpus is a function of.

    Args:
        process: ``structured`` or ``random``.
        tokens: m, a multiple of ``row_tokens``.
        row_tokens: tokens of a row.
        seed: of all rows, >= 0.
        grammar: of the expressions.
    """

    process: str
    tokens: int
    row_tokens: int
    seed: int
    grammar: Grammar

    def to_json(self) -> str:
        """The parameters as canonical JSON."""
        values = {"process": self.process, "tokens": self.tokens, "row_tokens": self.row_tokens, "seed": self.seed}
        return json.dumps({**values, "grammar": self.grammar.to_dict()}, sort_keys=True, separators=(",", ":"))

    def make_process(self) -> StructuredProcess | RandomProcess:
        """The process that makes its rows."""
        return _PROCESSES[self.process](self.grammar)


def synthetic_parameters(process: str, given: Mapping[str, Any]) -> SyntheticParameters:
    """The parameters in a mapping with the keys ``tokens``, ``row_tokens``, ``seed`` and ``grammar``.

    Raises:
        CorpusError: a key is unknown, missing or malformed.
    """
    wanted = (*_COUNTS, "seed", "grammar")
    for name in given:
        if name not in wanted:
            raise CorpusError(f"corpus {process}: unknown parameter {name!r}; use {', '.join(wanted)}")
    for name in wanted:
        if name not in given:
            raise CorpusError(f"corpus {process}: the parameter {name!r} is missing")
    for name in (*_COUNTS, "seed"):
        if type(given[name]) is not int or given[name] < (name != "seed"):
            raise CorpusError(f"corpus {process}: {name} must be a whole number, given {given[name]!r}")
    if given["tokens"] % given["row_tokens"]:
        raise CorpusError(f"corpus {process}: tokens must be a multiple of row_tokens, {given['row_tokens']}")
    if not isinstance(given["grammar"], Mapping):
        raise CorpusError(f"corpus {process}: grammar must be a mapping, given {given['grammar']!r}")
    numbers = {name: given[name] for name in (*_COUNTS, "seed")}
    return SyntheticParameters(process, grammar=grammar_from_dict(given["grammar"]), **numbers)


@dataclass(frozen=True, eq=False)
class SyntheticCorpus(CountedTokens, UnlistedDocuments):
    """A token sequence that is made where it is read.

    Args:
        corpus_id: its id in the registry.
        parameters: what it is a function of.
        tokenizer_sha256: hash of the tokenizer of the language model, whose ids these are.
    """

    corpus_id: str
    parameters: SyntheticParameters
    tokenizer_sha256: str
    _rows: OrderedDict[int, Row] = field(default_factory=OrderedDict, repr=False)

    @property
    def source(self) -> str:
        """The parameters as JSON."""
        return self.parameters.to_json()

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        return self.parameters.tokens

    @property
    def identified_by(self) -> Literal["whole"]:
        """``sha256`` covers the parameters, which all tokens follow from."""
        return "whole"

    @property
    def end_of_text_id(self) -> None:
        """None: a document ends with the delimiter of its last integer, or with the row."""
        return None

    @cached_property
    def process(self) -> Process:
        """What makes the rows."""
        return self.parameters.make_process()

    def sha256(self) -> str:
        """Hash of the parameters and of the first rows, which a change of the code that makes them would move."""
        digest = hashlib.sha256(f"lm-bounds/synthetic/1 {self.source}\n".encode())
        n_rows = self.n_tokens // self.parameters.row_tokens
        for tokens, starts in self.rows(list(range(min(_HASHED_ROWS, n_rows)))):
            digest.update(tokens.astype("<u2").tobytes() + starts.astype("<i8").tobytes())
        return digest.hexdigest()

    def rows(self, numbers: list[int]) -> list[Row]:
        """The tokens of some rows, and where in the row each document starts.

        Args:
            numbers: of the rows.
        """
        missing = sorted({number for number in numbers if number not in self._rows})
        made = dict(zip(missing, self._make(missing), strict=True))
        found = [self._rows[number] if number in self._rows else made[number] for number in numbers]
        self._rows.update(made)
        while len(self._rows) > _KEPT_ROWS:
            self._rows.popitem(last=False)
        return found

    def _make(self, numbers: list[int]) -> list[Row]:
        n_tokens, terms = self.parameters.row_tokens, self.process.terms
        seeds = [stream_seed("corpus", self.parameters.process, self.parameters.seed, number) for number in numbers]
        made = []
        for values in self.process.integers(seeds, n_tokens):
            tokens, ends = number_tokens(values)
            starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[terms - 1 :: terms]])
            made.append((tokens[:n_tokens], starts[starts < n_tokens]))
        return made

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens ``start .. stop - 1``."""
        n = self.parameters.row_tokens
        if not 0 <= start < stop <= self.n_tokens:
            raise UsageError(f"tokens {start} to {stop - 1} were asked for, the corpus has {self.n_tokens}")
        first, last = start // n, (stop - 1) // n
        tokens = np.concatenate([tokens for tokens, _ in self.rows(list(range(first, last + 1)))])
        return tokens[start - first * n : stop - first * n].astype(np.int64)

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """The documents that hold these tokens, as ``[start, stop)``; see ``TokenCorpus.document_bounds``."""
        index = check_token_indices(token_index, self.n_tokens)
        row_tokens = self.parameters.row_tokens
        numbers, place = np.divmod(index.ravel(), row_tokens)
        start, stop = np.empty_like(place), np.empty_like(place)
        for first in range(0, len(numbers), _KEPT_ROWS):  # more rows than are kept are not made at once
            chunk = slice(first, first + _KEPT_ROWS)
            for at, (_, starts) in enumerate(self.rows(numbers[chunk].tolist()), start=first):
                following = int(np.searchsorted(starts, place[at], side="right"))
                start[at] = starts[following - 1]
                stop[at] = starts[following] if following < len(starts) else row_tokens
        base = numbers * row_tokens
        return (base + start).reshape(index.shape), (base + stop).reshape(index.shape)
