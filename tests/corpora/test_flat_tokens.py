"""Token files that are read where they are drawn from: the same tokens and documents as if all had been read."""

from __future__ import annotations

import itertools
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import FlatTokens, TokenCorpus, open_local
from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.flat_tokens import documents, opening, token_files
from lm_bounds.corpora.flat_tokens.documents import FoundDocuments
from lm_bounds.corpora.flat_tokens.stream import Rows, TokenSequence
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import draw_distinct_windows, draw_windows

END = 7


def flat(
    folder: Path, *, rows: Rows | None = None, most: int | None = None, end: int | None = END, n_ids: int = 100
) -> Any:
    """The .bin files of a folder, cut anywhere."""
    source = open_bytes(str(folder), folder / "cache", "*.bin")
    sequence = TokenSequence(token_files(source, np.dtype("<u2"), cut_anywhere=True), rows)
    return FlatTokens("local", sequence, FoundDocuments(sequence, end, most), "0" * 64, end, n_ids)


def write(folder: Path, content: bytes, cuts: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.bin"):
        old.unlink()
    edges = [0, *sorted({cut % len(content) for cut in cuts} - {0}), len(content)]
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        (folder / f"{number:03}.bin").write_bytes(content[first:last])


def slow_bounds(tokens: list[int], most: int | None, end: int | None) -> list[tuple[int, int]]:
    """Document bounds of every token, by a walk through all of them."""
    starts = [i for i in range(len(tokens)) if i == 0 or (most and i % most == 0) or tokens[i - 1] == end]
    edges = [*starts, len(tokens)]
    return [(a, b) for a, b in itertools.pairwise(edges) for _ in range(a, b)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tokens_and_documents_against_a_walk(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flat") / "tokens"
    stored = data.draw(st.lists(st.sampled_from([1, 2, END, END, 9]), min_size=1, max_size=60))
    sizes = st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(0, 2))
    rows = data.draw(st.none() | sizes.map(lambda parts: Rows(sum(parts), parts[1], parts[0])))
    if rows is not None and len(stored) < rows.stored:
        stored += [3] * rows.stored
    most = data.draw(st.none() | st.integers(1, 20)) if rows is None else rows.counted
    end = data.draw(st.sampled_from([END, END, None]))
    write(folder, np.array(stored, "<u2").tobytes(), data.draw(st.lists(st.integers(1, 120), max_size=6)))
    counted = stored
    if rows is not None:
        n_rows = len(stored) // rows.stored
        counted = [t for r in range(n_rows) for t in stored[r * rows.stored + rows.skipped :][: rows.counted]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_FIRST_TOKENS", data.draw(st.integers(1, 4)))
        patch.setattr(documents, "_MOST_TOKENS", data.draw(st.integers(4, 16)))
        patch.setattr(documents, "_BATCH_TOKENS", data.draw(st.integers(1, 40)))
        corpus = flat(folder, rows=rows, most=most, end=end)
        assert corpus.n_tokens == len(counted)
        index = np.array(data.draw(st.permutations(range(len(counted)))))
        start, stop = corpus.document_bounds(index)
        expected = slow_bounds(counted, most, end)
        assert list(zip(start.tolist(), stop.tolist(), strict=True)) == [expected[i] for i in index]
        first = data.draw(st.integers(0, len(counted)))
        last = data.draw(st.integers(first, len(counted)))
        assert corpus.read(first, last).tolist() == counted[first:last]


def test_a_document_of_a_million_tokens(tmp_path: Path) -> None:
    tokens = np.ones(1_200_000, "<u2")
    tokens[[99_999, 1_099_999, 1_100_000]] = END
    write(tmp_path / "t", tokens.tobytes(), [1, 77_777, 2_000_001])
    corpus = flat(tmp_path / "t")
    index = np.array([0, 99_999, 100_000, 600_000, 1_099_999, 1_100_000, 1_100_001, 1_199_999])
    start, stop = corpus.document_bounds(index)
    assert start.tolist() == [0, 0, 100_000, 100_000, 100_000, 1_100_000, 1_100_001, 1_100_001]
    assert stop.tolist() == [100_000, 100_000, 1_100_000, 1_100_000, 1_100_000, 1_100_001, 1_200_000, 1_200_000]


def npy(path: Path, array: Any) -> None:
    np.save(path, array)


def llmc(path: Path, ids: Any, magic: int = 20240520, version: int = 1, count: int | None = None) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(ids, "<u4" if magic == 20240801 else "<u2").tobytes())


IDS = [5, 256, 256, 7, 8, 256, 9]


@pytest.mark.parametrize("kind", ["npy u2", "npy u4", "npy i8", "npy big-endian", "llmc", "llmc 3", "bin"])
def test_a_small_file_of_any_kind(kind: str, text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    path = text_dir / ("t.npy" if kind.startswith("npy") else "t.bin")
    if kind.startswith("npy"):
        kinds = {"npy u2": "<u2", "npy u4": "<u4", "npy i8": "<i8", "npy big-endian": ">u2"}
        npy(path, np.array(IDS, kinds[kind]))
    elif kind == "bin":
        path.write_bytes(np.array(IDS, "<u2").tobytes())
    else:
        llmc(path, IDS, *((20240801, 7) if kind == "llmc 3" else ()))
    corpus = opened(path, plain_bytes())
    assert corpus.n_tokens == len(IDS)
    assert corpus.read(0, 7).tolist() == IDS
    assert list(zip(*(each.tolist() for each in corpus.document_bounds(np.arange(7))), strict=True)) == slow_bounds(
        IDS, None, 256
    )


def test_shards_are_read_in_the_order_of_their_numbers(
    text_dir: Path, opened: Any, plain_bytes: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(opening, "LISTED_TOKENS", 0)
    for number, ids in ((10, [5, 6]), (2, [1, 256]), (1, [2, 3])):
        llmc(text_dir / f"part_{number}.bin", ids)
    (text_dir / ".hidden").write_text("not a shard")
    corpus = opened(text_dir, plain_bytes())
    assert isinstance(corpus, FlatTokens)
    assert corpus.read(0, 6).tolist() == [2, 3, 1, 256, 5, 6]
    assert [each.tolist() for each in corpus.document_bounds(np.array([0, 5]))] == [[0, 4], [4, 6]]
    assert (corpus.n_tokens_kind, corpus.n_documents, corpus.document_starts) == ("exact", None, None)
    assert corpus.source == str(text_dir)


def test_a_large_file_is_as_a_small_one(text_dir: Path, opened: Any, plain_bytes: Any, monkeypatch: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 257, 5_000).astype("<u2")
    (text_dir / "t.bin").write_bytes(ids.tobytes())
    small = opened(text_dir / "t.bin", plain_bytes())
    monkeypatch.setattr(opening, "SCANNED_BYTES", 9_999)
    listed = opened(text_dir / "t.bin", plain_bytes())
    np.testing.assert_array_equal(listed.document_starts, small.document_starts)
    monkeypatch.setattr(opening, "LISTED_TOKENS", 4_999)
    large = opened(text_dir / "t.bin", plain_bytes())
    assert (large.document_starts, large.n_documents) == (None, None)
    assert (type(small), type(large)) == (TokenCorpus, FlatTokens)
    index = np.arange(5_000).reshape(50, 100)
    np.testing.assert_array_equal(small.document_bounds(index), large.document_bounds(index))
    np.testing.assert_array_equal(draw_windows(small, 99, 8, 3).start, draw_windows(large, 99, 8, 3).start)
    distinct = draw_distinct_windows(large, 300, 8, 3)
    np.testing.assert_array_equal(distinct.start, draw_distinct_windows(small, 300, 8, 3).start)
    assert np.unique(distinct.start).size == 300


def test_of_a_small_folder_everything_is_read(text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    llmc(text_dir / "a.bin", [1, 256])
    llmc(text_dir / "b.bin", [2, 3, 256, 4])
    corpus = opened(text_dir, plain_bytes())
    assert corpus.document_starts.tolist() == [0, 2, 5]
    assert corpus.n_documents == 3
    llmc(text_dir / "c.bin", [257])
    with pytest.raises(CorpusError, match=r"c\.bin, byte 1024: token 6 has the id 257, ids must be below 257"):
        opened(text_dir, plain_bytes())


@pytest.mark.parametrize("end_of_text_id", [256, 0, None])
def test_a_file_of_600_gigabytes(end_of_text_id: int | None, text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    path = text_dir / "t.bin"
    path.touch()
    os.truncate(path, 600_000_000_000)
    corpus = opened(path, plain_bytes(), end_of_text_id=end_of_text_id)
    tracemalloc.start()
    windows = draw_windows(corpus, 2_000, 1024, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.n_tokens == 300_000_000_000
    assert peak < 120_000_000
    assert windows.start.max() > 290_000_000_000
    sizes = windows.stop - windows.start
    assert (sizes == (1 if end_of_text_id == 0 else 1024)).all()
    assert corpus.read(299_999_999_990, 300_000_000_000).tolist() == [0] * 10


def test_ids_that_the_model_does_not_know_are_found_when_read(
    text_dir: Path, opened: Any, plain_bytes: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(opening, "LISTED_TOKENS", 0)
    llmc(text_dir / "a.bin", [1, 2, 3])
    llmc(text_dir / "b.bin", [4, 300, 5])
    corpus = opened(text_dir, plain_bytes())
    assert corpus.read(0, 4).tolist() == [1, 2, 3, 4]
    with pytest.raises(
        CorpusError, match=r"b\.bin, byte 1026: token 4 has the id 300, ids must be below 257; write it"
    ):
        corpus.read(3, 6)
    npy(text_dir / "c.npy", np.array([1, -1]))
    (text_dir / "a.bin").unlink()
    (text_dir / "b.bin").unlink()
    with pytest.raises(CorpusError, match=r"c\.npy, byte 136: token 1 has the id -1"):
        opened(text_dir, plain_bytes()).read(0, 2)


def test_the_hash_is_that_of_tokens_and_documents(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50, 4_000)
    content = ids.astype("<u2").tobytes()

    def digest(content: bytes, cuts: list[int], **options: Any) -> str:
        write(tmp_path / "t", content, cuts)
        return str(flat(tmp_path / "t", **options).sha256())

    reference = digest(content, [])
    assert digest(content, [5, 4_000]) == reference
    changed = (ids + (np.arange(4_000) == 1_234)).astype("<u2").tobytes()
    others = [
        digest(changed, []),
        digest(content[:-2], []),
        digest(content, [], end=None),
        digest(content, [], most=99),
    ]
    assert len({reference, *others}) == 5


def test_of_a_long_corpus_stretches_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "lm_bounds.corpora.flat_tokens.corpus."
    monkeypatch.setattr(module + "_HASHED_WHOLE", 1_000)
    monkeypatch.setattr(module + "_PROBE_TOKENS", 100)
    ids = np.random.default_rng(0).integers(8, 50, 100_000).astype("<u2")
    write(tmp_path / "t", ids.tobytes(), [])
    reference = flat(tmp_path / "t", most=1_000).sha256()
    noticed = 0
    for at in range(0, 100_000, 1_000):
        changed = ids.copy()
        changed[at : at + 1_000] += 1
        write(tmp_path / "t", changed.tobytes(), [99])
        noticed += flat(tmp_path / "t", most=1_000).sha256() != reference
    assert 30 <= noticed <= 64
    write(tmp_path / "t", ids.tobytes(), [7, 1_001])
    assert flat(tmp_path / "t", most=1_000).sha256() == reference


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "t", bytes(20), [])
    corpus = flat(tmp_path / "t")
    for start, stop in ((-1, 2), (3, 2), (9, 11)):
        with pytest.raises(UsageError, match="the corpus has 10"):
            corpus.read(start, stop)
    with pytest.raises(UsageError, match="token indices must be in"):
        corpus.document_bounds(np.array([10]))


NPY = b"\x93NUMPY\x01\x00"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.npy", b"\x93NUMPY\x09\x00", "is no .npy file that can be read"),
        ("t.npy", NPY + struct.pack("<H", 8) + b"not a di", "is no .npy file that can be read"),
        ("t.npy", NPY + struct.pack("<H", 60_000), "is no .npy file that can be read"),
        ("t.npy", b"", "is empty"),
    ],
)
def test_damaged_headers(
    name: str, content: bytes, message: str, text_dir: Path, opened: Any, plain_bytes: Any
) -> None:
    (text_dir / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        opened(text_dir / name, plain_bytes())


def test_headers_that_do_not_fit(text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    path, array = text_dir / "t.npy", np.arange(60).reshape(3, 20)

    def refused(message: str, place: Path = path) -> None:
        with pytest.raises(CorpusError, match=message) as caught:
            opened(place, plain_bytes())
        assert "\n" not in str(caught.value)

    npy(path, array)
    refused(r"holds int64 of shape \(3, 20\); a one-dimensional array of integers is needed")
    npy(path, np.zeros(3))
    refused("holds float64 of shape")
    npy(path, array.ravel())
    path.write_bytes(path.read_bytes()[:-8])
    refused("600 bytes, but its header announces 60 ids of int64, 608 bytes; it was cut off or is damaged")
    path.unlink()
    binary = text_dir / "t.bin"
    for count in (2, 4, -1):
        llmc(binary, [1, 2, 3], count=count)
        refused("its header announces", binary)
    llmc(binary, [1, 2, 3], version=3)
    refused("version 3; version 1 is known", binary)
    llmc(binary, [])
    refused("holds no token ids", binary)
    llmc(binary, [1, 2, 3])
    npy(path, np.array([1, 2, 3], "<u4"))
    refused(r"t\.npy holds uint32 ids, .*t\.bin holds uint16 ids; keep files of one kind", text_dir)
    (text_dir / "readme.md").write_text("text")
    refused("a token file inside a folder of text", text_dir)
    (text_dir / "readme.md").unlink()
    path.unlink()
    binary.write_bytes(bytes(5))
    refused("5 bytes, not a multiple of 2", text_dir)
    binary.write_bytes(np.arange(1, 90, dtype="<u4").tobytes())
    refused("every second id is 0, as in a file of wider integers", text_dir)


def test_a_corpus_that_was_cut_off(tmp_path: Path) -> None:
    write(tmp_path / "t", bytes(2 * 2049 * 3), [])
    files = token_files(open_bytes(str(tmp_path / "t"), tmp_path / "c"), np.dtype("<u2"), cut_anywhere=True)
    assert TokenSequence(files, Rows(2049, 2048, 1), 2).n_tokens == 4096
    with pytest.raises(CorpusError, match="holds 12294 of 16392 bytes of the corpus; all of its files are needed"):
        TokenSequence(files, Rows(2049, 2048, 1), 4)
    with pytest.raises(CorpusError, match="rows of 5 ids cannot have 3 that are skipped and 3 that count"):
        Rows(5, 3, 3)
    write(tmp_path / "t", bytes(7), [3])
    files = token_files(open_bytes(str(tmp_path / "t"), tmp_path / "c"), np.dtype("<u2"), cut_anywhere=True)
    with pytest.raises(CorpusError, match="7 bytes of uint16 ids end inside an id: a file was cut off"):
        TokenSequence(files)


def test_local_reads_urls_without_looking_for_files(tmp_path: Path, plain_bytes: Any) -> None:
    with pytest.raises(UsageError, match="a place on the Hub is"):
        open_local("hf://nowhere", plain_bytes(), end_of_text_id=None, n_logits=None, cache_dir=tmp_path)
