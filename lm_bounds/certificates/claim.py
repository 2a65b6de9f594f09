"""The sentence that a certificate claims, made from its fields alone."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

_UNITS = {"bpd": " bits per token"}
# What is said of a size that was not measured.
_SIZES = {
    "declared": (
        "The size of the weights is declared by the operator, {code_bits:,.0f} bits, and was not measured: the claim "
        "holds if a code that was fixed before the corpus gives them no more. "
    ),
    "artifact": (
        "The size of the weights is that of a file, {code_bits:,.0f} bits (sha256 {artifact_sha256:.12}), from which, "
        "as the operator declares, a program that was fixed before the corpus makes them. "
    ),
}
_CUSTOM = (
    "The network's code is not that of the library transformers: the claim holds if it was fixed before the corpus was "
    "seen. "
)
_PROBES = (
    "The corpus is identified by its length and by stretches of it: the claim holds if the rest was fixed before the "
    "draws as well. "
)
_ENCODED_AGAIN = (
    "The corpus is stored in the tokens of another tokenizer: what is bounded are those of the model's tokenizer, made "
    "from the same text. "
)
_BY_PLACES = (
    "The corpus is identified by the sizes of its files and by the places at which its tokens were counted: the claim "
    "holds if it was fixed before that, and if the places that were passed over when tokens were drawn hold none. "
)
_RELATIVE = (
    "The size of the weights is relative to those of {name} (weights {sha256:.12}): the claim holds if these were "
    "fixed before the corpus was seen. "
)
_TRAINING = {
    "yes": "on which the model was trained",
    "no": "on which the model was not trained",
    "unknown": "which may be training data of the model or not",
}


def claim_sentence(fields: Mapping[str, Any]) -> str:
    """What is bounded, by how much, on which corpus, at which failure probability, and what it does not say.

    The bound is rounded up to six digits and the uniform guess down: the sentence never claims more than the fields.

    Args:
        fields: of a certificate; ``claim`` without its sentence, ``complexity``, ``corpus``, ``method``, ``model``,
            ``settings``.
    """
    claim, corpus, model = fields["claim"], fields["corpus"], fields["model"]
    if claim["metric"] == "bpd":
        temperature = fields["method"].get("temperature", 1.0)
        tempered = "" if temperature == 1.0 else f" (at temperature {temperature:.6g})"
        quantity = f"expected smoothed next-token loss{tempered}"
    else:
        quantity = f"expected top-{claim['metric'][3:]} next-token error rate"
    verdict = "This is vacuous: " if claim["vacuous"] else "For comparison, "
    family = " (all metrics of the corpus together)" if fields["settings"]["family_wise"] else ""
    shared = fields["settings"]["shared_draws"]
    prior = fields["complexity"].get("prior")
    relative = "" if prior is None else _RELATIVE.format(name=repr(prior["name"]), sha256=prior["sha256"])
    size = relative + _SIZES.get(fields["complexity"]["source"], "").format(**fields["complexity"])
    if corpus.get("count") is not None:
        size += _BY_PLACES + _of_slots(fields["sample"], corpus)
    elif corpus.get("identified_by", "whole") != "whole":
        size += _PROBES
    size += "" if model["code"] == "transformers" else _CUSTOM
    runs = "this one run" if shared == 1 else f"up to {shared} runs, fixed before the first of them, on the same draws"
    return (
        f"With probability at least {_complement(fields['settings']['failure_prob'])}{family} over the corpus and the "
        f"draws of {runs}, the {quantity} of {model['name']!r} (weights {fields['complexity']['sha256'][:12]}) on the "
        f"contexts of corpus {corpus['id']} ({_tokens(corpus)}), each next token resampled given "
        f"all tokens before it, is at most {rounded_up(claim['bound'])}{_UNITS.get(claim['metric'], '')}. "
        f"{verdict}a uniform guess reaches {rounded_down(claim['vacuous_at'])}. The contexts are those of "
        f"the corpus, {_TRAINING[corpus['is_training_data']]}; nothing is said of contexts that are not in it. {size}"
        "Not charged, as part of the reference machine: the tokenizer, and the code of the network and of the decoder."
    )


def _tokens(corpus: Mapping[str, Any]) -> str:
    """How many tokens, and how that is known."""
    count, tokens = corpus.get("count"), f"{corpus['n_tokens']:,} tokens"
    if count is None:
        return tokens
    declared = "" if count["declared"] is None else f"of {count['declared']:,} that are declared, "
    return f"at least {tokens}, {declared}as estimated from {count['drawn']:,} places"


def _of_slots(sample: Mapping[str, Any], corpus: Mapping[str, Any]) -> str:
    """What is left out of the corpus, and where its tokens are from."""
    again = "" if corpus["reencoded_from"] is None else _ENCODED_AGAIN
    if not sample["void"] + corpus["count"]["void"]:
        return again
    return again + (
        f"Malformed rows, on which {sample['void']:,} of {sample['attempts']:,} draws fell, are no part of the corpus. "
    )


def rounded_up(value: float) -> str:
    """Six significant digits, never below the value.

    >>> rounded_up(8.123451), rounded_up(0.5)
    ('8.12346', '0.5')
    """
    return _six_digits(value, ROUND_CEILING)


def rounded_down(value: float) -> str:
    """Six significant digits, never above the value.

    >>> rounded_down(8.005624549193879)
    '8.00562'
    """
    return _six_digits(value, ROUND_FLOOR)


def _six_digits(value: float, rounding: str) -> str:
    rounded = Context(prec=6, rounding=rounding).create_decimal_from_float(value)
    return f"{rounded.normalize():f}"


def _complement(failure_prob: float) -> str:
    """1 - failure_prob, exactly: a rounded 1 would claim certainty."""
    if failure_prob < 1e-9:
        return f"1 - {failure_prob!r}"
    return f"{1 - Decimal(repr(failure_prob)):f}"
