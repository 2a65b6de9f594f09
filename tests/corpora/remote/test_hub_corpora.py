"""Every corpus on the Hub: its files, and what is said where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora import CorpusSpec, corpus_specs
from lm_bounds.corpora.byte_source import ByteRange
from lm_bounds.corpora.stored_files import open_stored_files
from lm_bounds.errors import CorpusError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPECS = [spec for spec in corpus_specs().values() if spec.hub is not None]
each_corpus = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)


def names_of(spec: CorpusSpec, numbers: range = range(3)) -> list[str]:
    """Names of files as they are on the Hub."""
    assert spec.hub is not None
    return [spec.hub.files.replace("*", f"{number:05}", 1).replace("*", "0f1e2d") for number in numbers]


@pytest.fixture
def published(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Hub with three files of each corpus at every revision, and others that are not theirs."""
    for spec in SPECS:
        assert spec.hub is not None
        files = {name: name.encode() for name in names_of(spec)}
        hub.repositories[spec.hub.repository] = {**files, "README.md": b"about", f"{spec.hub.folder}/x.idx": b"x"}
    return hub


def opened(spec: CorpusSpec, cache: Path, path: str | None = None) -> Any:
    assert spec.hub is not None
    revision = "main"  # the server knows no other branch
    hub = type(spec.hub)(**{**vars(spec.hub), "revision": revision})
    return open_stored_files(spec.id, hub, path, cache)


def content(source: Any) -> list[bytes]:
    found: list[bytes] = source.read_many([ByteRange(n, 0, file.n_bytes) for n, file in enumerate(source.files)])
    return found


@each_corpus
def test_its_files_are_those_of_a_copy(spec: CorpusSpec, published: Any, tmp_path: Path) -> None:
    """In a folder of their own, and in a copy of the whole repository."""
    assert spec.hub is not None
    afar = opened(spec, tmp_path / "cache")
    assert [file.name for file in afar.files] == names_of(spec)
    assert content(afar) == [name.encode() for name in names_of(spec)]
    assert afar.source == f"hf://datasets/{spec.hub.repository}@{COMMIT}/{spec.hub.files}"
    whole = tmp_path / "whole"
    for name, found in published.repositories[spec.hub.repository].items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_bytes(found)
    for place in (whole, whole / spec.hub.folder):
        assert content(opened(spec, tmp_path / "cache", str(place))) == content(afar)
    (whole / names_of(spec)[1]).unlink()
    with pytest.raises(CorpusError, match=r"shard 1 of .* is missing; all between two are needed"):
        opened(spec, tmp_path / "cache", str(whole))


@each_corpus
def test_without_network_it_is_what_was_read_before(
    spec: CorpusSpec, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = content(opened(spec, tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    published.asked.clear()
    published.listed.clear()
    assert content(opened(spec, tmp_path / "cache")) == wanted
    refused = says(spec, tmp_path / "empty")
    assert "HF_HUB_OFFLINE is set and it was not opened before: unset it" in refused
    assert published.asked == published.listed == []


def says(spec: CorpusSpec, cache: Path) -> str:
    """The one line with which a corpus is refused, which says what was tried and what to do."""
    assert spec.hub is not None
    with pytest.raises(CorpusError) as caught:
        opened(spec, cache)
    message = str(caught.value)
    assert message.startswith(f"corpus {spec.id!r}, files {spec.hub.pattern} of {spec.hub.repository} on the Hub: ")
    assert "pass corpus_path=FOLDER" in message
    assert "\n" not in message
    return message


@each_corpus
def test_a_hub_that_refuses_is_one_line(
    spec: CorpusSpec, published: Any, tmp_path: Path, pauses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spec.hub is not None
    published.refuses_lists = (401, "GatedRepo")
    assert "status 401 (GatedRepo): set HF_TOKEN where it needs one" in says(spec, tmp_path / "cache")
    published.refuses_lists = (503, "")
    assert "not to be had in 4 attempts, the last one: status 503" in says(spec, tmp_path / "cache")
    published.refuses_lists = None
    del published.repositories[spec.hub.repository]
    refused = says(spec, tmp_path / "cache")
    assert f"{published.address}/api/datasets/{spec.hub.repository}/revision/main: status 404 (RepoNotFound)" in refused
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9/api/datasets" in says(spec, tmp_path / "cache")


@each_corpus
def test_files_that_are_not_its_own_are_refused(spec: CorpusSpec, published: Any, tmp_path: Path) -> None:
    assert spec.hub is not None
    files = published.repositories[spec.hub.repository]
    before, _, after = spec.hub.files.partition("*")
    files[f"{before}one{after.replace('*', '0')}"] = b"no number"
    with pytest.raises(CorpusError, match="is not one of the numbered shards"):
        opened(spec, tmp_path / "cache")
    if spec.hub.n_files is not None:
        more = dict.fromkeys(names_of(spec, range(spec.hub.n_files + 1)), b"x")
        published.repositories[spec.hub.repository] = more
        with pytest.raises(CorpusError, match=f"and the corpus has {spec.hub.n_files}; keep others"):
            opened(spec, tmp_path / "cache")


def test_the_environment_is_heeded(published: Any, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HUB_OFFLINE, as they are set before Python starts."""
    script = (
        "import sys; from pathlib import Path; from lm_bounds.corpora import HubFiles\n"
        "from lm_bounds.corpora.stored_files import open_stored_files\n"
        "hub = HubFiles('LLM360/AmberDatasets', 'main', 'train/train_*.jsonl', 360)\n"
        "print([file.place for file in open_stored_files('amber', hub, None, Path(sys.argv[1])).files][0])"
    )

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "cache")],
            env={**inherited, "NO_PROXY": "127.0.0.1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    offline = run(HF_ENDPOINT=published.address, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "HF_HUB_OFFLINE is set and it was not opened before" in offline.stderr
    address = f"{published.address}/datasets/LLM360/AmberDatasets/resolve/{COMMIT}/train/train_00000.jsonl"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = run(HF_ENDPOINT=published.address, **environment)
        assert done.stdout.strip() == address, done.stderr
