"""Which documents a path holds, and the pieces they are cut into."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import text_documents
from lm_bounds.corpora.source_files import source_files
from lm_bounds.errors import CorpusError


def test_folder_order_and_what_is_skipped(text_dir: Path, opened: Any, documents: Any, plain_bytes: Any) -> None:
    for name, text in {
        "b.txt": "b",
        "a/z.md": "z",
        "a.txt": "dot before slash",  # "a.txt" < "a/z.md" as strings
        "B": "upper case first",
        "empty.txt": "",
        "e.jsonl": '{"text": "j1"}\n\n{"text": ""}\n{"text": "j2", "other": 1}',
        "bom.txt": "\ufeffx",
        "only_bom.txt": "\ufeff",
        ".hidden": "no",
        ".git/config": "no",
        "a/__pycache__/m.txt": "no",
    }.items():
        (text_dir / name).parent.mkdir(exist_ok=True, parents=True)
        (text_dir / name).write_bytes(text.encode())
    corpus = opened(text_dir, plain_bytes())
    assert [bytes(ids[:-1]).decode() for ids in documents(corpus)] == [
        "upper case first",
        "dot before slash",
        "z",
        "b",
        "x",
        "j1",
        "j2",
    ]
    assert all(ids[-1] == 256 for ids in documents(corpus))


def test_jsonl_equals_separate_files(byte_tokenizer: Any, text_dir: Path, opened: Any) -> None:
    texts = ["one\n", "zwei é", "\ttrois\r\n\r\n", "", "🙂", " "]
    for number, text in enumerate(texts):
        (text_dir / f"{number}.txt").write_bytes(text.encode())
    lines = "\r\n".join(json.dumps({"id": 1, "text": text}) for text in texts)
    (text_dir.parent / "all.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (text_dir.parent / "CAPITALS.JSONL").write_text(lines + "\n\n \n", encoding="utf-8")
    separate = opened(text_dir, byte_tokenizer)
    for name in ("all.jsonl", "CAPITALS.JSONL"):
        joined = opened(text_dir.parent / name, byte_tokenizer)
        assert joined.sha256() == separate.sha256()
    assert separate.n_documents == 5


def test_links_are_followed_and_loops_are_not(text_dir: Path, opened: Any, documents: Any, plain_bytes: Any) -> None:
    outside = text_dir.parent / "outside"
    outside.mkdir()
    (outside / "o.txt").write_text("o")
    (text_dir / "sub").mkdir()
    (text_dir / "sub" / "s.txt").write_text("s")
    (text_dir / "sub" / "up").symlink_to(text_dir)
    (text_dir / "linked").symlink_to(outside)
    (text_dir / "file.txt").symlink_to(outside / "o.txt")  # a second name of linked/o.txt: read once
    corpus = opened(text_dir, plain_bytes())
    assert documents(corpus) == [[ord("o"), 256], [ord("s"), 256]]


def pieces_slowly(text: str, n_chars: int) -> list[str]:
    """The rule, one character at a time."""
    pieces, piece = [], ""
    for char in text:
        piece += char
        if (len(piece) >= n_chars and char == "\n") or len(piece) == 2 * n_chars:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece else pieces


def split(text: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.txt")
        path.write_bytes(text.encode())
        return [piece.text for piece in text_documents.text_pieces(source_files(path))]


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab\n\r\u2028é🙂", max_size=60), n_chars=st.integers(1, 9))
def test_pieces_follow_the_rule(text: str, n_chars: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_documents, "PIECE_CHARS", n_chars)
        pieces = split(text)
        assert pieces == pieces_slowly(text, n_chars)
        assert "".join(pieces) == text
        for count in range(len(pieces)):  # what comes later changes no earlier piece
            assert split("".join(pieces[:count]) + "b\nb")[:count] == pieces[:count]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sub/image.png", b"\x89PNG\r\n\0", r"image\.png is not"),
        ("sub/t.bin", b"ascii", r"t\.bin: a token file inside a folder"),
        ("t.parquet", b"PAR1", r"t\.parquet does not end as a parquet file does"),
    ],
)
def test_files_in_a_folder_that_are_not_text(
    text_dir: Path, name: str, content: bytes, message: str, opened: Any, plain_bytes: Any
) -> None:
    (text_dir / "sub").mkdir()
    (text_dir / "a.txt").write_text("fine")
    (text_dir / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        opened(text_dir, plain_bytes())


@pytest.mark.parametrize("target", ["missing.txt", "link.txt"])
def test_broken_links_are_named(text_dir: Path, target: str, opened: Any, plain_bytes: Any) -> None:
    (text_dir / "link.txt").symlink_to(text_dir / target)
    with pytest.raises(CorpusError, match=r"link\.txt cannot be read"):
        opened(text_dir, plain_bytes())
