"""The user's own corpus: exactly these tokens, exactly these documents, or a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora import TokenCorpus, open_local, tokenizer_sha256
from lm_bounds.errors import CorpusError, UsageError


def test_text_file_is_one_document(byte_tokenizer: Any, text_dir: Path, opened: Any) -> None:
    text = "First line é\r\nsecond\rthird\n\n\u2028no newline at the end 🙂"
    (text_dir / "a.txt").write_bytes(text.encode())
    corpus = opened(text_dir / "a.txt", byte_tokenizer)
    assert byte_tokenizer.decode(corpus.tokens[:-1].tolist()) == text  # line endings are kept
    assert corpus.n_tokens == len(text.encode()) + 1
    assert corpus.tokens[-1] == 256
    assert corpus.document_starts.tolist() == [0]
    assert (corpus.corpus_id, corpus.source) == ("local", str(text_dir / "a.txt"))
    assert corpus.n_tokens_kind == "exact"
    assert corpus.tokenizer_sha256 == tokenizer_sha256(byte_tokenizer)


def test_without_end_of_text_documents_are_kept_apart(
    text_dir: Path, opened: Any, documents: Any, plain_bytes: Any
) -> None:
    (text_dir / "a.txt").write_text("ab")
    (text_dir / "b.txt").write_text("c")
    corpus = opened(text_dir, plain_bytes(), end_of_text_id=None)
    assert documents(corpus) == [[97, 98], [99]]


def test_special_tokens_in_the_text_end_documents(
    word_tokenizer: Any, text_dir: Path, opened: Any, documents: Any
) -> None:
    (text_dir / "t.txt").write_text("a b <|end|> c <|end|><|end|> a zzz")
    corpus = opened(text_dir / "t.txt", word_tokenizer, end_of_text_id=4)
    assert documents(corpus) == [[1, 2, 4], [3, 4], [4], [1, 0, 4]]


def test_documents_whose_text_gives_no_tokens_vanish(
    word_tokenizer: Any, text_dir: Path, opened: Any, documents: Any
) -> None:
    (text_dir / "t.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in ["  ", "a", "", " ", "b", ""]))
    corpus = opened(text_dir / "t.jsonl", word_tokenizer, end_of_text_id=4)
    assert documents(corpus) == [[1, 4], [2, 4]]


def test_bin_is_mapped_as_uint16(
    byte_tokenizer: Any, text_dir: Path, opened: Any, documents: Any, cache_files: Any
) -> None:
    ids = [5, 256, 256, 7, 8]
    (text_dir / "t.bin").write_bytes(np.array(ids, dtype="<u2").tobytes())
    corpus = opened(text_dir / "t.bin", byte_tokenizer)
    assert isinstance(corpus.tokens, np.memmap)
    assert corpus.tokens.dtype == np.uint16
    assert documents(corpus) == [[5, 256], [256], [7, 8]]  # nothing is added
    assert cache_files() == []


def test_bin_is_uint32_for_more_than_65536_ids(text_dir: Path, opened: Any, documents: Any, plain_bytes: Any) -> None:
    class Large(plain_bytes):
        n_ids = 65_537

        def __len__(self) -> int:
            return self.n_ids

    (text_dir / "t.bin").write_bytes(np.array([65_536, 1, 65_536], dtype="<u4").tobytes())
    corpus = opened(text_dir / "t.bin", Large(), end_of_text_id=65_536)
    assert corpus.tokens.dtype == np.uint32
    assert documents(corpus) == [[65_536], [1, 65_536]]
    largest_16 = Large()
    largest_16.n_ids = 65_536
    assert opened(text_dir / "t.bin", largest_16, end_of_text_id=None).n_tokens == 6


def test_bin_ids_are_checked(byte_tokenizer: Any, text_dir: Path, cache_dir: Path) -> None:
    path = text_dir / "t.bin"
    path.write_bytes(np.array([5, 300, 400], dtype="<u2").tobytes())

    def read(n_logits: int | None) -> TokenCorpus:
        return open_local(path, byte_tokenizer, end_of_text_id=None, n_logits=n_logits, cache_dir=cache_dir)

    with pytest.raises(CorpusError, match="token 1 has the id 300, ids must be below 257"):
        read(None)
    with pytest.raises(CorpusError, match="token 2 has the id 400, ids must be below 400"):
        read(400)
    assert read(401).n_tokens == 3


def test_ids_of_text_are_checked_against_the_model(text_dir: Path, cache_dir: Path, plain_bytes: Any) -> None:
    (text_dir / "t.txt").write_bytes(b"aaz")
    for _ in range(2):  # from the cache too
        with pytest.raises(CorpusError, match="token 2 has the id 122, ids must be below 100"):
            open_local(text_dir / "t.txt", plain_bytes(), end_of_text_id=None, n_logits=100, cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "no text that gives tokens"),
        ("t.txt", b"\xef\xbb\xbf", "no text that gives tokens"),
        ("t.jsonl", b"\n \n", "no text that gives tokens"),
        ("t.jsonl", b'{"text": ""}', "no text that gives tokens"),
        ("t.txt", b"text\0more", "NUL"),
        ("t.txt", b"\xff\xfet\0e\0", "not UTF-8"),
        ("t.txt", b"caf\xe9", "not UTF-8"),
        ("t.txt", b"cut short \xf0\x9f", "not UTF-8"),
        ("t.jsonl", b'{"text": "caf\xe9"}', "not UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "b"', r"t\.jsonl:2: not JSON"),
        ("t.jsonl", b'\n\n{"text": "a"} x', r"t\.jsonl:3: not JSON"),
        ("t.jsonl", b"[" * 100_000, r"t\.jsonl:1: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n["text"]', r"t\.jsonl:2: found a JSON list"),
        (
            "t.jsonl",
            b'{"content": "a", "id": 3}',
            r"t\.jsonl:1: .*found the fields: content \(str\), id \(int\)",
        ),
        ("t.jsonl", b'{"text": null}', r"found the fields: text \(NoneType\)"),
        ("t.jsonl", b"{}", "found the fields: none"),
        ("t.jsonl", b'{"text": "\\ud83d"}', r"t\.jsonl:1: .*surrogate"),
        ("t.bin", b"", "is empty"),
        ("t.bin", b"\0\0\0", "3 bytes, not a multiple of 2"),
        ("t.parquet", b"PAR1", "does not end as a parquet file does"),
        ("t.arrow", b"", "cannot be read as arrow"),
        ("t.arrow", b"text", "cannot be read as arrow"),
        ("t.arrow", b"ARROW1\0\0", "cannot be read as arrow"),
    ],
)
def test_malformed_files(
    text_dir: Path, name: str, content: bytes, message: str, opened: Any, cache_files: Any, plain_bytes: Any
) -> None:
    (text_dir / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        opened(text_dir / name, plain_bytes())
    assert "\n" not in str(caught.value)
    assert str(text_dir) in str(caught.value)
    assert cache_files() == []  # nothing half-written stays


def test_paths_that_hold_no_text(text_dir: Path, cache_dir: Path, opened: Any, plain_bytes: Any) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        opened(text_dir / "missing", plain_bytes())
    (text_dir / "a.txt").write_text("")
    with pytest.raises(CorpusError, match="does not exist"):
        opened(text_dir / "a.txt" / "below", plain_bytes())
    with pytest.raises(CorpusError, match="no text that gives tokens"):
        opened(text_dir, plain_bytes())
    with pytest.raises(CorpusError, match="cannot be read"):
        opened(Path(f"{text_dir}/nul\0"), plain_bytes())
    with pytest.raises(UsageError, match="empty"):
        open_local("", plain_bytes(), end_of_text_id=None, n_logits=None, cache_dir=cache_dir)
    os.mkfifo(text_dir / "fifo")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        opened(text_dir / "fifo", plain_bytes())


def test_permissions(text_dir: Path, monkeypatch: pytest.MonkeyPatch, opened: Any, plain_bytes: Any) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (text_dir / "a.txt").write_text("a")
    (text_dir / "a.bin").write_bytes(b"aa")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        with pytest.raises(CorpusError, match="cannot be listed: Permission denied"):
            opened(text_dir, plain_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(CorpusError, match=r"a\.txt cannot be read: Permission denied"):
            opened(text_dir / "a.txt", plain_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", denied)
        with pytest.raises(CorpusError, match=r"a\.bin cannot be read: Permission denied"):
            opened(text_dir / "a.bin", plain_bytes())
    (text_dir / "file").write_text("")
    with pytest.raises(CorpusError, match=r"cache folder .* cannot be used"):
        opened(text_dir / "a.txt", plain_bytes(), text_dir / "file" / "cache")


@pytest.mark.parametrize("end_of_text_id", [-1, 257])
def test_end_of_text_must_be_an_id(text_dir: Path, end_of_text_id: int, opened: Any, plain_bytes: Any) -> None:
    (text_dir / "a.txt").write_text("a")
    with pytest.raises(UsageError, match=r"end_of_text_id must be in \[0, 257\)"):
        opened(text_dir / "a.txt", plain_bytes(), end_of_text_id=end_of_text_id)


def test_cache_must_not_lie_among_the_documents(text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    (text_dir / "a.txt").write_text("a")
    for inside in (text_dir, text_dir / "cache" / "x"):
        with pytest.raises(UsageError, match="lies inside the corpus"):
            opened(text_dir, plain_bytes(), inside)
    assert opened(text_dir, plain_bytes(), text_dir / ".cache" / "x").n_tokens == 2
    assert opened(text_dir, plain_bytes(), text_dir / ".cache" / "x").n_tokens == 2


def test_import_is_light() -> None:
    code = "import sys, lm_bounds.corpora, lm_bounds.sampling; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "transformers", "tokenizers", "lm_eval", "yaml", "tqdm", "datasets", "pyarrow"]
    shown = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("wider", ["<u4", "<i8"])
def test_wider_integers_are_no_uint16(wider: str, byte_tokenizer: Any, text_dir: Path, opened: Any) -> None:
    ids = np.random.default_rng(0).integers(1, 200, 500)
    (text_dir / "t.bin").write_bytes(ids.astype(wider).tobytes())
    with pytest.raises(CorpusError, match=r"every second id is 0, .* write it with \.astype\('<u2'\)"):
        opened(text_dir / "t.bin", byte_tokenizer)
    (text_dir / "t.bin").write_bytes(ids.astype("<u2").tobytes())
    assert opened(text_dir / "t.bin", byte_tokenizer).n_tokens == 500
