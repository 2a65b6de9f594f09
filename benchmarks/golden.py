"""How much smaller the gap of each method is than that of ``azuma``, on three distributions of losses.

    python benchmarks/golden.py [--quick] [--json]

The gap is what a bound adds to the unsmoothed mean loss. The sample is the whole corpus and m is so large that neither
the selection bits nor the sampling step count: what is left is the inequality, each with the smoothing that is best
for it, at T = 1.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import numpy as np

from lm_bounds.bounds import Problem, TokenStatistics, certify, choose_method, window_means

VOCABULARY = 32_000
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
N_WINDOWS, WINDOW = 200, 512
N_TOKENS = 10**10

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def realistic(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Entropy H ~ Gamma of mean 2.5 and variance 3 bits; loss given H ~ H times Gamma of mean 1 and variance 0.65."""
    entropy = np.minimum(rng.gamma(2.5**2 / 3, 3 / 2.5, n), math.log2(VOCABULARY))
    return entropy, entropy * rng.gamma(1 / 0.65, 0.65, n)


def uninformative(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The same losses, and an entropy that says nothing of them."""
    entropy, losses = realistic(rng, n)
    return rng.permutation(entropy), losses


def memorised(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine tenths of the tokens are known nearly for sure, the others are as in ``realistic``."""
    entropy, losses = realistic(rng, n)
    share = np.where(rng.random(n) < 0.9, 0.01, 1.0)
    return entropy * share, losses * share


DISTRIBUTIONS: dict[str, Draw] = {"realistic": realistic, "uninformative": uninformative, "memorised": memorised}


def sample(distribution: str, seed: int = 0) -> TokenStatistics:
    """Statistics of the tokens of a corpus with this distribution of entropies and losses."""
    n = N_WINDOWS * WINDOW
    entropy, losses = DISTRIBUTIONS[distribution](np.random.default_rng(seed), n)
    return TokenStatistics(
        -losses, np.ones(n, dtype=np.int64), entropy, np.exp2(-entropy / 2), np.full(N_WINDOWS, WINDOW)
    )


def gap(method: str, statistics: TokenStatistics, rate: float, smoothing: str | None = None) -> float:
    """What the complexity step adds to the unsmoothed mean loss, in bits per token."""
    problem = Problem("bpd", VOCABULARY, N_TOKENS, 10**8, rate * N_TOKENS / math.log(2), 0.05)
    chosen = choose_method(method, problem, statistics, smoothing)
    sizes = statistics.window_sizes
    means = {name: window_means(values, sizes) for name, values in chosen.columns(statistics).items()}
    announced = Problem("bpd", VOCABULARY, N_TOKENS, len(sizes), problem.description_bits, 0.05)
    bound = certify(chosen, announced, means, sizes)
    return bound.risk + bound.complexity + float(np.mean(statistics.log2_prob))


def table(
    method: str = "kl_inf", rates: tuple[float, ...] = RATES, smoothing: str | None = None
) -> dict[str, list[float]]:
    """The ratio of a method's gap to that of ``azuma`` at each rate, by distribution."""
    found = {}
    for name in DISTRIBUTIONS:
        statistics = sample(name)
        found[name] = [gap(method, statistics, rate, smoothing) / gap("azuma", statistics, rate) for rate in rates]
    return found


def main() -> None:
    """Prints the table of every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rates only")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    rates = (0.003, 0.1) if arguments.quick else RATES
    variants = [("kl_inf", "global"), ("kl_inf", "entropy"), ("freedman", "global"), ("freedman", "entropy")]
    found = {f"{method}, {mode}": table(method, rates, mode) for method, mode in variants}
    if arguments.json:
        print(json.dumps({"rates": rates, "ratios": found}))
        return
    print("gap over that of azuma".ljust(36) + "".join(f"{rate:>8g}" for rate in rates))
    for variant, rows in found.items():
        for name, ratios in rows.items():
            print(f"{variant + ', ' + name:<36}" + "".join(f"{ratio:8.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
