"""Metadata keys: every value that is allowed, every one that is not, and keys that are nearly ours."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_bounds.errors import UsageError
from lm_bounds.settings import KEYS, Settings, check_unknown_keys, edit_distance, parse_settings

ALLOWED: list[tuple[str, Any, Any]] = [
    ("corpus_path", "book.txt", "book.txt"),
    ("corpus_path", 7, "7"),
    ("corpus", "tales", "tales"),
    ("windows", 1, 1),
    ("windows", 1e4, 10000),
    ("pilot", 2, 2),
    ("pilot", 64.0, 64),
    ("context", 1, 1),
    ("context", 2048, 2048),
    ("failure_prob", 0.01, 0.01),
    ("failure_prob", 1e-9, 1e-9),
    ("failure_prob", 0.999, 0.999),
    ("family_wise", True, True),
    ("family_wise", False, False),
    ("family_wise", "true", True),
    ("family_wise", "False", False),
    ("family_wise", 1, True),
    ("family_wise", 0, False),
    ("family_wise", "0", False),
    ("method", "azuma", "azuma"),
    ("smoothing", "global", "global"),
    ("smoothing", "entropy", "entropy"),
    ("unit", "window", "window"),
    ("unit", "token", "token"),
    *(("upper", name, name) for name in ("kl_inf", "hoeffding", "bernstein")),
    ("compressor", "gzip", "gzip"),
    ("given", "base/model@main", "base/model@main"),
    ("code_bits", 1, 1.0),
    ("code_bits", 1.5e9, 1.5e9),
    ("artifact", "model.bin", "model.bin"),
    ("draw_seed", 0, 0),
    ("draw_seed", 2**40, 2**40),
    ("shared_draws", 1, 1),
    ("shared_draws", 20, 20),
    ("certificates", "out", "out"),
]
REFUSED: list[tuple[str, Any, str]] = [
    ("corpus_path", "", "corpus_path must not be empty"),
    ("corpus", " ", "corpus must not be empty"),
    ("corpus_path", "  ", "corpus_path must not be empty"),
    ("windows", 0, "windows must be a whole number of at least 1, 0 was given"),
    ("windows", -5, "at least 1, -5 was given"),
    ("windows", 2.5, "whole number of at least 1, 2.5 was given"),
    ("windows", "many", "whole number of at least 1, 'many' was given"),
    ("windows", True, "whole number of at least 1, True was given"),
    ("windows", math.nan, "nan was given"),
    ("windows", math.inf, "inf was given"),
    ("windows", [3], r"\[3\] was given"),
    ("given", " ", "given must not be empty"),
    ("code_bits", 0.9, "code_bits must be a number of bits of at least 1, 0.9 was given"),
    ("code_bits", "1e6", "code_bits must be a number of bits of at least 1, '1e6' was given"),
    ("artifact", "", "artifact must not be empty"),
    ("pilot", 1, "pilot must be a whole number of at least 2, 1 was given"),
    ("context", 0, "context must be a whole number of at least 1, 0 was given"),
    ("failure_prob", 0, "failure_prob must be a probability between 0 and 1"),
    ("failure_prob", 1, "failure_prob must be a probability between 0 and 1"),
    ("failure_prob", 2, r"\(both excluded\), 2 was given"),
    ("failure_prob", -0.1, "-0.1 was given"),
    ("failure_prob", "0.05", "'0.05' was given"),
    ("failure_prob", math.nan, "nan was given"),
    ("failure_prob", False, "False was given"),
    ("family_wise", "maybe", "family_wise must be true or false, 'maybe' was given"),
    ("family_wise", 2, "family_wise must be true or false, 2 was given"),
    ("method", "", "method must not be empty"),
    ("smoothing", "entropi", "smoothing='entropi' is unknown: did you mean 'entropy'"),
    ("smoothing", "", "smoothing='' is unknown: use one of global, entropy"),
    ("unit", "tokens", "unit='tokens' is unknown: did you mean 'token'"),
    ("unit", 3, "unit=3 is unknown: use one of window, token"),
    ("upper", "hoefding", "upper='hoefding' is unknown: did you mean 'hoeffding'"),
    ("upper", "markov", "upper='markov' is unknown: use one of kl_inf, hoeffding, bernstein"),
    ("compressor", " ", "compressor must not be empty"),
    ("draw_seed", -1, "draw_seed must be a whole number of at least 0, -1 was given"),
    ("draw_seed", 0.5, "0.5 was given"),
    ("shared_draws", 0, "shared_draws must be a whole number of at least 1, 0 was given"),
    ("certificates", "", "certificates must not be empty"),
]


def test_every_key_is_tried_below() -> None:
    assert {key for key, *_ in ALLOWED} == {key for key, *_ in REFUSED} == set(KEYS)


@pytest.mark.parametrize("prefix", ["", "lm_bounds."])
@pytest.mark.parametrize(("key", "given_value", "meant"), ALLOWED)
def test_allowed_values(key: str, given_value: Any, meant: Any, prefix: str) -> None:
    found = parse_settings({prefix + key: given_value})
    assert getattr(found, key) == meant
    assert type(getattr(found, key)) is type(meant)
    assert found == dataclasses.replace(Settings(), **{key: meant})


@pytest.mark.parametrize("prefix", ["", "lm_bounds."])
@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_refused_values(key: str, value: Any, message: str, prefix: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_settings({prefix + key: value})


@pytest.mark.parametrize("key", KEYS)
def test_none_stands_for_the_default(key: str) -> None:
    assert parse_settings({key: None}) == Settings()


def test_defaults_are_those_that_are_documented() -> None:
    assert Settings().to_dict() == {
        "corpus_path": None,
        "corpus": None,
        "windows": 1000,
        "pilot": None,
        "context": None,
        "failure_prob": 0.05,
        "family_wise": True,
        "method": "kl_inf",
        "smoothing": None,
        "unit": "window",
        "upper": "kl_inf",
        "compressor": "arithmetic",
        "given": None,
        "code_bits": None,
        "artifact": None,
        "draw_seed": 1234,
        "shared_draws": 1,
        "certificates": None,
    }
    assert tuple(Settings().to_dict()) == KEYS


@pytest.mark.parametrize(("windows", "pilot", "n_pilot"), [(1, None, 64), (640, None, 64), (650, None, 65), (9, 2, 2)])
def test_the_pilot_is_a_tenth_of_the_windows_and_at_least_64(windows: int, pilot: int | None, n_pilot: int) -> None:
    assert Settings(windows=windows, pilot=pilot).n_pilot == n_pilot


@pytest.mark.parametrize(
    ("chosen", "replacement"),
    [
        ({}, False),
        ({"method": "best"}, False),
        ({"unit": "token"}, False),
        ({"shared_draws": 3}, False),
        ({"method": "paper"}, True),
        ({"upper": "hoeffding"}, True),
        ({"upper": "bernstein", "method": "best"}, True),
    ],
)
def test_only_bounds_for_independent_draws_draw_a_window_twice(chosen: dict[str, Any], replacement: bool) -> None:
    assert Settings(**chosen).replacement is replacement


def test_settings_are_json() -> None:
    found = parse_settings({"windows": 1e3, "family_wise": "0", "corpus_path": "a", "pilot": 9.0})
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_keys_of_others_are_left_alone() -> None:
    assert parse_settings({"pretrained": "gpt2", "version": 1.0, "max_seq_lengths": [1]}) == Settings()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lm_bounds.windws", "did you mean 'lm_bounds.windows'?"),
        ("lm_bounds.Method", "did you mean 'lm_bounds.method'?"),
        ("lm_bounds.pretrained", "use one of corpus_path, corpus, windows,"),
        ("lm_bounds.", "use one of corpus_path, corpus, windows,"),
    ],
)
def test_a_prefixed_key_that_does_not_exist_is_refused(key: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings({key: 5})
    assert str(caught.value).startswith(f"unknown metadata key {key!r}")
    assert hint in str(caught.value)


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_that_is_given_twice_is_refused(order: int) -> None:
    given_twice = [("windows", 5), ("lm_bounds.windows", 6)][::order]
    with pytest.raises(
        UsageError, match=r"^windows and lm_bounds\.windows were both given, with different values: pass one of them$"
    ):
        parse_settings(dict(given_twice))
    assert parse_settings({"windows": 5, "lm_bounds.windows": 5}).windows == 5


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("windws", "windows"),
        ("window", "windows"),
        ("wnidows", "windows"),
        ("Windows", "windows"),
        ("failure-prob", "failure_prob"),
        ("failureprob", "failure_prob"),
        ("failure_probs", "failure_prob"),
        ("famly_wise", "family_wise"),
        ("corpus_pth", "corpus_path"),
        ("metod", "method"),
        ("contxt", "context"),
        ("compresor", "compressor"),
        ("draws_seed", "draw_seed"),
        ("share_draws", "shared_draws"),
        ("pilots", "pilot"),
        ("certificate", "certificates"),
    ],
)
def test_a_key_that_is_nearly_ours_is_refused_with_the_right_name(key: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown metadata key '{key}': did you mean '{meant}'\\?$"):
        check_unknown_keys({"pretrained": "x", key: 1}, {"pretrained"})
    assert check_unknown_keys({key: 1}, {key}) == []  # a parameter of the model class may be called what it likes


def test_the_nearest_of_our_keys_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_bounds import settings

    monkeypatch.setitem(settings._PARSERS, "methods", settings._PARSERS["method"])
    with pytest.raises(UsageError, match="did you mean 'methods'"):
        check_unknown_keys({"methodss": 1}, ())


def test_other_unknown_keys_are_told_apart_from_known_ones() -> None:
    metadata = {"windows": 5, "lm_bounds.pilot": 9, "pretrained": "gpt2", "haystacks": 3, "config_source": "x"}
    assert check_unknown_keys(metadata, {"pretrained", "config_source"}) == ["haystacks"]
    assert check_unknown_keys({}, ()) == []


def distance_by_definition(left: str, right: str) -> int:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        changed = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(changed, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7), st.integers(0, 8))
def test_edit_distance_is_levenshteins(left: str, right: str, limit: int) -> None:
    assert edit_distance(left, right, limit) == min(distance_by_definition(left, right), limit + 1)


@given(st.sampled_from(KEYS), st.text("abdeiklnoprstw_", max_size=14))
def test_keys_are_refused_up_to_distance_two_and_no_further(key: str, other: str) -> None:
    nearest = min(distance_by_definition(other, name) for name in KEYS)
    if other in KEYS or nearest > 2:
        assert check_unknown_keys({other: 1}, ()) == ([] if other in KEYS else [other])
    else:
        with pytest.raises(UsageError):
            check_unknown_keys({other: 1}, ())
    assert check_unknown_keys({key: 1}, ()) == []
