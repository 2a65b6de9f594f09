"""Data sets on the Hub: one commit, and again without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora.byte_source import ByteRange, open_bytes, parse_place
from lm_bounds.errors import CorpusError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"data/part-2.bin": b"two", "data/part-10.bin": b"ten", "data/notes.txt": b"text", "README.md": b"about"}


@pytest.fixture
def published(hub: Any) -> Any:
    hub.repositories["org/set"] = dict(FILES)
    return hub


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("hf://datasets/org/set", sorted(FILES)),
        ("hf://datasets/org/set@main/data", ["data/notes.txt", "data/part-10.bin", "data/part-2.bin"]),
        ("hf://datasets/org/set/data/*.bin", ["data/part-10.bin", "data/part-2.bin"]),
        (f"hf://datasets/org/set@{COMMIT}/README.md", ["README.md"]),
        ("hf://datasets/org/set@refs%2Fpr%2F1/README.md", ["README.md"]),
    ],
)
def test_files_are_those_of_the_place(published: Any, place: str, names: list[str], tmp_path: Path) -> None:
    source = open_bytes(place, tmp_path / "cache")
    assert [file.name for file in source.files] == names
    assert source.source.startswith(f"hf://datasets/org/set@{COMMIT}")
    ranges = [ByteRange(number, 0, file.n_bytes) for number, file in enumerate(source.files)]
    assert source.read_many(ranges) == [FILES[name] for name in names]
    assert {path for path, _ in published.asked} == {f"/datasets/org/set/resolve/{COMMIT}/{name}" for name in names}


def test_the_token_goes_to_the_hub(published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = open_bytes("hf://datasets/org/set/README.md", tmp_path / "cache")
    source.read_many([ByteRange(0, 0, 2)])
    assert published.tokens == {"Bearer hf_secret"}


def test_what_was_read_is_there_without_network(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, wanted = "hf://datasets/org/set/data", [ByteRange(1, 0, 3)]
    assert open_bytes(place, tmp_path / "cache").read_many(wanted) == [b"ten"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    published.asked.clear()
    published.listed.clear()
    source = open_bytes(place, tmp_path / "cache")
    assert source.read_many(wanted) == [b"ten"]
    assert source.source == f"hf://datasets/org/set@{COMMIT}/data"
    with pytest.raises(CorpusError, match="HF_HUB_OFFLINE is set and these were not read before: unset it, or pass"):
        source.read_many([ByteRange(0, 0, 3)])
    with pytest.raises(CorpusError, match=r"HF_HUB_OFFLINE is set and it was not opened before.*corpus_path=FOLDER"):
        open_bytes("hf://datasets/org/other", tmp_path / "cache")
    assert published.asked == published.listed == []


def test_a_commit_is_kept_to(published: Any, tmp_path: Path) -> None:
    """Blocks of files that did not change serve another revision too; the changed one is fetched."""
    wanted = [ByteRange(0, 0, 4), ByteRange(1, 0, 3)]
    open_bytes("hf://datasets/org/set/data", tmp_path / "cache").read_many(wanted)
    published.repositories["org/set"]["data/part-10.bin"] = b"TEN"
    published.asked.clear()
    assert open_bytes("hf://datasets/org/set/data", tmp_path / "cache").read_many(wanted) == [b"text", b"TEN"]
    assert [path.rpartition("/")[2] for path, _ in published.asked] == ["part-10.bin"]


def test_what_the_hub_does_not_have(published: Any, tmp_path: Path) -> None:
    for place, message in (
        ("hf://datasets/org/none", r"status 404 \(RepoNotFound\)"),
        ("hf://datasets/org/set@v9", r"status 404 \(RevisionNotFound\)"),
        ("hf://datasets/org/set/data/*.npy", "holds no file at commit 0123"),
    ):
        with pytest.raises(CorpusError, match=message):
            open_bytes(place, tmp_path / "cache")
    for place in ("hf://datasets/org", "hf://models/org/set", "hf://datasets/org/set@"):
        with pytest.raises(UsageError, match="a place on the Hub is hf://datasets/ORG/NAME@REVISION/PATH"):
            parse_place(place)


def test_a_hub_out_of_reach_is_one_line(published: Any, tmp_path: Path, pauses: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match=r"not to be had in 4 attempts.*corpus_path=FOLDER") as caught:
        open_bytes("hf://datasets/org/set", tmp_path / "cache")
    assert "\n" not in str(caught.value)
