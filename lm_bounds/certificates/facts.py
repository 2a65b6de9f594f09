"""What a certificate states besides its numbers: types, ranges, and fields that have to agree with each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lm_bounds.bounds import BEST, SMOOTHINGS, Method, TokenCount, counted_slots
from lm_bounds.certificates.evidence import Levels, Observations, context_rule
from lm_bounds.codelength import ARTIFACT, DECLARED, PRIOR_BITS, PRIOR_ITEM
from lm_bounds.settings import UNITS, Settings

# What no description of a hypothesis pays for.
REFERENCE_MACHINE = (
    "the tokenizer",
    "the code of the network's architecture and of this package",
    "the code of the decoder of the compressed weights",
)

_SHA256 = re.compile("[0-9a-f]{64}")
_WHOLE_NUMBERS = {
    "corpus": ("n_tokens", "n_metrics"),
    "model": ("vocab_size", "n_choices", "context", "batch_size"),
    "settings": ("windows", "shared_draws"),
    "sample": ("windows", "scored_tokens", "pilot"),
    "complexity": ("n_parameters", "n_tensors", "stored_bytes"),
}
_TEXTS = {
    "corpus": ("id", "source", "sha256", "tokenizer_sha256"),
    "model": ("name", "architecture", "code", "dtype", "backend", "device"),
    "complexity": ("sha256",),
}
_TRUTHS = {
    "claim": ("vacuous",),
    "model": ("default_prefix",),
    "settings": ("family_wise",),
    "sample": ("replacement",),
}


def type_failures(fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields that are not of their type.

    Args:
        fields: of a certificate.
    """
    for names, kind, what in (
        (_WHOLE_NUMBERS, int, "a whole number of at least 1"),
        (_TEXTS, str, "a text"),
        (_TRUTHS, bool, "true or false"),
    ):
        for part, members in names.items():
            for name in members:
                value = fields[part][name]
                if type(value) is not kind or (type(value) is int and value < 1):
                    yield f"{part}.{name} is not {what}"
    if fields["corpus"].get("identified_by", "whole") not in ("whole", "probes"):
        yield "corpus.identified_by is neither 'whole' nor 'probes'"
    if not _SHA256.fullmatch(str(fields["corpus"].get("reencoded_from") or "0" * 64)):
        yield "corpus.reencoded_from is not the hash of a tokenizer"
    n_documents = fields["corpus"]["n_documents"]
    if n_documents is not None and (type(n_documents) is not int or n_documents < 1):
        yield "corpus.n_documents is neither a whole number of at least 1 nor null"
    if not _SHA256.fullmatch(str(fields["sample"].get("extends", "0" * 64))):
        yield "sample.extends is not the digest of a certificate"
    if fields["corpus"]["is_training_data"] != "unknown":
        yield "corpus.is_training_data is not 'unknown', although nothing that is stored can tell"
    if type(fields["settings"]["draw_seed"]) is not int:
        yield "settings.draw_seed is not a whole number"


def method_failures(fields: Mapping[str, Any], method: Method) -> Iterator[str]:
    """A method that is not the one of the claim, or whose values are not those of its indices.

    Args:
        fields: of a certificate.
        method: made from its fields.
    """
    stated = fields["method"]
    if method.to_dict() != stated:
        yield "the method's values are not those that its grid indices stand for"
    if stated["metric"] != fields["claim"]["metric"]:
        yield "the method is of another metric than the claim"
    if stated["vocab_size"] != fields["model"]["vocab_size"]:
        yield "the method's vocab_size is not the model's"
    if fields["settings"]["method"] not in (method.name, BEST):
        yield "the settings name another method than was used"
    smoothing = "global" if stated.get("smoothing_slope_index") is None else "entropy"
    asked = fields["settings"]["smoothing"]
    if stated["metric"] == "bpd" and smoothing != (asked or smoothing):
        yield "the settings name another smoothing than was used"
    if asked is None and smoothing == "entropy" and fields["settings"]["method"] != BEST:
        yield "the settings name another smoothing than was used"
    offers_temperature = stated["metric"] == "bpd" and method.has_temperature
    if offers_temperature != (stated.get("temperature_index") is not None):
        yield "the choice of a temperature is not charged where there is one, or is charged where there is none"


def fact_failures(fields: Mapping[str, Any], observations: Observations) -> Iterator[str]:
    """Facts that contradict each other or the observations.

    Args:
        fields: of a certificate.
        observations: as they are stored.
    """
    corpus, model, settings, sample = (fields[name] for name in ("corpus", "model", "settings", "sample"))
    if fields["claim"]["corpus"] != corpus["id"]:
        yield "claim.corpus is not the corpus"
    if corpus["n_documents"] is not None and corpus["n_documents"] > corpus["n_tokens"]:
        yield "corpus.n_documents is above corpus.n_tokens"
    if len({name.partition("/")[0] for name in observations.sums}) > corpus["n_metrics"]:
        yield "corpus.n_metrics is smaller than the number of metrics that were observed"
    if model["n_choices"] > model["vocab_size"]:
        yield "model.n_choices is above model.vocab_size: there are more tokens than logits"
    if model["context_rule"] != context_rule(model["prefix_token_id"], model["context"]):
        yield "model.context_rule does not say what the model's fields say"
    if not 0.0 < settings["failure_prob"] < 1.0:
        yield "settings.failure_prob is not between 0 and 1"
    if settings.get("corpus") is not None:
        yield "settings.corpus is not null, although the corpus is said elsewhere"
    if settings["context"] not in (None, model["context"]):
        yield "settings.context is not the model's context"
    yield from _source_failures(fields["complexity"], settings)
    if settings["unit"] not in UNITS or settings["smoothing"] not in (None, *SMOOTHINGS):
        yield "settings.unit or settings.smoothing is none of those that there are"
    if sample["unit"] != settings["unit"] or sample["draw_seed"] != settings["draw_seed"]:
        yield "the sample's unit or draw_seed is not that of the settings"
    independent = Settings(method=settings["method"], upper=settings["upper"]).replacement
    if sample["replacement"] != (independent or corpus.get("count") is not None):
        yield "the sample's replacement is not that of the settings and the corpus"
    yield from _count_failures(corpus, settings)
    planned = Settings(windows=settings["windows"], pilot=settings["pilot"])
    if sample["windows"] > planned.windows or sample["pilot"] != planned.n_pilot:
        yield "the sample's windows or pilot are not those of the settings"
    if fields["complexity"]["reference_machine"] != list(REFERENCE_MACHINE):
        yield "complexity.reference_machine does not list what is not charged"


def _count_failures(corpus: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """A number of tokens that is not the one that follows from what was found of them."""
    stated, kind, n_tokens = corpus.get("count"), "exact", corpus["n_tokens"]
    if stated is not None:
        count, kind = TokenCount(**stated), "lower_bound"
        form = (count.per_token, count.row_tokens > 0, count.drawn)
        if form not in ((1, False, counted_slots(False)), (2, True, counted_slots(True))):
            yield "corpus.count is not of so many places as are drawn to count"
            return  # whatever follows from it could take any time
        if corpus.get("identified_by") != "probes" or corpus["n_documents"] is not None:
            yield "a corpus whose tokens were not counted is said to be known as a whole"
        n_tokens = count.at_least(Levels.of(settings, corpus["n_metrics"], stated).count)
    elif corpus.get("reencoded_from") is not None:
        yield "tokens that were made from others are said to have been counted"
    if corpus["n_tokens_kind"] != kind:
        yield f"corpus.n_tokens_kind is {corpus['n_tokens_kind']!r} where the number of tokens is {kind!r}"
    if not math.isclose(corpus["n_tokens"], n_tokens, rel_tol=1e-9, abs_tol=1.0):
        yield f"corpus.n_tokens is {corpus['n_tokens']:,} but {n_tokens:,} follow from what was found of them"


def _source_failures(complexity: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """Where the size of the weights comes from: what a user declares must not pass for what was measured."""
    name, source = complexity["compressor"]["name"], complexity["source"]
    declared, artifact = settings.get("code_bits"), settings.get("artifact")
    asked = Settings(compressor=settings["compressor"], code_bits=declared, artifact=artifact)
    if name != asked.coder:
        yield "the settings name another compressor than was used"
    if source != (name if name in (ARTIFACT, DECLARED) else "measured"):
        yield f"complexity.source is {source!r} where the size is that of {name!r}"
    if complexity["compressor"]["exact"] is not (source != DECLARED):
        yield "the size of the weights is an estimate, not the length of a code"
    if source == DECLARED and complexity["code_bits"] != declared:
        yield "complexity.code_bits is not what the settings declare"
    is_hashed = bool(_SHA256.fullmatch(str(complexity.get("artifact_sha256"))))
    if is_hashed is not (source == ARTIFACT) or (is_hashed and complexity["code_bits"] % 8):
        yield "an artifact has no sha256 or no whole number of bytes, or there is none"
    prior = complexity.get("prior")
    charged = [e["bits"] for e in complexity["ledger"] if (e["part"], e["item"]) == ("weights", PRIOR_ITEM)]
    if (settings.get("given") is not None, charged[:1] == [PRIOR_BITS]) != (prior is not None,) * 2:
        yield "the settings, the ledger and complexity.prior do not agree whether the size is relative to a model"
    if prior is not None and not (isinstance(prior["name"], str) and _SHA256.fullmatch(str(prior["sha256"]))):
        yield "complexity.prior has no name or no sha256"
