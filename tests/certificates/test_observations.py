"""Observations that are missing, broken, someone else's, or impossible."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.certificates import verify
from lm_bounds.certificates.files import digest, sha256_file

Arrays = dict[str, np.ndarray]


@pytest.fixture
def copied(run: Any, tmp_path: Path) -> Path:
    """A folder of one's own with the certificates and observations of a run."""
    folder = tmp_path / "copy"
    shutil.copytree(run.directory, folder)
    return folder


def claiming(folder: Path, observations: object, sha256: str | None = None) -> Path:
    """The bpd certificate with another observations file in it, the digest recomputed."""
    path = folder / "local_bpd_bound.json"
    fields = json.loads(path.read_bytes())
    fields["sample"]["observations"] = observations
    if sha256 is not None:
        fields["sample"]["observations_sha256"] = sha256
    fields["digest"] = digest(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def test_missing(copied: Path) -> None:
    (copied / "local-observations.npz").unlink()
    [failure] = verify(copied / "local_bpd_bound.json").failures
    assert "'local-observations.npz' is missing beside the certificate" in failure


def test_a_folder_in_its_place(copied: Path) -> None:
    (copied / "local-observations.npz").unlink()
    (copied / "local-observations.npz").mkdir()
    [failure] = verify(copied / "local_bpd_bound.json").failures
    assert "missing beside the certificate" in failure


def test_of_another_run(copied: Path, fabricated: Callable[..., Any]) -> None:
    shutil.copyfile(fabricated(draw_seed=1).directory / "local-observations.npz", copied / "local-observations.npz")
    [failure] = verify(copied / "local_bpd_bound.json").failures
    assert "is not the one that was certified (other sha256)" in failure


def test_of_another_run_with_its_sha256(copied: Path, fabricated: Callable[..., Any]) -> None:
    observations = copied / "local-observations.npz"
    shutil.copyfile(fabricated(draw_seed=1).directory / observations.name, observations)
    failures = verify(claiming(copied, observations.name, sha256_file(observations))).failures
    assert "the drawn tokens are not those of the seed" in failures
    assert "the draws have another sha256 than the certificate says" in failures


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_truncated(copied: Path, kept: float) -> None:
    observations = copied / "local-observations.npz"
    content = observations.read_bytes()
    observations.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "other sha256" in verify(copied / "local_bpd_bound.json").failures[0]
    [failure] = verify(claiming(copied, observations.name, sha256_file(observations))).failures
    assert failure.startswith("the observations file 'local-observations.npz' cannot be read: ")


def test_bytes_flipped_inside_the_archive_never_raise(copied: Path) -> None:
    observations = copied / "local-observations.npz"
    content = observations.read_bytes()
    for position in range(0, len(content), len(content) // 150):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        observations.write_bytes(changed)
        verification = verify(claiming(copied, observations.name, sha256_file(observations)))
        assert all(failure.isprintable() for failure in verification.failures)
        # some bytes say nothing of the arrays (a date, say): then everything has to be as it was
        assert verification.failures or verification.bound is not None


def test_not_an_archive_but_an_array(copied: Path) -> None:
    observations = copied / "local-observations.npz"
    with observations.open("wb") as stream:
        np.save(stream, np.zeros(3))
    [failure] = verify(claiming(copied, observations.name, sha256_file(observations))).failures
    assert "cannot be read" in failure


@pytest.mark.parametrize("name", ["../outside.npz", "sub/inside.npz", "{absolute}", "..", ".", "", "a\0b.npz", 7, None])
def test_names_that_leave_the_folder(copied: Path, name: Any) -> None:
    observations = copied / "local-observations.npz"
    (copied / "sub").mkdir()
    for place in (copied.parent / "outside.npz", copied / "sub" / "inside.npz"):
        shutil.copyfile(observations, place)
    stated = str(copied.parent / "outside.npz") if name == "{absolute}" else name
    assert verify(claiming(copied, observations.name)).ok
    [failure] = verify(claiming(copied, stated)).failures
    assert "is missing beside the certificate" in failure


class _Bomb:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def _every(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: change(values) for name, values in arrays.items()})


def _one(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: np.asarray(change(arrays[name]))})


def _with(values: np.ndarray, number: float) -> np.ndarray:
    return np.concatenate([values[:-1], [number]])


BROKEN = {
    "pickled objects": (_one("sums/bpd/loss", lambda x: np.array([_Bomb()] * len(x), dtype=object)), "cannot be read"),
    "pickled indices": (_one("token_index", lambda x: np.array([_Bomb()] * len(x), dtype=object)), "cannot be read"),
    "no draws": (lambda arrays: arrays.pop("start"), "cannot be read: .*start"),
    "columns": (_one("sums/bpd/loss", lambda x: x[:, None]), "sums/bpd/loss is not one finite float64"),
    "a square": (_one("sums/bpd/loss", lambda x: np.tile(x, (len(x), 1))), "sums/bpd/loss is not one finite float64"),
    "a scalar": (_one("sums/bpd/loss", lambda x: x[0]), "sums/bpd/loss is not one finite float64"),
    "short sums": (_one("sums/bpd/loss", lambda x: x[:-1]), "sums/bpd/loss is not one finite float64"),
    "half precision": (_one("sums/bpd/loss", lambda x: x.astype(np.float32)), "sums/bpd/loss is not one finite"),
    "complex": (_one("sums/bpd/loss", lambda x: x.astype(complex)), "sums/bpd/loss is not one finite"),
    "NaN": (_one("sums/bpd/loss", lambda x: _with(x, math.nan)), "sums/bpd/loss is not one finite"),
    "NaN of another metric": (_one("sums/top1/loss", lambda x: _with(x, math.nan)), "sums/top1/loss is not one finite"),
    "infinite": (_one("sums/bpd/log_headroom", lambda x: _with(x, math.inf)), "log_headroom is not one finite"),
    "float indices": (_one("token_index", lambda x: x.astype(float)), "cannot be read"),
    "short indices": (_one("stop", lambda x: x[:-1]), "cannot be read"),
    "empty windows": (_one("stop", lambda x: x * 0), "cannot be read"),
    "no column": (lambda arrays: arrays.pop("sums/bpd/log_headroom"), "log_headroom"),
    "no loss": (lambda arrays: arrays.pop("sums/bpd/loss"), "bpd/loss"),
    "fewer windows": (_every(lambda x: x[:-1]), "40 windows are certified, the observations hold 39"),
    "no windows": (_every(lambda x: x[:0]), "40 windows are certified, the observations hold 0"),
    "more metrics": (
        lambda arrays: arrays.update({"sums/top5/loss": arrays["sums/top1/loss"]}),
        "n_metrics is smaller than the number of metrics",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_arrays_that_are_not_what_they_should_be(run: Any, restated: Callable[..., Any], case: str) -> None:
    change, words = BROKEN[case]
    verification = restated(run, lambda fields: None, arrays=change)
    assert verification.bound is None
    assert any(_matches(words, failure) for failure in verification.failures), verification.failures


def _matches(words: str, failure: str) -> bool:
    head, _, tail = words.partition(".*")
    return head in failure and tail in failure


def test_arrays_that_mean_nothing_here_are_left_alone(run: Any, restated: Callable[..., Any]) -> None:
    def add(arrays: Arrays) -> None:
        arrays["tokens/log2_prob"] = np.zeros(7, dtype=np.float32)
        arrays["sums/bpd/log2_prob"] = np.ones_like(arrays["sums/bpd/loss"])

    verification = restated(run, lambda fields: None, arrays=add)
    assert verification.failures == ()
    assert verification.bound == run.certificates["bpd"].bound


def test_the_last_windows_may_be_left_out_where_the_bound_holds_for_any_number_of_them(
    fabricated: Callable[..., Any], restated: Callable[..., Any]
) -> None:
    fewer = _every(lambda x: x[:-1])
    every: list[tuple[dict[str, Any], bool]] = [({"method": name}, True) for name in ("kl_inf", "freedman", "azuma")]
    every += [({"method": "paper"}, False), ({"upper": "hoeffding"}, False), ({"upper": "bernstein"}, False)]
    every += [({"method": "paper", "shared_draws": 5}, False), ({"upper": "bernstein", "shared_draws": 5}, False)]
    for chosen, ok in every:
        run = fabricated(**chosen)
        verification = restated(run, lambda fields: None, consistently=True, arrays=fewer)
        assert verification.ok == ok
        assert ok or "the drawn tokens are not those of the seed" in verification.failures


def _add(name: str, amount: float, row: int = 3) -> Callable[[Arrays], None]:
    return lambda arrays: arrays[name].__setitem__(row, arrays[name][row] + amount)


def _one_error_less(arrays: Arrays) -> None:
    """Noticed exactly where the ceiling or centre is a constant, as it is for errors as rare as these."""
    arrays["sums/top100/loss"][np.argmax(arrays["sums/top100/loss"])] -= 1.0


def _shift(arrays: Arrays) -> None:
    """The same windows, one token later each."""
    arrays["token_index"], arrays["start"], arrays["stop"] = (arrays[n] + 1 for n in ("token_index", "start", "stop"))


def _grow(arrays: Arrays) -> None:
    arrays["stop"] = arrays["stop"] + 64


def _overlap(arrays: Arrays) -> None:
    """A window that begins inside another one."""
    order = np.argsort(arrays["start"])
    first, second = order[0], order[1]
    arrays["start"][second] = arrays["stop"][first] - 1


IMPOSSIBLE = {
    ("kl_inf", "bpd", "a loss below l_min"): (_add("sums/bpd/loss", -1000.0), "a mean loss of a window is outside"),
    ("kl_inf", "bpd", "a loss above l_max"): (_add("sums/bpd/loss", 1000.0), "a mean loss of a window is outside"),
    ("kl_inf", "top1", "less than no errors"): (_add("sums/top1/loss", -65.0), "a mean loss of a window is outside"),
    ("kl_inf", "top1", "half an error"): (_add("sums/top1/loss", -0.5), "errors of top1 .* are not a whole number"),
    ("kl_inf", "top100", "more errors than top10"): (
        lambda arrays: arrays.update({"sums/top100/loss": arrays["sums/top1/loss"]}),
        "more errors among k tokens than among fewer",
    ),
    ("kl_inf", "bpd", "a lower loss alone"): (_add("sums/bpd/loss", -40.0), "log_headroom does not fit"),
    ("kl_inf", "bpd", "a higher headroom alone"): (_add("sums/bpd/log_headroom", 10.0), "log_headroom does not fit"),
    ("kl_inf", "bpd", "a lower headroom alone"): (_add("sums/bpd/log_headroom", -1e4), "log_headroom does not fit"),
    ("kl_inf", "top100", "one error less alone"): (_one_error_less, "log_headroom does not fit"),
    ("freedman", "top100", "one error less alone"): (_one_error_less, "log_growth does not fit"),
    ("kl_inf", "bpd", "a negative rise"): (_add("sums/bpd/ceiling_rise", -1e4), "ceiling_rise is outside"),
    ("kl_inf", "bpd", "a rise too steep"): (_add("sums/bpd/ceiling_rise", 1e4), "ceiling_rise is outside"),
    ("freedman", "bpd", "a centre too low"): (_add("sums/bpd/centre", -1e4), "centre is outside"),
    ("freedman", "bpd", "a higher growth alone"): (_add("sums/bpd/log_growth", 10.0), "log_growth does not fit"),
    ("freedman", "bpd", "a lower growth alone"): (_add("sums/bpd/log_growth", -1e3), "log_growth does not fit"),
    ("freedman", "bpd", "Z above z_max"): (_add("sums/bpd/log_growth", -1e3), "above its largest possible value"),
    ("azuma", "bpd", "Z above z_max"): (_add("sums/bpd/loss", 1e3), "above its largest possible value"),
    ("paper", "bpd", "Z above z_max"): (_add("sums/bpd/loss", 1e3), "above its largest possible value"),
    ("paper", "top10", "half an error"): (_add("sums/top10/loss", 0.5), "errors of top10 .* are not a whole number"),
    ("azuma_lambda", "bpd", "a range too short"): (_add("sums/bpd/squared_range", -1e5), "squared_range is outside"),
    ("azuma_lambda", "bpd", "a range too long"): (_add("sums/bpd/squared_range", 1e6), "squared_range is outside"),
    ("azuma_lambda", "bpd", "Z above z_max"): (_add("sums/bpd/loss", 1e3), "above its largest possible value"),
    ("kl_inf", "bpd", "other tokens"): (_shift, "the drawn tokens are not those of the seed"),
    ("kl_inf", "bpd", "windows longer than the context"): (_grow, "longer than the context"),
    ("kl_inf", "bpd", "windows that overlap"): (_overlap, "two windows overlap"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=" ".join)
def test_sums_and_windows_that_cannot_have_been_observed(
    fabricated: Callable[..., Any], restated: Callable[..., Any], case: tuple[str, str, str]
) -> None:
    method, metric, _ = case
    change, words = IMPOSSIBLE[case]
    verification = restated(fabricated(method=method), lambda fields: None, metric, arrays=change)
    assert verification.bound is None
    assert any(_matches(words.replace(" .* ", ".*"), failure) for failure in verification.failures)
