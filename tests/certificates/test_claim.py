"""The sentence of a certificate says what it has to say, and never more than the fields."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.certificates.claim import claim_sentence, rounded_down, rounded_up


@pytest.mark.parametrize(
    ("metric", "quantity"),
    [("bpd", "expected smoothed next-token loss"), ("top10", "expected top-10 next-token error rate")],
)
def test_sentence_names_what_is_bounded_and_on_what(run: Any, metric: str, quantity: str) -> None:
    certificate = run.certificates[metric]
    claim, temperature = certificate.fields["claim"], certificate.fields["method"].get("temperature")
    quantity += f" (at temperature {temperature:.6g})" if temperature not in (None, 1.0) else ""
    for part in (
        "With probability at least 0.95 (all metrics of the corpus together)",
        "over the corpus and the draws of this one run",
        f"the {quantity} of 'invented/model' (weights {certificate.fields['complexity']['sha256'][:12]})",
        "on the contexts of corpus local (200,000 tokens)",
        "each next token resampled given all tokens before it",
        f"is at most {rounded_up(claim['bound'])}",
        f"a uniform guess reaches {rounded_down(claim['vacuous_at'])}",
        "which may be training data of the model or not; nothing is said of contexts that are not in it",
        "Not charged, as part of the reference machine: the tokenizer, and the code of the network and of the decoder",
    ):
        assert part in certificate.claim
    assert ("bits per token" in certificate.claim) == (metric == "bpd")
    assert ("This is vacuous" in certificate.claim) == claim["vacuous"]


def test_what_a_claim_rests_on_is_said(run: Any) -> None:
    fields = copy.deepcopy(run.certificates["bpd"].fields)
    assert "fixed before" not in claim_sentence(fields)
    fields["corpus"]["identified_by"] = "probes"
    assert "The corpus is identified by its length and by stretches of it" in claim_sentence(fields)
    fields["model"]["code"] = "custom: my_code (sha256 00)"
    assert "The network's code is not that of the library transformers" in claim_sentence(fields)


@pytest.mark.parametrize(("temperature", "words"), [(1.0, "loss of"), (1.5, "loss (at temperature 1.5) of")])
def test_sentence_names_a_temperature_that_is_not_one(run: Any, temperature: float, words: str) -> None:
    fields = dict(run.certificates["bpd"].fields)
    fields["method"] = {**fields["method"], "temperature": temperature}
    assert words in claim_sentence(fields)


def test_vacuity_is_said(fabricated: Callable[..., Any]) -> None:
    certificate = fabricated(n_windows=2).certificates["top1"]
    assert certificate.vacuous
    assert "This is vacuous: a uniform guess reaches 0.996108" in certificate.claim


def test_one_metric_alone_is_not_said_to_be_a_family(fabricated: Callable[..., Any]) -> None:
    certificate = fabricated(family_wise=False, failure_prob=0.1).certificates["bpd"]
    assert certificate.claim.startswith("With probability at least 0.9 over the corpus and the draws")


def test_shared_draws_are_said_to_be_shared(fabricated: Callable[..., Any]) -> None:
    claim = fabricated(shared_draws=5).certificates["bpd"].claim
    assert "the draws of up to 5 runs, fixed before the first of them, on the same draws, the expected" in claim


@pytest.mark.parametrize(
    ("failure_prob", "said"),
    [(0.05, "0.95 "), (1e-7, "0.9999999 "), (1 / 3, "0.6666666666666667 "), (1e-30, "1 - 1e-30 ")],
)
def test_a_small_failure_probability_is_not_rounded_away(run: Any, failure_prob: float, said: str) -> None:
    fields = run.certificates["bpd"].fields
    settings = {**fields["settings"], "failure_prob": failure_prob, "family_wise": False}
    assert claim_sentence({**fields, "settings": settings}).startswith(f"With probability at least {said}")


@settings(deadline=None)
@given(st.floats(min_value=-1e12, max_value=1e12))
def test_rounding_is_against_ourselves_and_to_six_digits(value: float) -> None:
    up, down = Decimal(rounded_up(value)), Decimal(rounded_down(value))
    assert down <= Decimal(value) <= up
    assert up - down <= abs(Decimal(value)) * Decimal("1.0001e-5")
    assert "E" not in rounded_up(value)
