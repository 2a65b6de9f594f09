"""The sentence that a certificate claims, made from its fields alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNITS = {"bpd": " bits per token"}


def claim_sentence(fields: Mapping[str, Any]) -> str:
    """What is bounded, by how much, on which corpus, at which failure probability, and what it does not say.

    Args:
        fields: of a certificate; ``claim`` without its sentence, ``corpus``, ``model`` and ``settings`` are read.
    """
    claim, corpus, model = fields["claim"], fields["corpus"], fields["model"]
    if claim["metric"] == "bpd":
        quantity = "expected smoothed next-token loss"
    else:
        quantity = f"expected top-{claim['metric'][3:]} next-token error rate"
    count = {"exact": "", "declared": "a declared ", "lower_bound": "at least "}[corpus["n_tokens_kind"]]
    verdict = "This is vacuous: " if claim["vacuous"] else "For comparison, "
    family = " (all metrics of the corpus together)" if fields["settings"]["family_wise"] else ""
    return (
        f"With probability at least {1 - fields['settings']['failure_prob']:.6g}{family}, the {quantity} of "
        f"{model['name']} on the contexts of corpus {corpus['id']} ({count}{corpus['n_tokens']:,} tokens), each next "
        f"token resampled given its context, is at most {claim['bound']:.6g}{_UNITS.get(claim['metric'], '')}. "
        f"{verdict}a uniform guess reaches {claim['vacuous_at']:.6g}. The contexts are those of the corpus; nothing is "
        "said of contexts that are not in it."
    )
