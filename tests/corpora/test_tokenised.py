"""Tokens are made once, whole or not at all, and again whenever anything they depend on changes."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora import text_documents, tokenised
from lm_bounds.errors import CorpusError


@pytest.mark.parametrize("batch_chars", [1, 150, 1 << 21])
def test_document_is_the_concatenation_of_its_pieces(
    prefix_tokenizer: Any,
    text_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_chars: int,
    opened: Any,
    documents: Any,
) -> None:
    monkeypatch.setattr(text_documents, "PIECE_CHARS", 4)
    monkeypatch.setattr(tokenised, "_BATCH_CHARS", batch_chars)
    pieces_of = {
        "abc\ndefg\nhijklmnopq": ["abc\n", "defg\n", "hijklmno", "pq"],
        "": [],
        "x": ["x"],
        "long line without an end": ["long lin", "e withou", "t an end"],
        "\n\n\n\n\n\n": ["\n\n\n\n", "\n\n"],
    }
    (text_dir / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in pieces_of))
    corpus = opened(text_dir / "t.jsonl", prefix_tokenizer, end_of_text_id=1)
    expected = [
        [*itertools.chain(*prefix_tokenizer(pieces, add_special_tokens=False)["input_ids"]), 1]
        for pieces in pieces_of.values()
        if pieces
    ]
    assert documents(corpus) == expected
    whole = prefix_tokenizer(next(iter(pieces_of)), add_special_tokens=False)["input_ids"]
    assert expected[0] != [*whole, 1]  # this tokenizer tells pieces from whole documents


def test_small_documents_share_batches(byte_tokenizer: Any, text_dir: Path, opened: Any, counting: Any) -> None:
    (text_dir / "t.jsonl").write_text("".join(f'{{"text": "{i:03x}"}}\n' for i in range(16**3)))
    tokenizer = counting(byte_tokenizer)
    corpus = opened(text_dir / "t.jsonl", tokenizer)
    assert len(tokenizer.batches) == 1
    assert corpus.n_documents == 16**3
    assert corpus.n_tokens == 4 * 16**3


@pytest.mark.parametrize("copies", [(0, 1), (0, 2, 4), (1, 2), (3, 4), (0, 1, 2, 3, 4)])
def test_copies_of_a_document_are_left_out(
    copies: tuple[int, ...], byte_tokenizer: Any, text_dir: Path, opened: Any, documents: Any
) -> None:
    texts = [f"document {number} " * 7 for number in range(5)]
    for later in copies[1:]:
        texts[later] = texts[copies[0]]
    paths = [text_dir / "copies.jsonl", text_dir / "distinct.jsonl"]
    for path, written in zip(paths, (texts, list(dict.fromkeys(texts))), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in written))
    with_copies, distinct = (opened(path, byte_tokenizer) for path in paths)
    assert documents(with_copies) == documents(distinct)
    assert (
        with_copies.sha256() == distinct.sha256() == opened(paths[0], byte_tokenizer).sha256()
    )  # the last one from the cache


def test_long_copies_are_left_out_piece_by_piece(
    byte_tokenizer: Any, text_dir: Path, monkeypatch: pytest.MonkeyPatch, opened: Any, documents: Any
) -> None:
    monkeypatch.setattr(text_documents, "PIECE_CHARS", 16)
    folder = text_dir / "folder"
    folder.mkdir()
    for name, text in (("a", "one\n" * 50), ("b", "one\n" * 49), ("c", "one\n" * 50), ("d", "two\n" * 50)):
        (folder / f"{name}.txt").write_text(text)
    assert [len(document) for document in documents(opened(folder, byte_tokenizer))] == [201, 197, 201]


def test_batches_are_bounded(
    byte_tokenizer: Any, text_dir: Path, monkeypatch: pytest.MonkeyPatch, opened: Any, counting: Any
) -> None:
    monkeypatch.setattr(tokenised, "_BATCH_CHARS", 1000)
    (text_dir / "t.jsonl").write_text('{"text": "abc"}\n' * 100)
    tokenizer = counting(byte_tokenizer)
    opened(text_dir / "t.jsonl", tokenizer)
    assert 1 < len(tokenizer.batches) < 20
    assert sum(len(batch) for batch in tokenizer.batches) == 100


@pytest.mark.parametrize("ids", [[-1], [1 << 32], [None], ["a"]])
def test_tokenizer_that_gives_no_ids(text_dir: Path, ids: list[Any], opened: Any, plain_bytes: Any) -> None:
    class Broken(plain_bytes):
        def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
            return {"input_ids": [ids for _ in text]}

    (text_dir / "a.txt").write_text("a")
    with pytest.raises(CorpusError, match="the tokenizer gave"):
        opened(text_dir / "a.txt", Broken())


def test_cache_is_used_again(
    byte_tokenizer: Any, text_dir: Path, opened: Any, documents: Any, cache_files: Any, counting: Any
) -> None:
    for name in ("a", "b"):
        (text_dir / name).write_text(name * 10)
    tokenizer = counting(byte_tokenizer)
    first = opened(text_dir, tokenizer)
    second = opened(text_dir, tokenizer)
    assert len(tokenizer.batches) == 1
    assert second.sha256() == first.sha256()
    assert documents(second) == documents(first)
    assert len(cache_files()) == 1


@pytest.mark.parametrize("damage", ["truncate", "empty", "header", "token", "start", "append"])
def test_damaged_cache_is_made_again(
    text_dir: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
    opened: Any,
    cache_files: Any,
    plain_bytes: Any,
) -> None:
    (text_dir / "a").write_text("some text")
    (text_dir / "b").write_text("more")
    reference = opened(text_dir, plain_bytes()).sha256()
    (file,) = cache_files()
    whole = file.read_bytes()
    flipped = {"header": 9, "token": 64, "start": len(whole) - 8}
    damaged = bytearray(whole)
    if damage in flipped:
        damaged[flipped[damage]] ^= 1
    shapes = {"truncate": damaged[:-1], "empty": b"", "append": damaged + b"\0\0\0\0"}
    file.unlink()  # the first corpus still maps the old file
    file.write_bytes(shapes.get(damage, damaged))
    with caplog.at_level(logging.WARNING):
        assert opened(text_dir, plain_bytes()).sha256() == reference
    assert "damaged" in caplog.text
    assert file.read_bytes() == whole
    assert cache_files() == [file]


def test_what_the_tokens_depend_on_changes_the_cache_file(
    byte_tokenizer: Any,
    text_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: Any,
    cache_files: Any,
    plain_bytes: Any,
) -> None:
    def count(tokenizer: Any = byte_tokenizer, end_of_text_id: int | None = 256) -> int:
        opened(text_dir, tokenizer, end_of_text_id=end_of_text_id)
        return len(cache_files())

    (text_dir / "a").write_text("ab")
    assert count() == 1
    assert count() == 1
    status = (text_dir / "a").stat()
    (text_dir / "a").write_text("ac")
    # same size, same time, other content
    os.utime(text_dir / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert count() == 2
    assert opened(text_dir, plain_bytes()).tokens.tolist() == [97, 99, 256]
    (text_dir / "a").rename(text_dir / "a.jsonl")
    (text_dir / "a.jsonl").write_text('{"text": "ac"}')
    assert count() == 4  # the one above is of another tokenizer
    assert count(end_of_text_id=None) == 5
    monkeypatch.setattr(text_documents, "PIECE_CHARS", 1)
    assert count() == 6


def test_contents_cannot_move_between_files(text_dir: Path, opened: Any, documents: Any, plain_bytes: Any) -> None:
    (text_dir / "a").write_text("xy")
    (text_dir / "b").write_text("z")
    opened(text_dir, plain_bytes())
    (text_dir / "a").write_text("x")
    (text_dir / "b").write_text("yz")
    assert documents(opened(text_dir, plain_bytes())) == [[120, 256], [121, 122, 256]]


def test_failure_leaves_no_file(text_dir: Path, opened: Any, cache_files: Any, plain_bytes: Any) -> None:
    class Failing(plain_bytes):
        def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
            raise KeyboardInterrupt

    (text_dir / "a").write_text("a")
    tokenizer: Any = Failing()
    tokenizer.backend_tokenizer = type("Backend", (), {"to_str": lambda self: "{}"})()
    with pytest.raises(KeyboardInterrupt):
        opened(text_dir, tokenizer)
    assert cache_files() == []


def test_text_that_changes_while_it_is_read(text_dir: Path, opened: Any, cache_files: Any, plain_bytes: Any) -> None:
    class Writing(plain_bytes):
        def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
            with (text_dir / "a").open("a") as stream:
                stream.write("more")
            return super().__call__(text, add_special_tokens=add_special_tokens, verbose=verbose)

    (text_dir / "a").write_text("a")
    with pytest.raises(CorpusError, match="was changed while it was read"):
        opened(text_dir, Writing())
    assert cache_files() == []


def test_concurrent_runs(text_dir: Path, opened: Any, cache_files: Any, plain_bytes: Any) -> None:
    (text_dir / "a.jsonl").write_text('{"text": "abc"}\n' * 2000)
    with ThreadPoolExecutor(4) as pool:
        corpora = list(pool.map(lambda _: opened(text_dir, plain_bytes()), range(8)))
    assert len({corpus.sha256() for corpus in corpora}) == 1
    assert len(cache_files()) == 1


def test_progress_is_for_terminals_alone(
    text_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: Any,
    plain_bytes: Any,
) -> None:
    monkeypatch.setattr(tokenised, "_PROGRESS_FROM_BYTES", 2)
    (text_dir / "a").write_text("abc")
    opened(text_dir / "a", plain_bytes())
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    opened(text_dir, plain_bytes())  # the file is the same, its corpus is the folder
    (text_dir / "a").write_text("abcd")
    opened(text_dir, plain_bytes())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tokenising" in captured.err
