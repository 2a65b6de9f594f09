"""Random samples of token statistics and random methods that the tests of this folder share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import METHODS, METRICS, TEMPERATURE_GRID, Method, Pilot, TokenStatistics, method_class
from lm_bounds.bounds.azuma import LAMBDA_GRID
from lm_bounds.bounds.freedman import N_CENTRES, STEP_GRID
from lm_bounds.bounds.freedman import N_SLOPES as N_CENTRE_SLOPES
from lm_bounds.bounds.kl_inf import N_MARGINS, N_SLOPES
from lm_bounds.bounds.losses import SMOOTHING_SLOPES

Statistics = Callable[..., TokenStatistics]
AnyMethod = Callable[..., Method]


GRIDS = {
    "smoothing_slope_index": 64,
    "temperature_index": 16,
    "margin_index": 65536,
    "slope_index": 256,
    "centre_index": 256,
    "step_index": 64,
    "lambda_index": 64,
}


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


def logit_pilot(logits: np.ndarray, targets: np.ndarray, window_sizes: np.ndarray) -> Pilot:
    """Statistics of p^(1/T), made a distribution again, at every temperature; logits of shape (tokens, V)."""
    rows, found = np.arange(len(targets)), {}
    rank = (logits >= logits[rows, targets][:, None]).sum(axis=1)
    for index, temperature in enumerate(TEMPERATURE_GRID):
        scaled = (logits - logits.max(axis=1, keepdims=True)) / temperature
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        entropy = np.clip(-(np.exp(log_p) * log_p).sum(axis=1) / math.log(2), 0.0, math.log2(logits.shape[1]))
        found[index] = TokenStatistics(
            log_p[rows, targets] / math.log(2), rank, entropy, np.exp(log_p.max(axis=1)), window_sizes
        )
    return Pilot(found)


def synthetic_logits(
    rng: np.random.Generator, n_tokens: int, vocab_size: int = 60, confidence: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and tokens drawn from their softmax; then the logits are multiplied by ``confidence``."""
    logits = rng.normal(0.0, rng.uniform(0.3, 4.0, (n_tokens, 1)), (n_tokens, vocab_size))
    targets = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return confidence * logits, targets


def random_method(rng: np.random.Generator, name: str, metric: str, vocab_size: int, **fixed: Any) -> Method:
    """A method at uniformly drawn points of its grids, ``fixed`` parameters as given; half of those that may depend on
    the entropy in their smoothing do."""
    cls = method_class(name)
    smoothing = int(rng.integers(len(getattr(cls, "smoothing_grid")))) if metric == "bpd" else None  # noqa: B009
    slope = {"smoothing_slope_index": int(rng.integers(len(SMOOTHING_SLOPES)))}
    by_entropy = metric == "bpd" and "entropy" in cls.smoothings and rng.random() < 0.5
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
        "lambda_index": int(rng.integers(len(LAMBDA_GRID))),
        "sampling_ceiling": 1e30,
    }
    given = fields | (slope if by_entropy else {}) | fixed
    return cls.from_dict(
        {name: value for name, value in given.items() if value is not None or name == "smoothing_index"}
    )


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


@pytest.fixture(scope="session")
def pilot_of() -> Callable[..., Pilot]:
    """``pilot_of(logits, targets, window_sizes)``: of every temperature."""
    return logit_pilot


@pytest.fixture(scope="session")
def logits_of() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """``logits_of(rng, n_tokens, vocab_size, confidence)``: logits and targets."""
    return synthetic_logits


@pytest.fixture(scope="session")
def grids_of() -> Callable[[Method], dict[str, int]]:
    """``grids_of(method)``: how many points the grid of each of its indices has."""
    return lambda method: {
        name: len(method.smoothing_grid) if name == "smoothing_index" else GRIDS[name]
        for name, value in vars(method).items()
        if name.endswith("_index") and value is not None
    }


@pytest.fixture(params=list(METHODS))
def method_name(request: pytest.FixtureRequest) -> str:
    """Every method."""
    return str(request.param)


@pytest.fixture(params=METRICS[:3])
def metric(request: pytest.FixtureRequest) -> str:
    """bpd, top1 and top10."""
    return str(request.param)
