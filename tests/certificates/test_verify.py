"""Certificates of every method and metric hold, for anyone who has numpy."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm_bounds
from lm_bounds.bounds import METHODS, METRICS
from lm_bounds.certificates import read_certificate, verify, write_certificates


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shared_draws", [1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_holds(fabricated: Callable[..., Any], method: str, shared_draws: int, metric: str) -> None:
    run = fabricated(method=method, shared_draws=shared_draws)
    certificate = run.certificates[metric]
    verification = verify(certificate.path)
    assert verification.failures == ()
    assert verification.ok
    assert verification.claim == certificate.claim
    bound = run.observations.bound(metric, run.plan.methods[metric], run.plan.problem(metric))
    assert verification.bound == certificate.bound == bound.value
    assert certificate.metric == metric
    assert certificate.vacuous == (bound.value >= certificate.fields["claim"]["vacuous_at"])
    assert read_certificate(certificate.path) == certificate.fields


def test_some_bound_of_the_invented_model_says_something(run: Any) -> None:
    # otherwise the tests of this folder would not see what happens to a bound below l_max
    assert not run.certificates["bpd"].vacuous
    assert run.certificates["bpd"].bound < run.plan.methods["bpd"].loss.loss_max


def test_fewer_windows_than_were_set_are_certified(fabricated: Callable[..., Any]) -> None:
    run = fabricated(n_windows=31, windows=100)
    assert verify(run.path("bpd")).failures == ()
    assert run.certificates["bpd"].fields["sample"]["windows"] == 31


def test_public_function_and_relative_path(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.directory)
    assert lm_bounds.verify("local_bpd_bound.json").ok


def test_certificates_move_together_with_their_observations(run: Any, tmp_path: Path) -> None:
    moved = tmp_path / "else where"
    shutil.copytree(run.directory, moved)
    assert all(verify(path).ok for path in moved.glob("*.json"))


def test_writing_again_leaves_the_shared_observations_and_the_other_certificates_alone(
    fabricated: Callable[..., Any], tmp_path: Path
) -> None:
    run = fabricated()
    [first] = write_certificates(run.plan, run.observations, ["bpd"], tmp_path)
    observations = tmp_path / "local-observations.npz"
    before = observations.stat()
    [second] = write_certificates(run.plan, run.observations, ["top1"], tmp_path)
    after = observations.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert verify(first.path).ok
    assert verify(second.path).ok
    assert first.path.read_bytes() == run.path("bpd").read_bytes()


def test_the_draws_depend_on_what_was_fixed_and_on_nothing_else(fabricated: Callable[..., Any]) -> None:
    def draws(**chosen: Any) -> list[int]:
        return fabricated(**chosen).observations.windows.token_index.tolist()

    own = draws()
    others: list[dict[str, Any]] = [{"draw_seed": 1}, {"failure_prob": 0.01}, {"family_wise": False}]
    others += [{"method": "azuma"}, {"smoothing": "entropy"}, {"unit": "token"}, {"upper": "hoeffding"}]
    others += [{"upper": "bernstein"}]
    found = [own, *(draws(**other) for other in others)]
    assert len({tuple(tokens) for tokens in found}) == len(found)
    shared = draws(shared_draws=5)
    assert draws(shared_draws=5, method="azuma") == shared
    # what the claim's probability is made of cannot be restated
    for level in ({"shared_draws": 6}, {"failure_prob": 0.01}, {"family_wise": False}):
        assert draws(**{"shared_draws": 5, **level}) != shared
    assert draws(shared_draws=5, n_windows=41) == [*shared, draws(shared_draws=5, n_windows=41)[-1]]
    assert draws(shared_draws=5, smoothing="entropy") == shared
    for own_seed in ({"unit": "token"}, {"upper": "hoeffding"}, {"upper": "bernstein"}):
        assert draws(shared_draws=5, **own_seed) != shared
    # bounds that would not hold for whichever number of windows turned out best
    for fixed_n in ({"method": "paper"}, {"upper": "hoeffding"}, {"upper": "bernstein"}):
        for shared_draws in (1, 5):
            chosen = {**fixed_n, "shared_draws": shared_draws}
            assert draws(**chosen, n_windows=41)[:40] != draws(**chosen)


def kl_inf_bound(path: Path) -> dict[str, float]:
    """The bound of a certificate by method kl_inf, from its JSON and .npz with school arithmetic alone."""
    certificate = json.loads(path.read_text(encoding="utf-8"))
    claim, method, settings = certificate["claim"], certificate["method"], certificate["settings"]
    m, n = certificate["corpus"]["n_tokens"], certificate["sample"]["windows"]

    # failure probabilities: one hundredth for the corpus, the rest for the sample
    delta = settings["failure_prob"] / (certificate["corpus"]["n_metrics"] if settings["family_wise"] else 1)
    delta_1 = delta / 100
    delta_2 = (delta - delta_1) / settings["shared_draws"]

    # complexity rate, nats per token
    bits = sum(entry["bits"] for entry in certificate["complexity"]["ledger"])
    rho = (bits * math.log(2) + math.log(1 / delta_1)) / m

    # the largest loss l_max(H) at entropy H; the ceiling b + c1 H above it
    top = math.log2(method["vocab_size"])
    slope = 2 * method["slope_index"] / 255
    l_min, entropies, largest = 0.0, [0.0, top], [1.0, 1.0]
    if claim["metric"] == "bpd":
        e0 = (method["smoothing_index"] + 1) / 8
        e1 = (method.get("smoothing_slope_index", 32) - 32) / 8
        bends = [(limit - e0) / e1 for limit in (1 / 8, 32) if e1]
        entropies = [0.0, top, *(h for h in bends if 0 < h < top)]
        largest = [top + min(max(e0 + e1 * h, 1 / 8), 32) for h in entropies]
        alpha = 2.0 ** (top - max(largest))
        l_min = -math.log2(1 - alpha + alpha / method["vocab_size"])
    l_max = max(largest)
    least = max(0.0, *(value - slope * h for value, h in zip(largest, entropies, strict=True)))
    b = least + l_max * 2 ** (-12 + 36 * method["margin_index"] / 65535)
    t, c = method["linearisation"], method["sampling_ceiling"]

    with np.load(path.parent / certificate["sample"]["observations"]) as arrays:
        sizes = [int(stop) - int(start) for start, stop in zip(arrays["start"], arrays["stop"], strict=True)]
        sizes = [1] * n if certificate["sample"]["unit"] == "token" else sizes
        names = ("loss", "ceiling_rise", "log_headroom")
        sums = [[float(value) for value in arrays[f"sums/{claim['metric']}/{name}"]] for name in names]
    losses, rises, log_ratios = ([sum_ / size for sum_, size in zip(each, sizes, strict=True)] for each in sums)

    # Z = c_i - b e^t (1 - t - rho + ln((c_i - l_i)/b)) of every window, c_i = b + c1 H_i
    z = [b + rise - b * math.exp(t) * (1 - t - rho + log) for rise, log in zip(rises, log_ratios, strict=True)]

    # from the windows to the corpus
    if settings["upper"] == "kl_inf":
        risk, mean_z = des_raj(losses, sizes, m), min(des_raj(z, sizes, m), l_max)
        bound = largest_mean(z, sizes, m, c, math.log(1 / delta_2))
    else:
        risk, mean_z = math.fsum(losses) / n, min(math.fsum(z) / n, l_max)
        rooms = [(slope * h, b + slope * h - value) for h, value in zip(entropies, largest, strict=True)]
        z_max = max(b + rise - b * math.exp(t) * (1 - t - rho + math.log(room / b)) for rise, room in rooms)
        width = z_max - (l_min + b * math.exp(t) * rho)
        if settings["upper"] == "hoeffding":
            bound = mean_z + width * math.sqrt(math.log(1 / delta_2) / (2 * n))
        else:
            log, mean = math.log(2 / delta_2), math.fsum(z) / n
            variance = math.fsum((value - mean) ** 2 for value in z) / (n - 1)
            bound = mean + math.sqrt(2 * variance * log / n) + 7 * width * log / (3 * (n - 1))
    bound = min(bound, l_max)
    return {"risk": risk, "complexity": mean_z - risk, "sampling": bound - mean_z, "bound": bound}


def des_raj(values: list[float], sizes: list[int], m: int) -> float:
    """The mean over the draws of what is seen so far plus the rest at the value drawn."""
    estimates, seen, drawn = [], 0.0, 0
    for value, size in zip(values, sizes, strict=True):
        estimates.append((seen + (m - drawn) * value) / m)
        seen, drawn = seen + size * value, drawn + size
    return math.fsum(estimates) / len(estimates)


def largest_mean(values: list[float], sizes: list[int], m: int, ceiling: float, nats: float) -> float:
    """The largest mean under which the product of (c - v_j)/(c - mu_j) is not too surprising, by bisection."""

    def surprise(mean: float) -> float:
        log_product, seen, drawn = 0.0, 0.0, 0
        for value, size in zip(values, sizes, strict=True):
            expected = (m * mean - seen) / (m - drawn)
            if expected >= ceiling:
                return math.inf
            log_product += math.log(ceiling - value) - math.log(ceiling - expected)
            seen, drawn = seen + size * value, drawn + size
        return log_product if m * mean - seen <= (m - drawn) * ceiling else math.inf

    low, high = min(values), ceiling
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if surprise(middle) <= nats else (low, middle)
    return high


CHOSEN: list[dict[str, Any]] = [
    {},
    {"shared_draws": 5, "family_wise": False},
    {"failure_prob": 1e-6},
    {"smoothing": "entropy"},
    {"unit": "token", "n_windows": 400},
    {"upper": "hoeffding", "n_windows": 400},
    {"upper": "bernstein", "n_windows": 400},
    {"upper": "bernstein", "unit": "token", "smoothing": "entropy", "n_windows": 400},
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: ",".join(f"{k}={v}" for k, v in chosen.items()) or "-")
@pytest.mark.parametrize("metric", METRICS)
def test_slow_twin(fabricated: Callable[..., Any], chosen: dict[str, Any], metric: str) -> None:
    run = fabricated(**chosen)
    certificate = run.certificates[metric]
    stated = {**certificate.fields["terms"], "bound": certificate.bound}
    for name, value in kl_inf_bound(certificate.path).items():
        assert math.isclose(value, stated[name], rel_tol=1e-9, abs_tol=1e-9), name
    assert verify(certificate.path).failures == ()
    if metric == "bpd" and "failure_prob" not in chosen:
        assert certificate.bound < run.plan.methods["bpd"].loss.loss_max


def test_verification_loads_neither_torch_nor_transformers_nor_lm_eval(run: Any) -> None:
    program = (
        "import sys; from lm_bounds.certificates import verify; assert verify(sys.argv[1]).ok; "
        "print(*sorted({'torch', 'transformers', 'lm_eval', 'tokenizers', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(run.path("bpd"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
