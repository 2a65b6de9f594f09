"""Processes that make integers from seeds: the sequences of random expressions, and independent random integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from lm_bounds.corpora.expressions import Grammar, distinct_integers, numbers_of_an_expression, random_sequences
from lm_bounds.corpora.number_text import number_tokens
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import uniform_indices

_EXPRESSIONS_AT_FIRST = 24
_MOST_EXPRESSIONS = 1 << 20


class Process(Protocol):
    """What makes the integers of a row."""

    @property
    def terms(self) -> int:
        """Integers of a document."""
        ...

    def integers(self, seeds: list[int], n_tokens: int) -> list[IntArray]:
        """For each seed, integers that are at least ``n_tokens`` tokens together, whole documents of them."""
        ...


@dataclass(frozen=True)
class StructuredProcess:
    """Independent documents, each the sequence of a random expression; those that do not count are drawn again.

    Args:
        grammar: of the expressions.
    """

    grammar: Grammar

    @property
    def terms(self) -> int:
        """Integers of a document."""
        return self.grammar.terms

    def integers(self, seeds: list[int], n_tokens: int) -> list[IntArray]:
        """For each seed, integers that are at least ``n_tokens`` tokens together, whole documents of them.

        Raises:
            CorpusError: when the grammar has (almost) no sequence that counts.
        """
        n_expressions, found = _EXPRESSIONS_AT_FIRST, dict.fromkeys(seeds, np.empty(0, dtype=np.int64))
        missing = list(found)
        n_numbers, n_values = numbers_of_an_expression(self.grammar)
        while missing:
            if n_expressions > _MOST_EXPRESSIONS:
                raise CorpusError(
                    "the grammar has too few sequences that count: allow a larger value or more operators"
                )
            # the first draws of a seed stay the first when more are drawn
            drawn = [uniform_indices(n_expressions * n_numbers, n_values, seed) for seed in missing]
            sequences = random_sequences(self.grammar, np.concatenate(drawn).reshape(-1, n_numbers))
            kept = self.grammar.counts(sequences).reshape(len(missing), -1)
            for row, seed in enumerate(missing):
                found[seed] = sequences[row * n_expressions : (row + 1) * n_expressions][kept[row]].ravel()
            missing = [seed for seed in missing if _n_tokens(found[seed]) < n_tokens]
            n_expressions *= 2
        return [found[seed] for seed in seeds]


@dataclass(frozen=True)
class RandomProcess:
    """Independent integers, uniform on those that occur in the sequences of a grammar.

    Args:
        grammar: whose integers are the alphabet; a document has as many terms.
    """

    grammar: Grammar

    @property
    def terms(self) -> int:
        """Integers of a document."""
        return self.grammar.terms

    @cached_property
    def alphabet(self) -> IntArray:
        """The integers, increasing."""
        return distinct_integers(self.grammar)

    def integers(self, seeds: list[int], n_tokens: int) -> list[IntArray]:
        """For each seed, integers that are at least ``n_tokens`` tokens together, whole documents of them."""
        # an integer is at least a digit and a delimiter
        n = self.terms * -(-n_tokens // (2 * self.terms))
        return [self.alphabet[uniform_indices(n, len(self.alphabet), seed)] for seed in seeds]

    def entropy_rate(self, row_tokens: int) -> float:
        """Expected conditional entropy of a token given all tokens before it, in bits per token, exactly.

            (1/T) sum_{t<T} P(an integer starts at t) sum_{j<T-t} h_j

        with T = row_tokens and h_j the entropy of an integer's token j given those before it (0 past its end). No
        model's expected loss per token is below it.

        >>> one_digit_of_ten = RandomProcess(Grammar(constants=(), max_operators=0, terms=10))
        >>> round(one_digit_of_ten.entropy_rate(1000), 12) == round(math.log2(10) / 2, 12)
        True
        """
        tokens, ends = number_tokens(self.alphabet)
        sizes = np.diff(ends, prepend=0)
        n, longest = len(sizes), int(sizes.max())
        table = np.full((n, longest), -1, dtype=np.int64)  # -1: past the end
        table[np.arange(longest) < sizes[:, None]] = tokens
        prefix_entropy = [0.0]  # H of the first j tokens
        for j in range(1, longest + 1):
            counts = np.unique(table[:, :j], axis=0, return_counts=True)[1]
            prefix_entropy.append(float(math.log2(n) - (counts * np.log2(counts)).sum() / n))
        share_of_size = np.bincount(sizes) / n
        starts = np.zeros(row_tokens)
        starts[0] = 1.0
        for t in range(1, row_tokens):
            back = np.arange(1, min(t, len(share_of_size) - 1) + 1)
            starts[t] = share_of_size[back] @ starts[t - back]
        within = np.minimum(row_tokens - np.arange(row_tokens), longest)
        return float(starts @ np.array(prefix_entropy)[within]) / row_tokens


def _n_tokens(values: IntArray) -> int:
    ends = number_tokens(values)[1]
    return int(ends[-1]) if len(ends) else 0
