"""What every compressor must do, and how they are found by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import LedgerItem, total_bits
from lm_bounds.compressors import (
    COMPRESSORS,
    Compressor,
    compressor_names,
    get_compressor,
    measure,
    measure_each,
    registry,
)
from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.weights import Weights

# How much a longer header of the file may shorten the rest, by where blocks end and which matches are found.
SLACK_BITS = {"brotli": 80, "bz2": 80, "xz": 80, "zstd": 80}
every_compressor = pytest.mark.parametrize("name", sorted(COMPRESSORS))
shared_fixtures = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.lists(st.floats(width=32), max_size=12).map(lambda values: np.array(values, np.float32))


@every_compressor
def test_conformance(name: str, mixed: Weights) -> None:
    compressor = get_compressor(name)
    assert isinstance(compressor, Compressor)
    assert compressor.name == name
    assert isinstance(compressor.exact, bool)
    assert compressor.version()
    ledger = compressor.ledger(mixed)
    assert all(item.item and item.bits >= 0 and item.bits == int(item.bits) for item in ledger)
    assert compressor.ledger(mixed) == ledger, "the same weights must cost the same again"


@every_compressor
def test_measure_adds_up(name: str, mixed: Weights) -> None:
    measured = measure(mixed, name)
    assert measured.bits == total_bits(measured.ledger) == sum(item.bits for item in measured.ledger)
    assert measured.bits == int(measured.bits) > 0
    assert (measured.compressor, measured.exact) == (name, COMPRESSORS[name]().exact)
    assert (measured.n_parameters, measured.n_tensors) == (mixed.n_parameters, len(mixed.tensors))
    assert (measured.stored_bytes, measured.sha256) == (mixed.stored_bytes, mixed.sha256())
    assert measured.bits_per_parameter == measured.bits / mixed.n_parameters
    assert measured.seconds >= 0


@every_compressor
def test_the_description_holds_every_part(name: str, tensor, weights) -> None:
    """Each part of the weights costs something: name, shape, values, alias, configuration."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=64)
    base = measure(weights(tensor("w", values)), name).bits
    long_name = "".join(map(chr, rng.integers(97, 123, 60)))
    assert measure(weights(tensor(long_name, values)), name).bits > base + 60
    assert measure(weights(tensor("w", rng.normal(size=128))), name).bits > base + 64 * 20
    assert measure(weights(tensor("w", values), tensor("x", values)), name).bits > base
    config = b'{"model_type":"test","note":"%s"}' % long_name.encode()
    assert measure(weights(tensor("w", values), config=config), name).bits > base + 60


@every_compressor
@shared_fixtures
@given(values=VALUES, more=VALUES)
def test_one_more_tensor_never_lowers_the_total(name: str, tensor, weights, values, more) -> None:
    one = COMPRESSORS[name]().ledger(weights(tensor("a", values)))
    two = COMPRESSORS[name]().ledger(weights(tensor("a", values), tensor("b", more)))
    assert total_bits(two) >= total_bits(one) - SLACK_BITS.get(name, 0)


@every_compressor
def test_repeated_tensors_are_paid_once(name: str, tensor, weights) -> None:
    values = np.random.default_rng(2).normal(size=4000)
    once = measure(weights(tensor("a", values)), name)
    twice = measure(weights(tensor("a", values), tensor("b", values)), name)
    assert twice.n_parameters == once.n_parameters
    assert once.bits - SLACK_BITS.get(name, 0) < twice.bits < once.bits + 500


@every_compressor
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_normal_weights_take_less_than_they_are_stored_in(name: str, dtype: str, tensor, weights) -> None:
    values = np.random.default_rng(1).normal(0, 0.02, 20_000)
    assert measure(weights(tensor("w", values, dtype)), name).ratio_to_stored < 0.97


@every_compressor
def test_incompressible_bytes_cost_little_more_than_they_are(name: str, tensor, weights) -> None:
    values = np.random.default_rng(1).integers(0, 256, 20_000)
    measured = measure(weights(tensor("w", values, "U8")), name)
    assert 1 <= measured.ratio_to_stored < (1.04 if name == "bz2" else 1.02)


@every_compressor
def test_nothing_to_measure_is_refused(name: str, tensor, weights) -> None:
    with pytest.raises(WeightsError, match="no parameters"):
        measure(weights(tensor("empty", np.zeros((0, 3)))), name)


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"'gzipp': did you mean 'gzip'\?$"):
        get_compressor("gzipp")
    with pytest.raises(UsageError, match=r"'quantum': use one of arithmetic, best, brotli, bz2, gzip, xz, zstd$"):
        measure(Weights("test", ()), "quantum")


class Constant:
    """A third party's compressor."""

    name = "constant"
    exact = False

    def version(self) -> str:
        return "1"

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        return (LedgerItem("everything", 7.0),)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"constant": Constant, "broken": Constant().ledger, "poor": dict, "gzip": Constant}
    points = [EntryPoint(name, f"plugin:{name}", registry.ENTRY_POINT_GROUP) for name in found]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: found[self.name])


@pytest.mark.usefixtures("installed")
def test_compressors_of_others_join_by_entry_point(mixed: Weights) -> None:
    assert compressor_names() == tuple(sorted({*COMPRESSORS, "broken", "constant", "poor"}))
    assert measure(mixed, "constant").bits == 7
    assert measure(mixed, "gzip").bits > 7, "an installed name never replaces a built-in one"
    with pytest.raises(UsageError, match=r"'broken' \(plugin:broken\) cannot be loaded: TypeError"):
        get_compressor("broken")
    with pytest.raises(UsageError, match=r"'poor' .* lacks name"):
        get_compressor("poor")


PLUGIN = """
from lm_bounds.codelength import LedgerItem


class Flat:
    name = "flat"
    exact = True

    def version(self):
        return "1"

    def ledger(self, weights):
        return (LedgerItem("bytes", 8.0 * weights.stored_bytes),)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of an installed package: a module and its metadata, in a folder of the path."""
    (tmp_path / "flat_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "flat_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flat-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lm_bounds.compressors]\nflat = flat_plugin:Flat\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_joins(mixed: Weights) -> None:
    assert "flat" in compressor_names()
    measured = measure(mixed, "flat")
    assert (measured.bits, measured.version, measured.ratio_to_stored) == (8 * mixed.stored_bytes, "1", 1)


def test_several_are_measured_as_each_alone_and_hashed_once(mixed: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [measure(mixed, name) for name in ("gzip", "arithmetic")]
    hashed = []
    once = Weights.sha256
    monkeypatch.setattr(Weights, "sha256", lambda self: hashed.append(self.source) or once(self))
    together = measure_each(mixed, [get_compressor("gzip"), get_compressor("arithmetic")])
    assert hashed == ["test"]
    assert [dataclasses.replace(length, seconds=0) for length in together] == [
        dataclasses.replace(length, seconds=0) for length in alone
    ]


def test_progress_counts_every_byte_once_for_each(mixed: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_bounds.weights.protocol.CHUNK_BYTES", 64)
    steps: list[tuple[str, int]] = []
    compressors = [*(get_compressor(name) for name in ("gzip", "best")), Constant()]
    measure_each(mixed, compressors, lambda activity, n_bytes: steps.append((activity, n_bytes)))
    activities = ["sha256", "gzip", "best", "constant"]
    assert list(dict.fromkeys(activity for activity, _ in steps)) == activities
    for activity in activities:
        assert sum(n_bytes for name, n_bytes in steps if name == activity) == mixed.stored_bytes
    assert steps.count(("constant", mixed.stored_bytes)) == 1, "one that reads nothing is done at its end"
    assert all(n_bytes <= 64 for name, n_bytes in steps if name in ("sha256", "gzip"))


def test_importing_the_room_loads_no_framework() -> None:
    heavy = "torch", "transformers", "lm_eval", "matplotlib", "safetensors", "scipy", "zstandard", "tqdm"
    code = f"import sys, lm_bounds.compressors; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
