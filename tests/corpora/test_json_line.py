"""Lines of JSON are parsed alike from wherever they are parsed, and whatever the environment's limits are."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_bounds.corpora.json_line import MOST_NESTED, parse_line
from lm_bounds.errors import CorpusError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(VALUES)
def test_it_is_the_value_that_was_written(value: Any) -> None:
    assert parse_line(json.dumps(value)) == value


def nested(depth: int, inside: str = "1") -> str:
    return "[" * depth + inside + "]" * depth


def outcome(text: str) -> str:
    try:
        return repr(parse_line(text))
    except ValueError as error:
        return str(error)


def from_below(calls: int, function: Callable[[], str]) -> str:
    return function() if calls == 0 else from_below(calls - 1, function)


@pytest.mark.parametrize(
    "text",
    [
        nested(MOST_NESTED),
        nested(MOST_NESTED + 1),
        nested(950),
        nested(100_000),
        '{"a":' * 200 + "1" + "}" * 200,
        "[" * 100_000,
        json.dumps({"a": "[" * 500, "b": [[[]]] * 100}),
        json.dumps({"a": '\\"[' * 500}),
    ],
    ids=lambda text: text[:20],
)
def test_it_does_not_depend_on_how_deep_the_calls_are(text: str) -> None:
    here = outcome(text)
    assert from_below(sys.getrecursionlimit() // 2, lambda: outcome(text)) == here
    assert from_below(300, lambda: outcome(text)) == here


def test_brackets_are_nested_so_deep_and_no_deeper() -> None:
    assert parse_line(nested(MOST_NESTED)) is not None
    assert parse_line(json.dumps({"a": nested(500), "b": [1] * 500, "c": [[]] * 500}))["a"] == nested(500)
    for text in (nested(MOST_NESTED + 1), json.dumps({"a": 'x"y'})[:-1] + ',"b":' + nested(MOST_NESTED) + "}"):
        with pytest.raises(ValueError, match="more than 64 deep"):
            parse_line(text)


def test_calls_that_are_nested_too_deep_are_an_error_and_no_property_of_the_line() -> None:
    def at_the_end(function: Callable[[], str]) -> str:
        try:
            return at_the_end(function)
        except RecursionError:
            return function()

    with pytest.raises((CorpusError, RecursionError)):
        at_the_end(lambda: outcome(nested(MOST_NESTED)))


@pytest.mark.parametrize("limit", [0, 640])
def test_long_numbers_do_not_depend_on_the_limit_of_digits(limit: int) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        found = parse_line(json.dumps({"a": 1, "b": [-(10**19), 10**18]})[:-1] + ', "c": 1' + "0" * 5000 + "}")
    finally:
        sys.set_int_max_str_digits(before)
    assert found == {"a": 1, "b": [math.inf, 10**18], "c": math.inf}
