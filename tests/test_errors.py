"""Names that are near another one, and where the base of all errors is."""

from __future__ import annotations

import pytest

import lm_bounds
from lm_bounds import errors
from lm_bounds.errors import closest, nearest, printable

NAMES = ("arithmetic", "gzip", "Top1")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gzp", "gzip"), ("GZIP", "gzip"), ("top1", "Top1"), ("arith", "arithmetic"), ("xz", None), ("", None), (7, None)],
)
def test_the_nearest_name(name: object, meant: str | None) -> None:
    assert closest(name, NAMES) == meant
    expected = f": did you mean {meant!r}?" if meant else ": use one of arithmetic, gzip, Top1"
    assert nearest(name, NAMES) == nearest(name, iter(NAMES)) == expected


def test_how_near_a_name_has_to_be() -> None:
    assert closest("gz", NAMES) == "gzip"
    assert closest("gz", NAMES, 0.7) is None


def test_a_prefix_stays() -> None:
    assert nearest("gzp", NAMES, "own.") == ": did you mean 'own.gzip'?"
    assert nearest("xz", NAMES, "own.") == ": use one of arithmetic, gzip, Top1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        (" two\r\nlines\t", "two lines"),
        ("\x1b[31m\u202e\ud800\0", "?[31m???"),
        ("12345678", "12345678"),
        ("123456789", "12345678..."),
        ("", ""),
    ],
)
def test_what_others_wrote_is_quoted_in_one_line(text: str, shown: str) -> None:
    assert printable(text, 8 if text.isdigit() else None) == shown


def test_the_base_of_all_errors_is_at_the_top() -> None:
    assert lm_bounds.LmBoundsError is errors.LmBoundsError
    assert list(lm_bounds.__all__) == sorted(lm_bounds.__all__)
