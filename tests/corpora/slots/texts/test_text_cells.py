"""Cells of text partition the slots and hold the documents that are there; what has no room or no text is void."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.corpora import open_local
from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.slots import plain_text
from lm_bounds.corpora.text_columns import parquet
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import draw_windows, stream_seed

TEXTS = st.none() | st.text(alphabet='the cat\n\r\\"é漢🙂\u2028', max_size=30) | st.sampled_from(["", "x" * 40])
FILES = st.lists(st.lists(TEXTS, max_size=9), min_size=1, max_size=3)


def every_cell(corpus: Any) -> list[tuple[Any, Any]]:
    """Each cell with its tokens, after a look at every slot."""
    cells: dict[int, tuple[Any, Any]] = {}
    slots = np.arange(corpus.number)
    for slot, (cell, tokens) in zip(slots.tolist(), corpus.read_cells(slots), strict=True):
        assert cell.base <= slot < cell.base + cell.n_slots
        cells[cell.base] = (cell, tokens)
    found = [cells[base] for base in sorted(cells)]
    edges = np.cumsum([0, *(cell.n_slots for cell, _ in found)])
    assert [cell.base for cell, _ in found] == edges[:-1].tolist()
    assert edges[-1] == corpus.number
    return found


def documents_of(corpus: Any) -> list[tuple[int, ...]]:
    """The tokens of every document."""
    return [tuple(tokens.ids.tolist()) for _, tokens in every_cell(corpus) if tokens.ids.size]


def tokens_of(texts: list[str], tokenizer: Any, end: int) -> list[tuple[int, ...]]:
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [(*each, end) for each in ids if each]


@pytest.mark.parametrize("name", ["byte level", "byte fallback"])
@pytest.mark.parametrize("layout", ["jsonl", "parquet", "arrow", "txt"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_cells_partition_the_slots_and_hold_the_documents(
    files: Any, layout: str, name: str, shapes: Any, tokenizers: Any
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        files = [*files, ["a"]]
        folder = shapes.write(Path(temporary) / "text", layout, files)
        corpus = shapes.opened(shapes.local(folder), tokenizers[name], Path(temporary) / "cache")
        wanted = [text for _, text in shapes.bases(layout, files, folder) if text]
        assert documents_of(corpus) == tokens_of(wanted, tokenizers[name], shapes.END)


@pytest.mark.parametrize("layout", ["jsonl", "parquet", "arrow", "txt"])
def test_the_documents_are_those_of_text_that_is_tokenised_whole(
    layout: str, tmp_path: Path, shapes: Any, tokenizers: Any
) -> None:
    """But for copies, which are left out there."""
    folder = shapes.write(tmp_path / "text", layout, shapes.FILES)
    options: Any = {"end_of_text_id": shapes.END, "n_logits": None, "cache_dir": tmp_path / "cache"}
    whole = open_local(folder, tokenizers["byte level"], **options)
    parts = np.split(whole.tokens, whole.document_starts[1:])
    found = documents_of(shapes.opened(shapes.local(folder), tokenizers["byte level"], tmp_path / "cache"))
    assert list(dict.fromkeys(found)) == [tuple(part.tolist()) for part in parts]


PREFIXED = [WORD + str(number) for WORD in ["the same long beginning of every document "] for number in range(300)]
REPEATED = ["a document that is there very often", "another one"] * 150 + [None] * 9 + ["", "once"]
ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    "a dictionary that was given up": {"use_dictionary": True, "dictionary_pagesize_limit": 200},
    "lengths": {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}},
    "zstd": {"compression": "zstd", "data_page_version": "2.0"},
    "no compression": {"compression": "none", "data_page_size": 64},
}


@pytest.mark.parametrize("texts", [PREFIXED, REPEATED, ["", "", "a", "", "b"] * 9, ["x"] * 500 + ["y"]], ids=len)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_different_documents_have_room_in_every_encoding_that_writes_each_out(
    encoding: str, texts: list[str | None], tmp_path: Path, shapes: Any, plain_bytes: Any
) -> None:
    pq.write_table(shapes.table(texts), tmp_path / "t.parquet", row_group_size=200, **ENCODINGS[encoding])
    cells = every_cell(shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache", 256))
    wanted = []
    for first in range(0, len(texts), 200):
        group = dict.fromkeys(text for text in texts[first : first + 200] if text)
        wanted += [(*text.encode(), 256) for text in group]
    assert [tuple(tokens.ids.tolist()) for _, tokens in cells if tokens.ids.size] == wanted
    assert all(tokens.void is None for _, tokens in cells)


def test_footers_and_row_groups_are_read_in_parts_of_any_size(
    tmp_path: Path, shapes: Any, plain_bytes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shapes.write(tmp_path / "text", "parquet", shapes.FILES)
    wanted = documents_of(shapes.opened(shapes.local(folder), plain_bytes(), tmp_path / "cache", 256))
    for name, value in {"_TAIL_BYTES": 16, "_TAILS_TOGETHER": 2, "_FETCHED_TOGETHER": 300, "_BATCH_ROWS": 2}.items():
        monkeypatch.setattr(parquet, name, value)
    monkeypatch.setattr(parquet, "_KEPT_FOOTERS", 1)
    assert documents_of(shapes.opened(shapes.local(folder), plain_bytes(), tmp_path / "other", 256)) == wanted


def test_documents_without_room_are_void(
    tmp_path: Path, shapes: Any, plain_bytes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where strings share their beginnings the footer says fewer bytes than they have."""
    encoding = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    pq.write_table(shapes.table(PREFIXED), tmp_path / "t.parquet", **encoding)
    with caplog.at_level(logging.WARNING, "lm_bounds"):
        corpus = shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache", 256)
        cells = every_cell(corpus)
    kept = [tuple(tokens.ids.tolist()) for _, tokens in cells if tokens.ids.size]
    assert 0 < len(kept) < len(PREFIXED)
    assert kept == [(*text.encode(), 256) for text in PREFIXED[: len(kept)]]
    assert cells[-1][1].void == f"the documents from row {len(kept)} on take more than the bytes that the footer says"
    assert corpus.n_tokens <= sum(map(len, kept))
    assert f"row group 0: the documents from row {len(kept)} on" in caplog.text


@pytest.mark.parametrize("layout", ["jsonl", "parquet", "arrow", "txt"])
def test_documents_with_more_tokens_than_slots_are_void(
    layout: str, tmp_path: Path, shapes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    documents = ["a" * 30, "xxxx" * 20, "b" * 50, "abx"] * 4 + ["c" * 9]
    folder = shapes.write(tmp_path / "text", layout, [documents[:3], documents[3:]])
    corpus = shapes.opened(shapes.local(folder), shapes.Expanding(), tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "lm_bounds"):
        drawn = draw_windows(corpus, 3_000, 10, stream_seed("certify", 1))
    letters = {
        chr(token) for start, stop in zip(drawn.start, drawn.stop, strict=True) for token in corpus.read(start, stop)
    }
    assert letters == {"a", "b", "c", "\0"} | ({"x"} if layout == "jsonl" else set())  # JSON has room for "abx"
    assert drawn.voided[-1] > 300
    assert corpus.count.void > 100
    assert "401 tokens are more than there can be in" in caplog.text
    assert 0.5 * (4 * 82 + 10) < corpus.n_tokens <= 4 * 82 + 10


def test_lines_that_are_no_documents_are_void(tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    lines = {
        b'{"text": "fine"}': None,
        b'{"text": "cut': "not JSON",
        b'["text"]': "found a JSON list",
        b'{"text": null}': r"found the fields: text (NoneType)",
        b'{"content": "a"}': r'need a string field "text", found the fields: content (str)',
        b'{"\\u001b[2J\\ud800 \\n": "a"}': "found the fields: ?[2J? (str)",
        b'{"' + b"n" * 9_999 + b'": "a", "b": 1}': f"found the fields: {'n' * 100}...",
        b'{"text": "\\ud83d"}': "half a surrogate",
        b'{"text": "caf\xe9"}': "not UTF-8",
        b" \r": None,
        b"": None,
        b"[" * 9_999: "not JSON",
        b'{"text": "last"}': None,
    }
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    cells = every_cell(shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache", 256))
    for (cell, tokens), reason in zip(cells, lines.values(), strict=True):
        assert (tokens.void is None) == (reason is None)
        assert reason is None or (reason in tokens.void and tokens.n_void == cell.n_slots)
        assert reason is None or (tokens.void.isprintable() and len(tokens.void) < 200)
    texts = [bytes(tokens.ids[:-1].tolist()) for _, tokens in cells if tokens.ids.size]
    assert texts == [b"fine", b"last"]


@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_rows_that_are_no_utf8_are_void(layout: str, tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    texts = ["one good document", None, "CAFE", "", "another good document"] * 3
    path = tmp_path / f"t.{layout}"
    shapes.write_arrow(path, texts) if layout == "arrow" else pq.write_table(
        shapes.table(texts), path, compression="none"
    )
    path.write_bytes(path.read_bytes().replace(b"CAFE", b"caf\xe9"))
    cells = every_cell(shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache", 256))
    assert {tokens.void for _, tokens in cells} == {None, "not UTF-8 text (unexpected end of data)"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_both_arrow_formats(stream: bool, kind: Any, tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    [*_, texts] = shapes.FILES
    shapes.write_arrow(tmp_path / "t.arrow", texts, stream=stream, kind=kind)
    found = documents_of(shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache", 256))
    assert found == [(*text.encode(), 256) for text in texts if text]
    unmarked = (tmp_path / "t.arrow").read_bytes()
    if stream:  # a writer that did not come to the mark of the end
        (tmp_path / "t.arrow").write_bytes(unmarked[:-8])
        assert documents_of(shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "c", 256)) == found


def cut_slowly(text: str, size: int) -> list[str]:
    """The rule for long files, with the whole text at hand."""
    content, cuts = text.encode(), [0]
    for number in range(1, -(-len(content) // size)):
        stretch = range(number * size, min((number + 1) * size, len(content)))
        lines = [at for at in stretch if content[at - 1 : at] == b"\n"]
        starts = [at for at in stretch if content[at] & 0xC0 != 0x80]
        cuts.append([*lines, *starts, len(content)][0])
    return [content[a:b].decode() for a, b in zip(cuts, [*cuts[1:], len(content)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="ab\n\ré漢🙂", min_size=1, max_size=60), min_size=1, max_size=3),
    size=st.integers(4, 24),
    look=st.integers(1, 9),
)
def test_long_files_are_cut_by_the_rule(texts: list[str], size: int, look: int) -> None:
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "PIECE_BYTES", size)
        patch.setattr(plain_text, "_FIRST_LOOK", look)
        folder = Path(temporary)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_bytes(text.encode())
        cells = plain_text.PlainText(open_bytes(str(folder), folder), range(len(texts)))
        found = {cell.base: cell for cell in cells.at(np.arange(cells.number))}
        pieces = [cut_slowly(text, size) for text in texts]
        assert [found[base].content.text for base in sorted(found)] == [piece for each in pieces for piece in each]
        assert [found[base].content.ends for base in sorted(found)] == [
            "".join(each[: place + 1]) == "".join(each) for each in pieces for place in range(len(each))
        ]
        assert sum(cell.n_slots for cell in found.values()) == cells.number


@pytest.mark.parametrize(("content", "message"), [(b"a\0b" * 9, "NUL"), (b"caf\xe9 " * 9, "not UTF-8")])
def test_files_that_are_not_text(content: bytes, message: str, tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        _ = shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache").n_tokens


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234567\n"


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.parquet", "b.arrow", "b.md"])
def test_pointers_of_git_lfs_are_no_text(name: str, tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    folder, cache = tmp_path / "text", tmp_path / "cache"
    shapes.write(folder, Path(name).suffix[1:], [["a document", "b"] * 30])
    (folder / name).write_bytes(POINTER)
    (folder / ".hidden").write_bytes(POINTER)
    with pytest.raises(CorpusError, match=rf"{name} is a pointer of git-lfs and not the file itself"):
        shapes.opened(shapes.local(folder), plain_bytes(), cache)
    for place in (folder, folder / name):
        with pytest.raises(CorpusError, match=rf"{name} .* pointer of git-lfs"):
            open_local(place, plain_bytes(), end_of_text_id=256, n_logits=None, cache_dir=cache)
    if name not in ("b.parquet", "b.arrow"):  # longer than any pointer, it is text about one
        (folder / name).write_bytes(b'{"text": "a"}\n' * 100 if name == "b.jsonl" else POINTER * 10)
    else:
        (folder / name).unlink()
    assert shapes.opened(shapes.local(folder), plain_bytes(), cache, 256).n_tokens > 0
    assert open_local(folder, plain_bytes(), end_of_text_id=256, n_logits=None, cache_dir=cache).n_tokens > 0


def test_files_of_no_kind_or_of_several(tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}')
    with pytest.raises(CorpusError, match=r"several kinds, such as a\.txt and b\.jsonl"):
        shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache")
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(CorpusError, match="holds no text"):
        shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"content": ["a"], "id": [1]},
            r'need one column "text" of strings, found the columns: content \(string\), id',
        ),
        ({"text": [1]}, r"found the columns: text \(int64\)"),
        ({"text": [b"a"]}, r"found the columns: text \(binary\)"),
        ({"text": [["a"]]}, r"found the columns: text \(list<"),
    ],
)
@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_tables_without_a_column_of_text(
    layout: str, columns: Any, message: str, tmp_path: Path, shapes: Any, plain_bytes: Any
) -> None:
    table = pa.table(columns)
    path = tmp_path / f"t.{layout}"
    if layout == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    for open_it in (
        lambda: shapes.opened(shapes.local(tmp_path), plain_bytes(), tmp_path / "cache"),
        lambda: open_local(path, plain_bytes(), end_of_text_id=256, n_logits=None, cache_dir=tmp_path / "cache"),
    ):
        with pytest.raises(CorpusError, match=message) as caught:
            open_it()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_damaged_tables_are_named_in_one_line(layout: str, tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    folder = shapes.write(tmp_path / "text", layout, [["word " * 500, "b"] * 30])
    [path] = folder.iterdir()
    content = path.read_bytes()
    middle = len(content) // 3
    for number, damaged in enumerate(
        [
            content[:-20],
            content[20:],
            b"",
            content[: len(content) // 2],
            content[:4] + b"\xff" * middle + content[4 + middle :],
        ]
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError) as caught:
            _ = shapes.opened(shapes.local(folder), plain_bytes(), tmp_path / f"cache {number}", 256).n_tokens
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_changed_is_noticed(tmp_path: Path, shapes: Any, plain_bytes: Any) -> None:
    for layout in ["jsonl", "parquet", "arrow", "txt"]:
        folder = shapes.write(tmp_path / layout, layout, shapes.FILES)
        corpus = shapes.opened(shapes.local(folder), plain_bytes(), tmp_path / "cache", 256)
        slots = corpus.slots.number
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(CorpusError, match="changed"):
            corpus.tokens_at(np.arange(slots))
