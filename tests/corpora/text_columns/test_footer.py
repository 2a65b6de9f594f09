"""What is read of a footer is what pyarrow reads; columns that are not in the file as they stand are refused."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora.byte_source import LocalBytes
from lm_bounds.corpora.text_columns import ParquetColumn
from lm_bounds.corpora.text_columns.footer import Footer
from lm_bounds.errors import CorpusError

TEXTS = ["a", None, "", "the cat" * 40, "é🙂"] * 8
ROWS = range(len(TEXTS))
OTHERS: dict[str, Any] = {
    "id": pa.array(ROWS),
    "struct": pa.array([{"text": "x", "deeper": {"text": [number]}} for number in ROWS]),
    "list": pa.array([[{"text": "y"}] * (number % 3) for number in ROWS]),
    "map": pa.array([[("text", number)] for number in ROWS], pa.map_(pa.string(), pa.int64())),
    "text.b": pa.array(["another"] * len(TEXTS)),
}


def footer_of(content: bytes) -> bytes:
    return content[-8 - int.from_bytes(content[-8:-4], "little") : -8]


def column_of(path: Path, column: str = "text") -> ParquetColumn:
    return ParquetColumn(LocalBytes("here", [(path.name, path)]), [0], column)


def rows_of(column: ParquetColumn) -> list[str]:
    batches = (batch for group, content in column.fetched(column.groups) for batch in column.rows(group, content))
    return [batch.text(row) for batch in batches for row in range(len(batch))]


@settings(max_examples=150, deadline=None)
@given(
    names=st.permutations(["text", *OTHERS]),
    kept=st.integers(1, 6),
    group_rows=st.sampled_from([1, 7, 100]),
    compression=st.sampled_from(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
    encoding=st.sampled_from([None, "PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "dictionary"]),
    version=st.sampled_from(["1.0", "2.0"]),
    flags=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_numbers_are_those_of_pyarrow(
    names: Any, kept: int, group_rows: int, compression: str, encoding: str | None, version: str, flags: Any
) -> None:
    columns = {name: OTHERS.get(name, TEXTS) for name in {*names[:kept], "text"}}
    written = io.BytesIO()
    options: dict[str, Any] = {"use_dictionary": encoding == "dictionary"}
    if encoding not in (None, "dictionary"):
        options["column_encoding"] = {"text": encoding}
    pq.write_table(
        pa.table(columns).append_column("last", pa.array(ROWS)),
        written,
        row_group_size=group_rows,
        compression=compression,
        data_page_version=version,
        write_statistics=flags[0],
        write_page_index=flags[1],
        store_schema=flags[2],
        **options,
    )
    content = written.getvalue()
    twin = pq.read_metadata(io.BytesIO(content))
    [leaf] = [number for number in range(twin.num_columns) if twin.schema.column(number).path == "text"]
    footer = Footer(footer_of(content))
    assert footer.n_leaves == twin.num_columns
    chunks = footer.chunks("text", "here", len(content))
    assert len(chunks) == twin.num_row_groups
    for number, chunk in enumerate(chunks):
        known = twin.row_group(number).column(leaf)
        start = min(known.data_page_offset, known.dictionary_page_offset or known.data_page_offset)
        numbers = (twin.row_group(number).num_rows, known.total_uncompressed_size)
        assert chunk == (*numbers, start, start + known.total_compressed_size)


@pytest.mark.parametrize("name", ["text", "a.b"])
def test_columns_are_told_apart_by_their_paths(name: str, tmp_path: Path) -> None:
    """The paths of others are the same, or go on, when they are written with dots."""
    first, _, last = name.partition(".")
    inside = pa.array([{last or "b": "wrong"}] * len(TEXTS))
    for place, others in enumerate([{f"{name}.len": ["wrong"] * len(TEXTS)}, {first: inside} if last else {}]):
        for number, columns in enumerate([{**others, name: TEXTS}, {name: TEXTS, **others}]):
            path = tmp_path / f"{place}-{number}.parquet"
            pq.write_table(pa.table(columns), path, row_group_size=16)
            assert rows_of(column_of(path, name)) == [text or "" for text in TEXTS]


def test_a_column_inside_a_structure_is_none_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.array([{"b": "x"}])}), path)
    with pytest.raises(CorpusError, match=r'need one column "a\.b" of strings, found the columns: a \(struct'):
        _ = column_of(path, "a.b").groups


def write_encrypted(path: Path, column: str) -> None:
    from pyarrow.parquet import encryption

    class Keys(encryption.KmsClient):  # type: ignore[misc, unused-ignore]
        def __init__(self, _: Any) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64decode(key)

    settings = encryption.EncryptionConfiguration("main", column_keys={"other": [column]}, plaintext_footer=True)
    factory = encryption.CryptoFactory(lambda _: Keys(None))
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    pq.write_table(pa.table({"id": ROWS, "text": TEXTS}), path, encryption_properties=properties)


def test_encrypted_columns_are_refused_and_others_of_that_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_encrypted(path, "text")
    with pytest.raises(CorpusError, match=r'parquet: the column "text" of row group 0 is encrypted') as caught:
        _ = column_of(path).groups
    assert "\n" not in str(caught.value)
    write_encrypted(path, "id")
    assert rows_of(column_of(path)) == [text or "" for text in TEXTS]


def test_columns_in_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "_metadata.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path)
    footer = pq.read_metadata(path)
    footer.set_file_path("data/\x1b[2J.parquet")
    footer.write_metadata_file(path)
    with pytest.raises(CorpusError, match=r'is in another file, "data/\?\[2J\.parquet": name the files'):
        _ = column_of(path).groups


def with_footer(content: bytes, footer: bytes) -> bytes:
    body = content[: -8 - int.from_bytes(content[-8:-4], "little")]
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def test_a_schema_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path)
    element = b"\x48\x01a\x15\x02\0"  # a structure "a" with one element inside
    n = 100_000
    footer = (
        b"\x15\x02\x19\xfc" + bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14]) + element * n + b"\x16\0\x19\x0c\0"
    )
    path.write_bytes(with_footer(path.read_bytes(), footer))
    with pytest.raises(CorpusError, match="of more than 100 levels"):
        _ = column_of(path).groups


def test_another_column_in_the_place_of_the_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, store_schema=False)
    content = path.read_bytes()
    footer = footer_of(content)
    at = footer.rindex(b"\x04text")
    path.write_bytes(with_footer(content, footer[:at] + b"\x04next" + footer[at + 5 :]))
    with pytest.raises(CorpusError, match='row group 0 has another column in the place of "text"'):
        _ = column_of(path).groups


@pytest.mark.parametrize("name", [b"te\xfft", b"\xff\xff\xff\xff"])
def test_names_of_columns_that_are_no_utf8(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": TEXTS, "NAME": ROWS}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"NAME", name))
    with pytest.raises(CorpusError, match=r"t\.parquet cannot be read as parquet: 'utf-8' codec can't decode"):
        _ = column_of(path).groups


MUTANTS = """
    import random, sys
    from pathlib import Path
    from lm_bounds.corpora.byte_source import LocalBytes
    from lm_bounds.corpora.text_columns import ParquetColumn
    from lm_bounds.errors import CorpusError

    chance, path, said = random.Random(1), Path(sys.argv[1]), 0
    bases = [Path(name).read_bytes() for name in sys.argv[2:]]
    for number in range(800):
        content = chance.choice(bases)
        length = int.from_bytes(content[-8:-4], "little")
        footer = bytearray(content[-8 - length : -8])
        at = chance.randrange(length)
        if number % 4 == 0:
            del footer[at : at + chance.randrange(1, 20)]
        else:
            for place in [at] + [chance.randrange(length) for _ in range(number % 4 - 1)]:
                footer[place] = chance.choice([0, 255, 128, footer[place] ^ 1 << chance.randrange(8)])
        path.write_bytes(content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        try:
            column = ParquetColumn(LocalBytes("here", [(path.name, path)]), [0], "text")
            for group, stored in column.fetched(column.groups):
                for rows in column.rows(group, stored):
                    [rows.content(row) for row in range(len(rows))]
        except CorpusError as error:
            said += 1
            assert str(error).startswith(str(path)) and str(error).isprintable() and len(str(error)) < 700, str(error)
    print(said)
"""


def test_damaged_footers_are_said_in_one_line_and_end_no_process(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number}.parquet") for number in range(4)]
    pq.write_table(pa.table({"text": TEXTS, **OTHERS}), names[0], row_group_size=17)
    pq.write_table(pa.table({"text": TEXTS}), names[1], write_page_index=True, use_dictionary=False)
    pq.write_table(pa.table({"id": ROWS, "text": TEXTS}), names[2], store_schema=False, compression="zstd")
    write_encrypted(Path(names[3]), "id")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MUTANTS), str(tmp_path / "mutant.parquet"), *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert 200 < int(run.stdout) < 800  # most are damaged, and not all
