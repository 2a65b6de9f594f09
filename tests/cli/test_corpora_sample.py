"""``lm-bounds corpora sample``: windows of a corpus as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LM_BOUNDS_HOME", str(tmp_path / "home"))
    path = tmp_path / "book.txt"
    path.write_text("Zwölf Boxkämpfer jagen Viktor.\n" * 40, encoding="utf-8")
    return path


def test_windows_of_text_are_pieces_of_it(command: Callable[..., Any], text: Path) -> None:
    done = command("corpora", "sample", "local", "--corpus_path", text, "--n", 5, "--context", 31, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    content = text.read_bytes()
    assert report["tokens"] == len(content) + 1
    assert len(report["windows"]) == 5
    for window in report["windows"]:
        assert window["start"] <= window["token_index"] < window["stop"] <= window["start"] + 31
        assert content[window["start"] : window["stop"]].decode(errors="replace").startswith(window["text"][:10])


def test_the_seed_decides(command: Callable[..., Any], text: Path) -> None:
    def windows(*options: Any) -> Any:
        done = command("corpora", "sample", "local", "--corpus_path", text, "--n", 4, "--json", *options)
        return json.loads(done.out)["windows"]

    assert windows() == windows("--draw_seed", 1234) != windows("--draw-seed", 1)


def test_corpora_with_a_tokenizer_of_their_own_need_none(command: Callable[..., Any]) -> None:
    done = command("corpora", "sample", "structured", "--n", 2)
    assert done.code == 0
    assert done.out.count("of 1,000,000,000, window") == 2
    assert "," in done.out.splitlines()[1]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tokenizer can be loaded."""

    def fail(name: str) -> Any:
        raise OSError(f"{name} is out of reach\nTraceback")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("pile",),
            "loaded from 'EleutherAI/pythia-70m': EleutherAI/pythia-70m is out of reach; put",
        ),
        (("pile",), "corpus 'pile' is stored as token ids: pass --tokenizer DIR or a Hub id to read them"),
        (("local",), "corpus 'local' needs its place: pass --corpus_path FILE-OR-FOLDER"),
        (("lokal",), "unknown corpus 'lokal': did you mean 'local'?"),
        (("structured", "--tokenizer", "/nowhere/tokenizer"), "no tokenizer could be loaded from '/nowhere/tokenizer'"),
        (("structured", "--n", "0"), "--n"),
    ],
)
def test_what_cannot_be_shown_is_one_line(command: Callable[..., Any], arguments: Any, message: str) -> None:
    done = command("corpora", "sample", *arguments)
    assert done.code != 0
    assert message in done.error
    assert done.out == ""


def test_token_ids_need_a_tokenizer(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(bytes(64))
    done = command("corpora", "sample", "local", "--corpus_path", tmp_path / "ids.bin")
    assert "is stored as token ids: pass --tokenizer" in done.error


def test_places_of_a_corpus_whose_tokens_nobody_counted(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers have gaps: they are not those of tokens."""
    monkeypatch.setenv("LM_BOUNDS_HOME", str(tmp_path / "home"))
    folder = tmp_path / "copy" / "plain_text"
    folder.mkdir(parents=True)
    table = pytest.importorskip("pyarrow").table({"text": ["Zwölf Boxkämpfer"] * 9})
    pytest.importorskip("pyarrow.parquet").write_table(table, folder / "train-00000-of-00080.parquet")
    done = command("corpora", "sample", "openwebtext", "--corpus_path", tmp_path / "copy", "--n", 2)
    assert (done.code, done.err) == (0, "")
    assert len([line for line in done.out.splitlines() if line.startswith("place ")]) == 2
    assert "Boxk" in done.out
