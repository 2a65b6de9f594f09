"""Random samples of token statistics and random methods that the tests of this folder share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import METHODS, METRICS, Method, TokenStatistics, method_class
from lm_bounds.bounds.freedman import N_CENTRES, STEP_GRID
from lm_bounds.bounds.freedman import N_SLOPES as N_CENTRE_SLOPES
from lm_bounds.bounds.kl_inf import N_MARGINS, N_SLOPES

Statistics = Callable[..., TokenStatistics]
AnyMethod = Callable[..., Method]


def random_statistics(
    rng: np.random.Generator, n_windows: int = 8, largest_window: int = 6, vocab_size: int = 512
) -> TokenStatistics:
    """Losses from none to far above log2 V, a few of them infinite; entropies from 0 to log2 V, both ends included."""
    sizes = rng.integers(1, largest_window + 1, n_windows)
    n, top = int(sizes.sum()), math.log2(vocab_size)
    log2_prob = -(rng.gamma(0.7, 4.0, n) * rng.choice([0.0, 1e-6, 1.0, 10.0], n, p=[0.1, 0.1, 0.7, 0.1]))
    log2_prob[rng.random(n) < 0.05] = -math.inf
    entropy = np.clip(rng.uniform(-0.2 * top, 1.2 * top, n), 0.0, top)
    rank = rng.integers(1, vocab_size + 1, n)
    rank[rng.random(n) < 0.6] = 1
    return TokenStatistics(log2_prob, rank, entropy, np.exp2(-entropy), sizes)


def realistic_statistics(n_windows: int, window_size: int, vocab_size: int = 32000, seed: int = 0) -> TokenStatistics:
    """H ~ Gamma of mean 2.5 and variance 3; loss given H ~ H Gamma of mean 1 and variance 0.65, in bits."""
    rng = np.random.default_rng(seed)
    n = n_windows * window_size
    entropy = np.minimum(rng.gamma(2.5**2 / 3, 3 / 2.5, n), math.log2(vocab_size))
    losses = entropy * rng.gamma(1 / 0.65, 0.65, n)
    rank = 1 + np.floor(np.exp2(np.minimum(losses, 40.0)) * rng.random(n) ** 2).astype(np.int64).clip(0, vocab_size - 1)
    return TokenStatistics(-losses, rank, entropy, np.exp2(-entropy / 2), np.full(n_windows, window_size))


def random_method(rng: np.random.Generator, name: str, metric: str, vocab_size: int, **fixed: Any) -> Method:
    """A method at uniformly drawn points of its grids; ``fixed`` parameters are as given."""
    cls = method_class(name)
    smoothing = int(rng.integers(len(getattr(cls, "smoothing_grid")))) if metric == "bpd" else None  # noqa: B009
    fields: dict[str, Any] = {
        "name": name,
        "metric": metric,
        "vocab_size": vocab_size,
        "smoothing_index": smoothing,
        "margin_index": int(rng.integers(N_MARGINS)),
        "slope_index": int(rng.integers({"kl_inf": N_SLOPES}.get(name, N_CENTRE_SLOPES))),
        "linearisation": float(rng.normal(0.0, 3.0)),
        "centre_index": int(rng.integers(N_CENTRES)),
        "step_index": int(rng.integers(len(STEP_GRID))),
        "sampling_ceiling": 1e30,
    }
    return cls.from_dict(fields | fixed)


@pytest.fixture(scope="session")
def statistics_of() -> Statistics:
    """``statistics_of(rng, n_windows, largest_window, vocab_size)``."""
    return random_statistics


@pytest.fixture(scope="session")
def realistic() -> Statistics:
    """``realistic(n_windows, window_size, vocab_size, seed)``."""
    return realistic_statistics


@pytest.fixture(scope="session")
def method_of() -> AnyMethod:
    """``method_of(rng, name, metric, vocab_size, **fixed)``."""
    return random_method


@pytest.fixture(params=list(METHODS))
def method_name(request: pytest.FixtureRequest) -> str:
    """Every method."""
    return str(request.param)


@pytest.fixture(params=METRICS[:3])
def metric(request: pytest.FixtureRequest) -> str:
    """bpd, top1 and top10."""
    return str(request.param)
