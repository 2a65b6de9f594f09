"""Bits as named terms, universal codes for integers and exact adaptive code lengths."""

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.codelength.charges import (
    ARTIFACT,
    DECLARED,
    PRIOR_BITS,
    PRIOR_ITEM,
    EvaluationSettings,
    length_prefix,
    settings_ledger,
)
from lm_bounds.codelength.integers import elias_delta_bits, paper_prefix_bits
from lm_bounds.codelength.ledger import CodeLength, LedgerItem, Prior, total_bits

__all__ = [
    "ARTIFACT",
    "DECLARED",
    "PRIOR_BITS",
    "PRIOR_ITEM",
    "CodeLength",
    "EvaluationSettings",
    "LedgerItem",
    "Prior",
    "adaptive_bits",
    "elias_delta_bits",
    "length_prefix",
    "paper_prefix_bits",
    "settings_ledger",
    "total_bits",
]
