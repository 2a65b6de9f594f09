"""Token files with an index of Megatron-LM, written here by a writer of their own."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import open_local
from lm_bounds.corpora.flat_tokens import megatron
from lm_bounds.errors import CorpusError

CODES = {"|u1": 1, "|i1": 2, "<i2": 3, "<i4": 4, "<i8": 5, "<u2": 8}


def write(path: Path, sequences: list[list[int]], marks: list[int], dtype: str = "<u2") -> None:
    index = b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, CODES[dtype]) + struct.pack("<QQ", len(sequences), len(marks))
    pointer, pointers = 0, []
    for sequence in sequences:
        pointers.append(pointer)
        pointer += len(sequence) * np.dtype(dtype).itemsize
    index += b"".join(struct.pack("<i", len(sequence)) for sequence in sequences)
    index += b"".join(struct.pack("<q", value) for value in [*pointers, *marks])
    path.with_suffix(".idx").write_bytes(index)
    path.write_bytes(np.array([token for sequence in sequences for token in sequence], dtype).tobytes())


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_documents_are_those_of_the_index(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also where the index is too long to be listed, and where a document or a sequence has no token."""
    path = tmp_path_factory.mktemp("megatron") / "t.bin"
    token_lists = st.lists(st.lists(st.integers(0, 100), max_size=4), max_size=4)
    by_document = data.draw(st.lists(token_lists, min_size=1, max_size=7))
    marked = data.draw(st.booleans())
    sequences = [sequence for document in by_document for sequence in document]
    if not any(sequences):
        sequences, by_document = [[1]], [[[1]]]
    marks = np.cumsum([0, *(len(document) for document in by_document)]).tolist() if marked else [0]
    write(path, sequences, marks, data.draw(st.sampled_from(sorted(CODES))))
    joined = [[token for sequence in document for token in sequence] for document in by_document]
    groups = joined if marked else sequences
    expected = []
    for group in groups:
        expected += [(len(expected), len(expected) + len(group))] * len(group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(megatron, "MOST_LISTED", data.draw(st.sampled_from([0, 1 << 20])))
        corpus = opened(path)
        index = np.array(data.draw(st.permutations(range(len(expected)))))
        start, stop = corpus.document_bounds(index)
    assert list(zip(start.tolist(), stop.tolist(), strict=True)) == [expected[i] for i in index]
    assert corpus.read(0, corpus.n_tokens).tolist() == [token for group in groups for token in group]


class Bytes:
    def __len__(self) -> int:
        return 257

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [list(item.encode()) for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {str(value): value for value in range(257)}


def opened(path: Path) -> Any:
    return open_local(path, Bytes(), end_of_text_id=3, n_logits=257, cache_dir=path.parent / "cache")


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    write(folder / "b2.bin", [[1, 3], [4]], [0, 1, 2], "<i4")
    write(folder / "b10.bin", [[5, 6, 7]], [0, 1], "<i4")
    corpus = opened(folder)
    assert corpus.document_starts.tolist() == [0, 2, 3]
    assert corpus.n_documents == 3
    assert corpus.read(0, 6).tolist() == [1, 3, 4, 5, 6, 7]  # the end-of-text token ends nothing: the index does
    (folder / "b2.idx").rename(folder / "b3.idx")
    with pytest.raises(CorpusError, match=r"b3\.idx stands alone"):
        opened(folder)
    (folder / "b3.idx").unlink()
    with pytest.raises(CorpusError, match=r"b2\.idx stands alone"):
        opened(folder)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "is no index that Megatron-LM wrote"),
        (9, b"\2", "version 2, type 8"),
        (17, b"\6", "version 1, type 6; known are version 1 and the types 1, 2"),
        (18, b"\4", "it was cut off; get it again"),
        (34, b"\1", "its sequences do not follow each other"),
        (42, b"\2", "its sequences do not follow each other|it lists 5 tokens, the token file holds 6"),
        (54, b"\6", "its sequences do not follow each other"),
        (70, b"\1", "its document marks do not rise from 0"),
        (78, b"\7", "its document marks do not rise from 0"),
        (86, b"\2", "its document marks end at sequence 2 of 3"),
    ],
)
@pytest.mark.parametrize("most_listed", [0, 1 << 20])
def test_damaged_indices(
    at: int, value: bytes, message: str, most_listed: int, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(megatron, "MOST_LISTED", most_listed)
    path = tmp_path / "t.bin"
    write(path, [[1, 2], [3], [4, 5, 6]], [0, 2, 3])
    index = bytearray(path.with_suffix(".idx").read_bytes())
    index[at : at + 1] = value
    path.with_suffix(".idx").write_bytes(index)
    with pytest.raises(CorpusError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_longer_than_its_index(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write(path, [[1], [2]], [0, 1, 2])
    path.write_bytes(bytes(6))
    with pytest.raises(CorpusError, match="it lists 2 tokens, the token file holds 3"):
        opened(path)


def test_listed_documents_are_part_of_the_hash(tmp_path: Path) -> None:
    """The draws depend on the hash, so that nobody can see them and cut the documents afterwards."""
    ids = list(range(60)) * 20
    hashes = set()
    for cut in (600, 601):
        write(tmp_path / f"{cut}.bin", [ids[:cut], ids[cut:]], [0, 1, 2])
        corpus = opened(tmp_path / f"{cut}.bin")
        assert corpus.identified_by == "whole"
        hashes.add(corpus.sha256())
    assert len(hashes) == 2
