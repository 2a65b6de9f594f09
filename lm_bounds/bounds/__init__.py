"""Numbers in, a bound out: concentration inequalities, upper confidence bounds, the pilot's choice, vacuity."""

from lm_bounds.bounds.azuma import Azuma, AzumaLambda, azuma_bound
from lm_bounds.bounds.freedman import Freedman, freedman_bound
from lm_bounds.bounds.kl_inf import KlInf
from lm_bounds.bounds.losses import (
    METRICS,
    PAPER_SMOOTHING_GRID,
    SMOOTHING_GRID,
    BitsPerDimension,
    EntropySmoothedBits,
    Loss,
    TopKError,
    make_loss,
    top_k,
)
from lm_bounds.bounds.methods import (
    BEST,
    METHODS,
    SMOOTHINGS,
    check_method,
    choose_method,
    method_class,
    method_from_dict,
)
from lm_bounds.bounds.paper import Paper, paper_bound
from lm_bounds.bounds.protocol import UPPER_BOUNDS, Bound, Method, Problem, certify, complexity_rate
from lm_bounds.bounds.statistics import (
    TEMPERATURE_GRID,
    UNIT_TEMPERATURE,
    Pilot,
    TokenStatistics,
    window_means,
    window_sums,
)
from lm_bounds.bounds.token_count import SHARE_GRID, TokenCount, counted_slots, mean_lower, proportion_upper
from lm_bounds.bounds.upper import (
    bernoulli_kl,
    bernstein_upper,
    chernoff_kl_upper,
    hoeffding_upper,
    kl_inf_upper,
    two_point_upper,
    without_replacement_upper,
)
from lm_bounds.bounds.vacuity import vacuous_at

__all__ = [
    "BEST",
    "METHODS",
    "METRICS",
    "PAPER_SMOOTHING_GRID",
    "SHARE_GRID",
    "SMOOTHINGS",
    "SMOOTHING_GRID",
    "TEMPERATURE_GRID",
    "UNIT_TEMPERATURE",
    "UPPER_BOUNDS",
    "Azuma",
    "AzumaLambda",
    "BitsPerDimension",
    "Bound",
    "EntropySmoothedBits",
    "Freedman",
    "KlInf",
    "Loss",
    "Method",
    "Paper",
    "Pilot",
    "Problem",
    "TokenCount",
    "TokenStatistics",
    "TopKError",
    "azuma_bound",
    "bernoulli_kl",
    "bernstein_upper",
    "certify",
    "check_method",
    "chernoff_kl_upper",
    "choose_method",
    "complexity_rate",
    "counted_slots",
    "freedman_bound",
    "hoeffding_upper",
    "kl_inf_upper",
    "make_loss",
    "mean_lower",
    "method_class",
    "method_from_dict",
    "paper_bound",
    "proportion_upper",
    "top_k",
    "two_point_upper",
    "vacuous_at",
    "window_means",
    "window_sums",
    "without_replacement_upper",
]
