"""Integer sequences of short expressions: which there are, and random ones (Goldblum et al. 2023, appendix B.6 here).

An expression is a binary tree whose leaves are the index i or a constant and whose inner nodes are +, * and //. Its
sequence is its value at i = start, start + 1, ...: ``(i + 3) * 2`` gives 6, 8, 10, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from lm_bounds.errors import CorpusError
from lm_bounds.sampling import IntArray

OPERATORS = ("+", "*", "//")
_LARGEST_INT64 = (1 << 63) - 1
_MOST_CONSTANTS = 1_000_000


@dataclass(frozen=True)
class Grammar:
    """Which expressions there are and which of their sequences count.

    Args:
        constants: the constants that a leaf may be, each once, >= 0.
        operators: those of an inner node, out of ``+``, ``*`` and ``//``, each once.
        division_by_zero: the value of ``x // 0``, >= 0.
        start: the first index, >= 0.
        terms: integers of a sequence, >= 1.
        min_operators: operators of the shortest expressions, >= 0.
        max_operators: operators of the longest expressions.
        largest: sequences with a larger value do not count; None where all do.
        constant_sequences: whether a sequence of one repeated integer counts.

    Raises:
        CorpusError: a field is not of its type or range, or a value could exceed 64 bits.
    """

    constants: tuple[int, ...]
    operators: tuple[str, ...] = OPERATORS
    division_by_zero: int = 0
    start: int = 0
    terms: int = 30
    min_operators: int = 0
    max_operators: int = 3
    largest: int | None = None
    constant_sequences: bool = True

    def __post_init__(self) -> None:
        for name, low in (
            ("division_by_zero", 0),
            ("start", 0),
            ("terms", 1),
            ("min_operators", 0),
            ("max_operators", self.min_operators),
        ):
            _check_whole(name, getattr(self, name), low)
        if self.largest is not None:
            _check_whole("largest", self.largest, 0)
        for constant in self.constants:
            _check_whole("every constant", constant, 0)
        if len(set(self.constants)) != len(self.constants):
            raise CorpusError("grammar: constants must be named once each")
        if not self.operators or set(self.operators) - set(OPERATORS) or len(set(self.operators)) < len(self.operators):
            raise CorpusError(f"grammar: operators must be out of {' '.join(OPERATORS)}, each once")
        leaf = max(self.start + self.terms - 1, self.division_by_zero, 2, *self.constants)
        if leaf ** (self.max_operators + 1) > _LARGEST_INT64:
            raise CorpusError(f"grammar: {self.max_operators} operators on values up to {leaf} can exceed 64 bits")

    @property
    def index(self) -> IntArray:
        """The values of the index; shape (terms,)."""
        return np.arange(self.start, self.start + self.terms, dtype=np.int64)

    def apply(self, operator: str, left: IntArray, right: IntArray) -> IntArray:
        """``left operator right``, element by element."""
        if operator == "+":
            return left + right
        if operator == "*":
            return left * right
        quotient = np.full(np.broadcast_shapes(left.shape, right.shape), self.division_by_zero, dtype=np.int64)
        return np.floor_divide(left, right, out=quotient, where=right != 0)

    def counts(self, values: IntArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which sequences count; ``values`` has the shape (sequences, terms)."""
        kept = np.ones(len(values), dtype=bool) if self.largest is None else values.max(axis=1) <= self.largest
        if not self.constant_sequences:
            kept &= (values != values[:, :1]).any(axis=1)
        return kept

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON types only; consecutive constants as their first and last."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        first, last = (self.constants[0], self.constants[-1]) if self.constants else (0, 0)
        if len(self.constants) > 2 and self.constants == tuple(range(first, last + 1)):
            values["constants"] = {"first": first, "last": last}
        return values


def _check_whole(name: str, value: object, low: int) -> None:
    if type(value) is not int or value < low:
        raise CorpusError(f"grammar: {name} must be a whole number of at least {low}, given {value!r}")


def grammar_from_dict(given: Mapping[str, Any]) -> Grammar:
    """The grammar with these fields, ``constants`` a list or ``{"first": 0, "last": 99}``, ``operators`` a list.

    Raises:
        CorpusError: a field is unknown, missing or malformed.

    >>> grammar_from_dict({"constants": {"first": 3, "last": 5}}).constants
    (3, 4, 5)
    """
    known = [field.name for field in fields(Grammar)]
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise CorpusError(f"grammar: unknown field {unknown[0]!r}; the fields are {', '.join(known)}")
    values = dict(given)
    run = values.get("constants")
    if isinstance(run, Mapping):
        if set(run) != {"first", "last"} or not all(type(value) is int for value in run.values()):
            raise CorpusError(f"grammar: constants must be a list or have a first and a last, given {dict(run)!r}")
        if not 0 <= run["first"] <= run["last"] < _MOST_CONSTANTS:
            raise CorpusError(f"grammar: constants must run from 0 or more to less than {_MOST_CONSTANTS:,}")
        values["constants"] = list(range(run["first"], run["last"] + 1))
    for name in ("constants", "operators"):
        if name in values and not isinstance(values[name], (list, tuple)):
            raise CorpusError(f"grammar: {name} must be a list, given {values[name]!r}")
        if name in values:
            values[name] = tuple(values[name])
    if "constants" not in values:
        raise CorpusError("grammar: the field 'constants' is missing")
    return Grammar(**values)


def new_sequences(grammar: Grammar) -> list[IntArray]:
    """All sequences of the grammar's expressions, each under the smallest number of operators that gives it.

    Returns:
        for k = 0, 1, ..., ``max_operators``: the sequences that k operators give and fewer do not.
            # shape of each: (sequences, terms)

    >>> [len(found) for found in new_sequences(Grammar(constants=(3, 4)))]
    [3, 19, 121, 984]
    """
    leaves = np.stack([grammar.index, *(np.full(grammar.terms, value) for value in grammar.constants)])
    levels = [np.unique(leaves, axis=0)]
    for n_operators in range(1, grammar.max_operators + 1):
        found = [
            grammar.apply(operator, levels[left][:, None], levels[n_operators - 1 - left][None]).reshape(
                -1, grammar.terms
            )
            for left in range(n_operators)
            for operator in grammar.operators
        ]
        known, known_at_first = np.concatenate(levels), sum(map(len, levels))
        _, first = np.unique(np.concatenate([known, *found]), axis=0, return_index=True)
        levels.append(np.concatenate(found)[np.sort(first[first >= known_at_first]) - known_at_first])
    return levels


def distinct_integers(grammar: Grammar) -> IntArray:
    """Every integer that occurs in a sequence of the grammar's expressions, increasing.

    >>> values = distinct_integers(Grammar(constants=(3, 4)))
    >>> len(values), int(values[-1])
    (1373, 707281)
    """
    found = np.concatenate(new_sequences(grammar)[grammar.min_operators :])
    return np.unique(found[grammar.counts(found)])


def numbers_of_an_expression(grammar: Grammar) -> tuple[int, int]:
    """How many uniform numbers an expression is made from, and how many values each of them has.

    One number for each node that a tree of ``max_operators`` operators can have, one for the number of operators. Each
    is read in mixed radix: how many of the remaining operators go left, which operator, index or constant, which
    constant.
    """
    splits = int(np.lcm.reduce(np.arange(1, grammar.max_operators + 2)))
    return 2 ** (grammar.max_operators + 1), splits * len(grammar.operators) * 2 * max(1, len(grammar.constants))


def random_sequences(grammar: Grammar, numbers: IntArray) -> IntArray:
    """The sequences of random expressions, those that do not count among them.

    The number of operators is uniform on ``min_operators .. max_operators``; of those that remain below a node with
    one, a uniform number goes to the left; a node's operator is uniform; a leaf is the index with probability 1/2,
    else a uniform constant.

    Args:
        grammar: of the expressions.
        numbers: independent and uniform, see ``numbers_of_an_expression``. # shape: (expressions, numbers of each)

    Returns:
        int64. # shape: (expressions, terms)
    """
    choices = grammar.max_operators - grammar.min_operators + 1
    operators_left = grammar.min_operators + numbers[:, 0] % choices
    return _grow(grammar, numbers, operators_left, node=1)


def _grow(grammar: Grammar, numbers: IntArray, n_operators: IntArray, node: int) -> IntArray:
    """Values of the subtrees at ``node`` (1 the root, 2k and 2k + 1 below k)."""
    values = np.empty((len(numbers), grammar.terms), dtype=np.int64)
    is_leaf = n_operators == 0
    if is_leaf.any():
        values[is_leaf] = _leaves(grammar, numbers[is_leaf, node])
    if not is_leaf.all():
        inner, remaining = numbers[~is_leaf], n_operators[~is_leaf] - 1
        number, chosen = np.divmod(inner[:, node], len(grammar.operators))
        to_left = number % (remaining + 1)
        left = _grow(grammar, inner, to_left, 2 * node)
        right = _grow(grammar, inner, remaining - to_left, 2 * node + 1)
        grown = np.empty_like(left)
        for position, operator in enumerate(grammar.operators):
            rows = chosen == position
            grown[rows] = grammar.apply(operator, left[rows], right[rows])
        values[~is_leaf] = grown
    return values


def _leaves(grammar: Grammar, numbers: IntArray) -> IntArray:
    number, is_constant = np.divmod(numbers, 2)
    values = np.broadcast_to(grammar.index, (len(numbers), grammar.terms)).copy()
    if grammar.constants:
        rows = is_constant == 1
        constants = np.asarray(grammar.constants, dtype=np.int64)
        values[rows] = constants[number[rows] % len(constants)][:, None]
    return values
