"""Seconds to choose each method's parameters on a pilot of 100,000 tokens at 16 temperatures.

    python benchmarks/choice.py [--quick] [--json]

The pilot is synthetic: logits over a small vocabulary, twice as sure as they should be. Prints the bound that the pilot
predicts as well, so that a faster search that finds less shows.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np

from lm_bounds.bounds import (
    METHODS,
    TEMPERATURE_GRID,
    Pilot,
    Problem,
    TokenStatistics,
    choose_method,
)
from lm_bounds.bounds.methods import predicted_bound

VOCABULARY = 256
N_TOKENS = 10**9
WINDOW = 1000


def overconfident_pilot(n_tokens: int) -> Pilot:
    """Tokens drawn from the softmax of logits that the model then doubles."""
    rng = np.random.default_rng(0)
    rows: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {k: [] for k in range(len(TEMPERATURE_GRID))}
    for _ in range(n_tokens // WINDOW):
        logits = rng.normal(0.0, rng.uniform(0.3, 4.0, (WINDOW, 1)), (WINDOW, VOCABULARY))
        targets = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        for index, temperature in enumerate(TEMPERATURE_GRID):
            scaled = 2.0 * (logits - logits.max(axis=1, keepdims=True)) / temperature
            log2_p = (scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))) / math.log(2)
            probabilities = np.exp2(log2_p)
            entropy = np.clip(-(probabilities * log2_p).sum(axis=1), 0.0, math.log2(VOCABULARY))
            rows[index].append((log2_p[np.arange(WINDOW), targets], entropy, probabilities.max(axis=1)))
    sizes = np.full(n_tokens // WINDOW, WINDOW)
    found = {}
    for index, parts in rows.items():
        log2_prob, entropy, largest = (np.concatenate(column) for column in zip(*parts, strict=True))
        found[index] = TokenStatistics(log2_prob, np.ones(len(log2_prob), dtype=np.int64), entropy, largest, sizes)
    return Pilot(found)


def measure(pilot: Pilot, rate: float) -> list[dict[str, object]]:
    """Seconds and the predicted bound of every method and smoothing."""
    problem = Problem("bpd", VOCABULARY, N_TOKENS, 1000, rate * N_TOKENS / math.log(2), 0.05, replacement=False)
    runs = [(name, mode) for name, method in METHODS.items() if name != "paper" for mode in method.smoothings]
    found: list[dict[str, object]] = []
    for name, mode in [*runs, ("best", None)]:
        began = time.perf_counter()
        method = choose_method(name, problem, pilot, mode)
        seconds = time.perf_counter() - began
        bound = predicted_bound(method, problem, pilot)  # type: ignore[arg-type]
        found.append({"method": name, "smoothing": mode or "any", "rate": rate, "seconds": seconds, "bound": bound})
    return found


def main() -> None:
    """Prints a line for every method, smoothing and rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 tokens and one rate")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    arguments = parser.parse_args()
    pilot = overconfident_pilot(20_000 if arguments.quick else 100_000)
    found = [row for rate in ((0.01,) if arguments.quick else (1e-4, 0.01, 0.3)) for row in measure(pilot, rate)]
    if arguments.json:
        print(json.dumps(found))
        return
    for row in found:
        print("{method:<13}{smoothing:<9}rate {rate:<8g}{seconds:7.2f} s   predicted bound {bound:.5f}".format(**row))


if __name__ == "__main__":
    main()
