"""What a MODEL argument may be: which files are fetched, which commit is named, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.models import BUILT_IN_MODELS
from lm_bounds.weights import Tensor, Weights, read_checkpoint, read_source
from lm_bounds.weights.hub import cached_snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAGGED = "89abcdef0123456789abcdef0123456789abcdef"
CONFIG = {"model_type": "invented", "hidden_size": 4}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def save(folder: Path, name: str, **values: Any) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: np.asarray(value, np.float32) for key, value in values.items()}, folder / name)
    return folder


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A checkpoint of one file, among files that are not measured."""
    folder = save(tmp_path / "single", "model.safetensors", a=np.arange(6), b=np.ones((2, 2)))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("optimizer.pt", "pytorch_model.bin", "model.onnx", "tokenizer.json", "flax_model.msgpack"):
        (folder / name).write_bytes(b"not measured")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards that the index names, and a stray one that it does not."""
    folder = save(tmp_path / "sharded", FIRST, a=np.arange(6))
    save(folder, SECOND, b=np.ones((2, 2)))
    save(folder, "model-00003-of-00003.safetensors", stray=np.zeros(99))
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "b": SECOND}}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@contextmanager
def without_network() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def refused(source: object, kind: type[Exception] = WeightsError) -> str:
    with pytest.raises(kind) as caught:
        read_source(str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_paths_are_read_as_they_are(single: Path) -> None:
    assert read_source(single).sha256() == read_checkpoint(single).sha256()
    assert read_source(str(single)).source == str(single)
    assert read_source(single / "model.safetensors").config == b"{}"


@pytest.mark.parametrize("name", [*BUILT_IN_MODELS, *(f"lm_bounds/{name}" for name in BUILT_IN_MODELS)])
def test_models_of_the_package_are_read_by_name(name: str) -> None:
    short = name.removeprefix("lm_bounds/")
    weights = read_source(name)
    assert weights.source == f"lm_bounds/{short}"
    assert weights.sha256() == read_checkpoint(BUILT_IN_MODELS[short].path).sha256()


def test_what_exists_goes_before_names_and_separators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "a,peft=b", "a@b"):
        save(tmp_path / name, "model.safetensors", w=[1, 2])
        assert read_source(name).source == name
        assert read_source(name).n_parameters == 2


def test_other_rooms_add_readers_by_suffix(tmp_path: Path) -> None:
    def packed(path: Path) -> Weights:
        return Weights(f"read {path.name}", (Tensor.of_bytes("w", "U8", (3,), np.zeros(3, np.uint8)),))

    (tmp_path / "x.lmb").write_bytes(b"")
    assert read_source(tmp_path / "x.lmb", {".lmb": packed}).source == "read x.lmb"
    with pytest.raises(WeightsError, match=r"x\.lmb is not a checkpoint"):
        read_source(tmp_path / "x.lmb")


def test_exactly_the_measured_files_are_fetched(hub: Any, single: Path) -> None:
    hub.publish("org/tiny", single)
    weights = read_source("org/tiny")
    assert hub.sent == ["config.json", "model.safetensors"]
    assert weights.source == f"org/tiny@{COMMIT}"
    assert weights.sha256() == read_checkpoint(single).sha256()
    assert read_source("org/tiny").sha256() == weights.sha256()
    assert len(hub.sent) == 2, "the cache holds them"


def test_shards_of_the_index_and_no_others_are_fetched(hub: Any, sharded: Path) -> None:
    hub.publish("org/tiny", sharded)
    weights = read_source("org/tiny@main")
    assert hub.sent[:2] == ["config.json", INDEX]
    assert sorted(hub.sent[2:]) == [FIRST, SECOND]
    assert [tensor.name for tensor in weights.tensors] == ["a", "b"]
    assert weights.sha256() == read_checkpoint(sharded).sha256()


def test_a_revision_is_resolved_to_its_commit(hub: Any, single: Path, sharded: Path) -> None:
    hub.publish("org/tiny", single)
    hub.publish("org/tiny", sharded, TAGGED)
    (hub.root / "org/tiny" / TAGGED / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 5}))
    assert read_source("org/tiny@v1").source == read_source(f"org/tiny@{TAGGED}").source == f"org/tiny@{TAGGED}"
    assert read_source("org/tiny@v1").config != read_source("org/tiny").config


def test_a_checkpoint_without_configuration_has_none(hub: Any, tmp_path: Path) -> None:
    hub.publish("org/bare", save(tmp_path / "bare", "model.safetensors", w=[1, 2]))
    assert read_source("org/bare").config == b"{}"
    with without_network():
        assert read_source("org/bare").config == b"{}", "the cache knows that there is none"


def test_the_cache_serves_without_network(hub: Any, single: Path, sharded: Path) -> None:
    hub.publish("org/tiny", single)
    hub.publish("org/large", sharded)
    online = [read_source(name).sha256() for name in ("org/tiny", "org/large")]
    with without_network():
        assert [read_source(name).sha256() for name in ("org/tiny", "org/large")] == online
        assert read_source("org/large").source == f"org/large@{COMMIT}"
    hub.broken = True
    assert read_source("org/tiny@main").sha256() == online[0]


def test_a_cache_without_the_configuration_is_not_enough(hub: Any, single: Path) -> None:
    """The configuration counts: a copy of the weights alone must not pass for the whole."""
    hub.publish("org/tiny", single)
    read_source("org/tiny")
    [cached] = Path(os.fspath(hub.root.parent / "cache")).glob("models--org--tiny/snapshots/*/config.json")
    cached.unlink()
    with without_network():
        assert "HF_HUB_OFFLINE is set, and the cache has no config.json of revision 'main'" in refused("org/tiny")


def test_a_shard_that_is_not_in_the_cache_is_named(hub: Any, sharded: Path) -> None:
    hub.publish("org/large", sharded)
    read_source("org/large")
    [cached] = (hub.root.parent / "cache").glob(f"models--org--large/snapshots/*/{SECOND}")
    cached.unlink()
    with without_network():
        assert f"the cache has no {SECOND}" in refused("org/large")


def test_what_the_hub_refuses_is_said_in_one_line(hub: Any, single: Path, sharded: Path) -> None:
    hub.publish("org/tiny", single)
    hub.publish("org/gated", single)
    hub.publish("org/torn", sharded)
    (hub.root / "org/torn" / COMMIT / SECOND).unlink()
    assert "it has no such model, or a private one" in refused("org/nothing")
    assert "it has no such model, or a private one" in refused("nothing")
    assert "it is gated: accept its terms" in refused("org/gated")
    assert "it has no revision 'v7' of this model" in refused("org/tiny@v7")
    assert f"org/torn@{COMMIT} has no {SECOND}, which its index names" in refused("org/torn")
    assert "this is no id of a model" in refused("org/ti ny")
    hub.broken = True
    assert "no checkpoint at org/other" in refused("org/other")
    with without_network():
        message = "no checkpoint at org/other: give a directory or a file that exists, or a Hub id; of the Hub: "
        assert refused("org/other").startswith(message + "HF_HUB_OFFLINE is set, and the cache has no config.json")


def test_a_hub_out_of_reach_is_said_in_one_line(
    hub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nobody)
    assert "it cannot be reached, and the cache has no config.json" in refused("org/tiny")
    assert capfd.readouterr().err == ""


def test_an_index_on_the_hub_cannot_point_elsewhere(hub: Any, sharded: Path) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    hub.publish("org/hostile", sharded)
    assert "which is no .safetensors file name" in refused("org/hostile")
    assert hub.sent == ["config.json", INDEX]


def test_a_repository_without_safetensors_is_refused(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text("{}")
    (tmp_path / "old/pytorch_model.bin").write_bytes(b"")
    hub.publish("org/old", tmp_path / "old")
    assert f"org/old@{COMMIT} holds no safetensors weights" in refused("org/old")
    (tmp_path / "old/adapter_config.json").write_text("{}")
    hub.publish("org/adapter", tmp_path / "old")
    assert "is an adapter: give its base too, as BASE,peft=org/adapter" in refused("org/adapter")
    assert "pytorch_model.bin" not in hub.sent


@pytest.mark.parametrize(
    "source", ["./gone", "/gone/model", "~/gone", "a/b/c", "gone.safetensors", "", "@v1", "x.gguf"]
)
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(hub: Any, source: str) -> None:
    assert f"no checkpoint at {source}: give a directory or a .safetensors file" in refused(source)
    assert hub.sent == []


@pytest.mark.parametrize("source", [",peft=x", "x,peft=", "x,peft=y,peft=z"])
def test_half_a_pair_is_refused(source: str) -> None:
    assert "must be BASE,peft=ADAPTER" in refused(source, UsageError)


def test_a_folder_of_the_cache_is_a_mirror(tmp_path: Path, single: Path, sharded: Path) -> None:
    mirror = tmp_path / "models--org--tiny"
    (mirror / "refs").mkdir(parents=True)
    (mirror / "snapshots").mkdir()
    assert "does not hold revision main: it holds nothing" in refused(mirror)
    single.rename(mirror / "snapshots" / COMMIT)
    assert read_source(mirror).source == f"org/tiny@{COMMIT}"
    sharded.rename(mirror / "snapshots" / TAGGED)
    assert f"does not hold revision main: it holds {COMMIT}, {TAGGED}" in refused(mirror)
    (mirror / "refs" / "main").write_text(f"{TAGGED}\n")
    assert read_source(mirror).source == f"org/tiny@{TAGGED}"
    assert read_source(f"{mirror}@{COMMIT}").source == f"org/tiny@{COMMIT}"
    for revision in ("v2", "../refs/main", "/etc/hostname"):
        assert f"does not hold revision {revision}" in refused(f"{mirror}@{revision}")
    assert cached_snapshot(tmp_path, None) is None


def test_the_command_heeds_the_environment(hub: Any, sharded: Path, tmp_path: Path) -> None:
    hub.publish("org/tiny", sharded)
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", "from lm_bounds.cli import main; main()", "compress", "org/tiny"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"org/tiny@{COMMIT}: 10 parameters in 2 tensors, sha256 ")
    assert list((tmp_path / "home").glob("hub/models--org--tiny/snapshots/*/config.json"))
    n_sent = len(hub.sent)
    assert run(HF_HUB_OFFLINE="1").stdout.splitlines()[0] == done.stdout.splitlines()[0]
    assert len(hub.sent) == n_sent
