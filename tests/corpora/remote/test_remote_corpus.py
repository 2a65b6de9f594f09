"""Corpora behind URLs and on the Hub are those of a copy on this machine."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora import (
    CorpusSpec,
    StoredTokens,
    check_source,
    corpus_spec,
    open_corpus,
    open_local,
    vocabulary_sha256,
)
from lm_bounds.corpora.flat_tokens import megatron, opening
from lm_bounds.corpora.registry import read_registry
from lm_bounds.corpora.stored_files import hub_place
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import draw_distinct_windows, draw_windows, draws_sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = {"stored": 9, "counted": 8, "skipped": 1}
N_ROWS = 2_000


class Bytes:
    """A tokenizer of bytes; more entries than its own may follow."""

    def __init__(self, n_entries: int = 257) -> None:
        self.n_entries = n_entries

    def __len__(self) -> int:
        return self.n_entries

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [list(item.encode()) for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {f"byte {value}": value for value in range(self.n_entries)}


def content(n_ids: int) -> bytes:
    ids = np.random.default_rng(3).integers(0, 257, n_ids)
    return ids.astype("<u2").tobytes()


def registered(revision: str = "main", n_tokens: int | None = 8 * N_ROWS, **changes: Any) -> CorpusSpec:
    spec = corpus_spec("pile")
    assert spec.hub is not None
    hub = replace(spec.hub, repository="org/rows", revision=revision)
    stored = StoredTokens("bytes", "org/bytes", 257, vocabulary_sha256(Bytes(), 257), 0)
    parameters = {**spec.parameters, "rows": ROWS, **changes}
    return replace(spec, hub=hub, stored_in=stored, parameters=parameters, n_tokens=n_tokens)


def opened(spec: CorpusSpec, path: str | None, cache: Path, tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or Bytes()
    return open_corpus(spec, path, tokenizer, end_of_text_id=256, n_logits=300, cache_dir=cache)


@pytest.fixture
def shards(hub: Any, tmp_path: Path) -> Path:
    """The rows, cut anywhere, on the Hub and on this machine; with files that are not theirs."""
    folder, rows = tmp_path / "copy", content(9 * N_ROWS + 5)
    folder.mkdir()
    pieces = [rows[:13_001], rows[13_001:30_000], rows[30_000:]]
    files = {f"document-{number:05}-of-00020.bin": piece for number, piece in enumerate(pieces)}
    files |= {"document.idx": b"index", "README.md": b"text"}
    for name, piece in files.items():
        (folder / name).write_bytes(piece)
    hub.repositories["org/rows"] = files
    return folder


def same(one: Any, other: Any) -> None:
    assert (one.n_tokens, one.sha256()) == (other.n_tokens, other.sha256())
    for draw in (draw_windows, draw_distinct_windows):
        windows = draw(one, 200, 5, seed=4)
        assert draws_sha256(windows) == draws_sha256(draw(other, 200, 5, seed=4))
        for start, stop in zip(windows.start.tolist(), windows.stop.tolist(), strict=True):
            assert one.read(start, stop).tolist() == other.read(start, stop).tolist()


def test_a_registered_corpus_is_that_of_its_copy(hub: Any, shards: Path, tmp_path: Path) -> None:
    spec = registered()
    afar, near = opened(spec, None, tmp_path / "cache"), opened(spec, str(shards), tmp_path / "cache")
    assert afar.n_tokens == 8 * N_ROWS
    assert afar.source == f"hf://datasets/org/rows@{COMMIT}/document-*-of-00020.bin"
    same(afar, near)
    stored = np.frombuffer(
        b"".join(hub.repositories["org/rows"][f"document-0000{n}-of-00020.bin"] for n in range(3)), "<u2"
    )
    rows = stored[: 9 * N_ROWS].reshape(-1, 9)[:, 1:]
    assert near.read(0, near.n_tokens).tolist() == rows.ravel().tolist()
    start, stop = near.document_bounds(np.arange(near.n_tokens))
    assert ((start // 8 == np.arange(near.n_tokens) // 8) & (stop - start <= 8)).all()


def test_a_second_model_downloads_nothing(hub: Any, shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    spec = registered()
    first = opened(spec, None, tmp_path / "cache")
    windows = draw_distinct_windows(first, 100, 5, seed=4)
    read = [first.read(start, stop).tolist() for start, stop in zip(windows.start, windows.stop, strict=True)]
    assert hub.asked
    hub.asked.clear()
    second = opened(spec, None, tmp_path / "cache", Bytes(280))
    again = draw_distinct_windows(second, 100, 5, seed=4)
    assert [second.read(start, stop).tolist() for start, stop in zip(again.start, again.stop, strict=True)] == read
    assert hub.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    same(opened(spec, None, tmp_path / "cache"), second)


def test_a_copy_without_all_files_is_refused(shards: Path, tmp_path: Path) -> None:
    spec = registered()
    (shards / "document-00001-of-00020.bin").rename(tmp_path / "away")
    with pytest.raises(CorpusError, match=r"shard 1 of document-\*-of-00020\.bin is missing"):
        opened(spec, str(shards), tmp_path / "cache")
    (tmp_path / "away").rename(shards / "document-00001-of-00020.bin")
    (shards / "document-00002-of-00020.bin").unlink()
    with pytest.raises(CorpusError, match="of 36000 bytes of the corpus; all of its files are needed"):
        opened(spec, str(shards), tmp_path / "cache")
    with pytest.raises(CorpusError, match="does not exist"):
        check_source(spec, str(shards / "missing"))
    check_source(spec, None)


def test_only_the_shards_of_a_corpus_are_read(hub: Any, shards: Path, tmp_path: Path) -> None:
    """Wherever they are: a README beside them would shift every row."""
    spec = registered()
    same(opened(spec, "hf://datasets/org/rows@main", tmp_path / "cache"), opened(spec, str(shards), tmp_path / "cache"))
    with pytest.raises(CorpusError, match=r"README\.md is no file of this corpus, whose names fit 'document-"):
        opened(spec, str(shards / "README.md"), tmp_path / "cache")
    copy = shards / "document-00001 (1)-of-00020.bin"
    copy.write_bytes((shards / "document-00001-of-00020.bin").read_bytes())
    with pytest.raises(CorpusError, match="is not one of the numbered shards"):
        opened(spec, str(shards), tmp_path / "cache")


def test_a_pointer_of_git_lfs_is_no_token_file(shards: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345678\n"
    (shards / "document-00001-of-00020.bin").write_bytes(pointer)
    with pytest.raises(CorpusError, match=r"document-00001-of-00020\.bin is a pointer of git-lfs"):
        opened(registered(), str(shards), tmp_path / "cache")


def test_what_is_registered() -> None:
    pile = corpus_spec("pile")
    flat = opening.flat_parameters("pile", pile.parameters)
    assert flat.rows is not None
    assert pile.n_tokens == 143_000 * 1024 * flat.rows.counted == 299_892_736_000
    assert pile.hub is not None
    assert hub_place(pile.hub).startswith("hf://datasets/EleutherAI/pile-standard-pythia-preshuffled@")
    fineweb = corpus_spec("fineweb_edu").stored_in
    assert fineweb is not None
    assert fineweb.end_of_text_id == 50_256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "dtype must be uint16 or uint32, given 'int8'"),
        ({"rows": {"stored": 9}}, "parameter rows is malformed"),
        ({"rows": {**ROWS, "stored": "9"}}, "parameter rows is malformed"),
        ({"most_tokens": "0"}, "parameter most_tokens is malformed"),
        ({"extra": 1}, "the parameters must be exactly dtype, .*; see 'extra'"),
        ({"n_tokens": 8 * N_ROWS + 1}, "n_tokens must be a multiple of the 8 tokens of a row, given 16001"),
        ({"rows": {**ROWS, "counted": 10}}, "rows of 9 ids cannot have 1 that are skipped and 10 that count"),
    ],
)
def test_malformed_parameters(change: dict[str, Any], message: str, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        opened(registered(**change), str(shards), tmp_path / "cache")


def test_every_registered_corpus_of_token_files_is_well_formed() -> None:
    path = Path(opening.__file__).parents[1] / "registry.yaml"
    found = [spec.id for spec in read_registry(path).values() if spec.layout == "flat_tokens"]
    assert {"pile", "fineweb_edu"} <= set(found)
    for corpus_id in found:
        check_source(corpus_spec(corpus_id), None)


def test_token_files_behind_urls(server: Any, tmp_path: Path, pauses: list[float], monkeypatch: Any) -> None:
    monkeypatch.setattr(opening, "LISTED_TOKENS", 0)
    folder, ids = tmp_path / "copy", content(90_000)
    folder.mkdir()
    for number, piece in ((9, ids[:50_000]), (10, ids[50_000:])):
        (folder / f"t{number:02}.bin").write_bytes(piece)
        server.files[f"t{number:02}.bin"] = piece

    def local(place: object) -> Any:
        return open_local(str(place), Bytes(), end_of_text_id=256, n_logits=257, cache_dir=tmp_path / "cache")

    near, afar = local(folder), local(server.url("t{09..10}.bin"))
    assert afar.source == server.url("t{09..10}.bin")
    server.faults = ["503", None, "ends early", None, "drops", "429 1"]
    same(afar, near)
    far = open_local(server.url("t10.bin"), Bytes(), end_of_text_id=256, n_logits=257, cache_dir=tmp_path / "new")
    server.files["t10.bin"] = ids[50_000:-2]
    with pytest.raises(CorpusError, match=r"t10\.bin was changed while it was read"):
        far.read(50_000, 50_010)


def test_a_long_index_on_the_hub(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are looked up without reading all of it."""
    monkeypatch.setattr(megatron, "MOST_LISTED", 0)
    n, size = 50_000, 3
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, n, n + 1)
    index += np.full(n, size, "<i4").tobytes() + np.arange(0, 2 * n * size, 2 * size, "<i8").tobytes()
    index += np.arange(n + 1, dtype="<i8").tobytes()
    hub.repositories["org/pairs"] = {"t.bin": content(n * size), "t.idx": index}
    place = "hf://datasets/org/pairs"
    corpus = open_local(place, Bytes(), end_of_text_id=256, n_logits=257, cache_dir=tmp_path / "cache")
    token = np.array([0, 2, 3, 70_000, n * size - 1])
    start, stop = corpus.document_bounds(token)
    assert (start == token // 3 * 3).all()
    assert (stop == start + 3).all()
    read = sum(int(asked.split("-")[1]) - int(asked.split("=")[1].split("-")[0]) + 1 for _, asked in hub.asked)
    assert read < len(index)
    hub.repositories["org/pairs"]["t.bin"] += b"\0\0"
    with pytest.raises(CorpusError, match="it lists 150000 tokens, the token file holds 150001"):
        open_local(place, Bytes(), end_of_text_id=256, n_logits=257, cache_dir=tmp_path / "cache")
