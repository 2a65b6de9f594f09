"""The gap of each method over the mean loss, and its ratio to that of ``azuma``, on three distributions of losses.

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

from lm_bounds.calculator import RATES, LossSample, gap_table

VOCABULARY = 32_000
N_TOKENS = 102_400

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


def sample(distribution: str, seed: int = 0) -> LossSample:
    """A corpus with this distribution of entropies and losses."""
    entropy, losses = DISTRIBUTIONS[distribution](np.random.default_rng(seed), N_TOKENS)
    return LossSample(losses, entropy)


def table(rates: tuple[float, ...] = RATES) -> dict[str, dict[str, list[float]]]:
    """By distribution and method, the gap at each rate."""
    return {name: gap_table(sample(name), "bpd", VOCABULARY, rates) for name in DISTRIBUTIONS}


def main() -> None:
    """Prints the gaps of every method and their ratios to those of ``azuma``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rates only")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    rates = (0.003, 0.1) if arguments.quick else RATES
    found = table(rates)
    if arguments.json:
        print(json.dumps({"rates": rates, "gaps": found}))
        return
    for distribution, gaps in found.items():
        print(distribution.ljust(22) + "".join(f"{rate:>14g}" for rate in rates))
        for method, row in gaps.items():
            cells = (f"{gap:.3f} ({gap / other:.2f})" for gap, other in zip(row, gaps["azuma"], strict=True))
            print(f"  {method:<20}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
