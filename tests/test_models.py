"""The models that come with the package: small, loadable, and certified as they are meant to be."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_bounds
from lm_bounds.certificates import Certificate, verify
from lm_bounds.corpora import corpus_spec, derived_facts
from lm_bounds.corpora.number_text import VOCABULARY
from lm_bounds.errors import UsageError
from lm_bounds.models import BUILT_IN_MODELS, built_in_model

LOG2_12 = math.log2(12)
Certified = Callable[..., dict[str, Certificate]]


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], tuple[Any, Any]]:
    @functools.cache
    def load(name: str) -> tuple[Any, Any]:
        path = built_in_model(name).path
        return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)

    return load


@pytest.fixture
def certified(loaded: Callable[[str], tuple[Any, Any]], tmp_path: Path) -> Certified:
    """``certified(model, corpus, windows=300, **settings)``: certificates by metric."""

    def run(model: str, corpus: str, windows: int = 300, **settings: Any) -> dict[str, Certificate]:
        network, tokenizer = loaded(model)
        found = lm_bounds.certify(
            network, tokenizer, corpus, batch_size=32, windows=windows, certificates=str(tmp_path), **settings
        )
        return {certificate.metric: certificate for certificate in found}

    return run


def test_all_together_are_below_a_megabyte() -> None:
    files = [path for model in BUILT_IN_MODELS.values() for path in model.path.rglob("*")]
    assert {path.name for path in files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize("name", BUILT_IN_MODELS)
def test_transformers_loads_them(name: str, loaded: Callable[[str], tuple[Any, Any]]) -> None:
    model, tokenizer = loaded(name)
    assert model.config.vocab_size == len(tokenizer) == 12
    assert tokenizer.get_vocab() == VOCABULARY
    corpus_spec(name)  # it is named after the corpus that it was trained on


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'structred': did you mean 'structured'"):
        built_in_model("structred")


def test_structured_sequences_are_certified_far_below_a_uniform_guess(certified: Certified) -> None:
    found = certified("structured", "structured")
    assert found["bpd"].bound < LOG2_12 / 3
    assert found["top1"].bound < (1 - 1 / 12) / 3
    assert "of 'a model in memory (made from lm_bounds/structured)' (weights " in found["bpd"].claim
    for certificate in found.values():
        verification = verify(certificate.path)
        assert verification.ok, verification.failures


def test_the_default_method_is_a_fifth_below_azuma_on_the_same_draws(certified: Certified) -> None:
    ours = certified("structured", "structured", windows=1000, shared_draws=2)["bpd"]
    azuma = certified("structured", "structured", windows=1000, shared_draws=2, method="azuma")["bpd"]
    assert ours.fields["sample"]["draws_sha256"] == azuma.fields["sample"]["draws_sha256"]
    assert ours.bound < 0.8 * azuma.bound


def test_the_structured_model_is_bad_on_random_integers(certified: Certified) -> None:
    random, structured = (certified("structured", corpus)["bpd"] for corpus in ("random", "structured"))
    assert random.bound > LOG2_12 / 2
    assert random.bound > 3 * structured.bound


def test_random_integers_are_certified_just_above_their_entropy_rate(certified: Certified) -> None:
    rate = derived_facts(corpus_spec("random"))["entropy_rate_in_bits_per_token"]
    found = certified("random", "random")["bpd"]
    assert rate < found.bound < 1.1 * rate
    assert found.fields["terms"]["risk"] > rate * 0.97  # 300 windows scatter around it
