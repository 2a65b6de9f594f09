"""Expressions and their sequences, against twins in plain Python."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora.expressions import (
    Grammar,
    distinct_integers,
    grammar_from_dict,
    new_sequences,
    numbers_of_an_expression,
    random_sequences,
)
from lm_bounds.errors import CorpusError

PAPER = Grammar(constants=(3, 4))
Sequence = tuple[int, ...]


def applied(grammar: Grammar, operator: str, left: Sequence, right: Sequence) -> Sequence:
    def of_two(a: int, b: int) -> int:
        if operator == "//":
            return grammar.division_by_zero if b == 0 else a // b
        return a + b if operator == "+" else a * b

    return tuple(of_two(a, b) for a, b in zip(left, right, strict=True))


def slow_levels(grammar: Grammar) -> list[set[Sequence]]:
    index = tuple(range(grammar.start, grammar.start + grammar.terms))
    levels = [{index, *((constant,) * grammar.terms for constant in grammar.constants)}]
    for n_operators in range(1, grammar.max_operators + 1):
        known = set().union(*levels)
        levels.append(
            {
                value
                for left in range(n_operators)
                for a, b in itertools.product(levels[left], levels[n_operators - 1 - left])
                for operator in grammar.operators
                if (value := applied(grammar, operator, a, b)) not in known
            }
        )
    return levels


def test_three_operators_give_984_sequences_and_all_up_to_three_1373_integers() -> None:
    assert [len(found) for found in new_sequences(PAPER)] == [3, 19, 121, 984]
    values = distinct_integers(PAPER)
    assert len(values) == 1373
    assert values[-1] == 707_281
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"division_by_zero": 1},
        {"start": 1, "terms": 7, "max_operators": 2},
        {"operators": ("//", "*"), "terms": 5},
        {"constants": (), "max_operators": 2},
        {"constants": (0, 1, 2), "max_operators": 2, "terms": 4},
    ],
    ids=str,
)
def test_enumeration_is_that_of_plain_python(changes: dict[str, Any]) -> None:
    grammar = dataclasses.replace(PAPER, **changes)
    for found, wanted in zip(new_sequences(grammar), slow_levels(grammar), strict=True):
        rows = [tuple(row) for row in found.tolist()]
        assert len(rows) == len(set(rows))
        assert set(rows) == wanted


def test_what_does_not_count_has_no_integers() -> None:
    limited = dataclasses.replace(PAPER, largest=100, min_operators=2)
    wanted = {v for level in slow_levels(limited)[2:] for row in level if max(row) <= 100 for v in row}
    assert distinct_integers(limited).tolist() == sorted(wanted)


def test_constant_sequences_and_large_values_do_not_count() -> None:
    values = np.array([[1, 1, 1], [1, 2, 3], [1, 2, 99], [99, 99, 99]])
    assert Grammar((3,), terms=3).counts(values).all()
    assert Grammar((3,), terms=3, largest=98).counts(values).tolist() == [True, True, False, False]
    assert Grammar((3,), terms=3, largest=99, constant_sequences=False).counts(values).tolist() == [
        False,
        True,
        True,
        False,
    ]


def slow_expression(grammar: Grammar, numbers: list[int]) -> Sequence:
    """The expression that the numbers spell, read as the docstring of ``random_sequences`` says."""

    def grow(n_operators: int, node: int) -> Sequence:
        number = numbers[node]
        if n_operators == 0:
            if number % 2 == 1 and grammar.constants:
                return (grammar.constants[number // 2 % len(grammar.constants)],) * grammar.terms
            return tuple(range(grammar.start, grammar.start + grammar.terms))
        operator = grammar.operators[number % len(grammar.operators)]
        to_left = number // len(grammar.operators) % n_operators
        left, right = grow(to_left, 2 * node), grow(n_operators - 1 - to_left, 2 * node + 1)
        return applied(grammar, operator, left, right)

    choices = grammar.max_operators - grammar.min_operators + 1
    return grow(grammar.min_operators + numbers[0] % choices, 1)


GRAMMARS = [
    PAPER,
    Grammar(tuple(range(100)), min_operators=1, largest=9999, constant_sequences=False),
    Grammar((), max_operators=0, terms=3),
    Grammar((5,), operators=("//",), division_by_zero=7, start=2, terms=4, max_operators=5),
]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), grammar=st.sampled_from(GRAMMARS))
def test_random_sequences_are_those_of_the_expressions_that_the_numbers_spell(data: Any, grammar: Grammar) -> None:
    n_numbers, n_values = numbers_of_an_expression(grammar)
    row = st.lists(st.integers(0, n_values - 1), min_size=n_numbers, max_size=n_numbers)
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    found = random_sequences(grammar, np.array(rows, dtype=np.int64))
    assert [tuple(values) for values in found.tolist()] == [slow_expression(grammar, numbers) for numbers in rows]


def test_every_choice_is_exactly_uniform() -> None:
    """All numbers of a small grammar, each once: the shares are exactly those that the docstring states."""
    grammar = Grammar((9,), operators=("+", "*"), terms=1, start=5, max_operators=1)
    n_numbers, n_values = numbers_of_an_expression(grammar)
    assert (n_numbers, n_values) == (4, 8)
    rows = np.array(list(itertools.product(range(n_values), repeat=n_numbers)))
    values, counts = np.unique(random_sequences(grammar, rows)[:, 0], return_counts=True)
    shares = {int(value): Fraction(int(count), len(rows)) for value, count in zip(values, counts, strict=True)}
    leaf, inner = Fraction(1, 4), Fraction(1, 16)
    assert shares == {
        5: leaf,
        9: leaf,
        10: inner,  # 5 + 5, one operator of two, two leaves of two
        14: 2 * inner,
        18: inner,
        25: inner,
        45: 2 * inner,
        81: inner,
    }


def test_grammar_round_trip() -> None:
    for grammar in GRAMMARS:
        assert grammar_from_dict(grammar.to_dict()) == grammar
    assert GRAMMARS[1].to_dict()["constants"] == {"first": 0, "last": 99}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'constants' is missing"),
        ({"constants": 3}, "constants must be a list"),
        ({"constants": [3, 3]}, "once each"),
        ({"constants": [-1]}, "at least 0"),
        ({"constants": [True]}, "whole number"),
        ({"constants": [1.0]}, "whole number"),
        ({"constants": {"first": 1}}, "a first and a last"),
        ({"constants": {"first": 5, "last": 4}}, "run from 0"),
        ({"constants": {"first": 0, "last": 10**9}}, "run from 0"),
        ({"constants": [3], "operators": []}, "operators must be"),
        ({"constants": [3], "operators": ["-"]}, "operators must be"),
        ({"constants": [3], "operators": ["+", "+"]}, "operators must be"),
        ({"constants": [3], "terms": 0}, "terms must be"),
        ({"constants": [3], "start": None}, "start must be"),
        ({"constants": [3], "min_operators": 4}, "max_operators must be a whole number of at least 4"),
        ({"constants": [3], "largest": -1}, "largest must be"),
        ({"constants": [10**6], "max_operators": 3}, "64 bits"),
        ({"constants": [3], "operatos": ["+"]}, "unknown field 'operatos'"),
    ],
)
def test_malformed_grammars(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        grammar_from_dict(fields)
