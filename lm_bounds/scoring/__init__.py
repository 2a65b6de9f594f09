"""Token statistics from a language model."""

from lm_bounds.scoring.checks import check_model
from lm_bounds.scoring.hf import HFScorer, check_backend, make_scorer
from lm_bounds.scoring.logits import token_statistics, total_probability

__all__ = ["HFScorer", "check_backend", "check_model", "make_scorer", "token_statistics", "total_probability"]
