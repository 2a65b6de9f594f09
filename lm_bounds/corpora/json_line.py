"""One line of JSON, parsed by a rule of the line alone.

What Python's parser takes depends on how deep the calls are that lead to it, and on a limit of digits that the
environment sets. A line that is a row in one run and none in another would make two corpora of one file.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

from lm_bounds.errors import CorpusError

MOST_NESTED = 64
_MOST_DIGITS = 19
#: What is part of the rule by which lines are read.
JSON_RULE = {"nested": MOST_NESTED, "digits": _MOST_DIGITS}

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_LONG_NUMBER = re.compile(rf"\d{{{_MOST_DIGITS + 1}}}")


def _whole_number(literal: str) -> int | float:
    return int(literal) if len(literal.removeprefix("-")) <= _MOST_DIGITS else math.inf


_LONG_NUMBERS = json.JSONDecoder(parse_int=_whole_number)


def parse_line(text: str) -> Any:
    """What a line of JSON stands for; whole numbers of more than 19 digits become infinite.

    Raises:
        ValueError: it is broken, or nested more than ``MOST_NESTED`` deep; the reason is one line.
        CorpusError: the calls that lead here are nested too deep.

    >>> parse_line('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    if text.count("[") + text.count("{") > MOST_NESTED and _nesting(text) > MOST_NESTED:
        raise ValueError(f"brackets are nested more than {MOST_NESTED} deep")
    try:
        return _LONG_NUMBERS.decode(text) if _LONG_NUMBER.search(text) else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at character {error.pos} of the line: {error.msg}") from error
    except RecursionError as error:
        raise CorpusError("a line of JSON was read from calls that are nested too deep: read it from fewer") from error


def _nesting(text: str) -> int:
    """How deep brackets outside of strings are nested."""
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(_STRING.sub("", text)))
    return max(itertools.accumulate(steps), default=0)
