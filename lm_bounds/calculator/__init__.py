"""Bounds from numbers or losses that a user has: nothing is measured here, and nothing is verified."""

from lm_bounds.calculator.documents import DOCUMENT, DocumentProblem, document_bound
from lm_bounds.calculator.losses import RATES, LossProblem, LossSample, bound_from_losses, gap_table, read_losses
from lm_bounds.calculator.plan import PlannedCorpus, affordable_bits
from lm_bounds.calculator.summary import CALCULATED_METHODS, Summary, bound_from_summary

__all__ = [
    "CALCULATED_METHODS",
    "DOCUMENT",
    "RATES",
    "DocumentProblem",
    "LossProblem",
    "LossSample",
    "PlannedCorpus",
    "Summary",
    "affordable_bits",
    "bound_from_losses",
    "bound_from_summary",
    "document_bound",
    "gap_table",
    "read_losses",
]
