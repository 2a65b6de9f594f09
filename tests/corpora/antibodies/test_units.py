"""Data units, whole and broken."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora.antibodies.units import Row, Unit, find_units
from lm_bounds.errors import CorpusError

GOOD = Row(True, "IGHV3-23*01", "IGHJ4*02", "CARDYW", "EVQLCARDYWW", "H", "")


def rows_of(path: Path) -> list[Row]:
    [unit] = find_units(path)
    return list(unit.rows())


def test_a_data_unit(written: Callable[..., Path]) -> None:
    path = written("a.csv.gz", [{}, {"productive": "F", "locus": ""}, {"ANARCI_status": 'a, "quoted"\nnote'}])
    assert rows_of(path) == [GOOD, GOOD._replace(productive=False, locus=""), GOOD]
    [unit] = find_units(path)
    assert unit.metadata is not None
    assert unit.metadata["Author"] == 'Parameswaran et al., 2014, "Dengue"'
    assert unit.subject == ("unit", 'Parameswaran et al., 2014, "Dengue"', "Subject", "Subject-1")


@pytest.mark.parametrize("unknown", ["no", "", None, "None"])
def test_a_run_is_a_subject_where_the_subject_is_not_known(written: Callable[..., Path], unknown: str | None) -> None:
    [unit] = find_units(written("a.csv.gz", [{}], Subject=unknown))
    assert unit.subject[2:] == ("Run", "SRR1")
    [nobody] = find_units(written("b.csv.gz", [{}], Subject=unknown, Run="no"))
    with pytest.raises(CorpusError, match=r"b\.csv\.gz:1: the metadata have neither a Subject nor a Run"):
        _ = nobody.subject


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tsv.gz"])
def test_plain_tables(units_dir: Path, as_table: Callable[..., str], name: str) -> None:
    text = as_table([{"locus": "IGH", "productive": "true"}], "," if ".csv" in name else "\t")
    content = ("\ufeff" + text.rstrip("\n")).encode()
    path = units_dir / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert rows_of(path) == [GOOD._replace(locus="IGH")]
    [unit] = find_units(path)
    assert unit.metadata is None
    assert unit.subject == ("table", unit.sha256)


def test_a_data_unit_that_was_unpacked_has_its_metadata(
    units_dir: Path, as_table: Callable[..., str], as_metadata: Callable[..., str]
) -> None:
    path = units_dir / "a.csv"
    path.write_text(as_metadata() + as_table([{}]))
    assert rows_of(path) == [GOOD]
    assert find_units(path)[0].subject[-1] == "Subject-1"


def damaged(content: str, change: Callable[[str], str]) -> bytes:
    return gzip.compress(change(content).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "a.csv.gz is empty"),
        (lambda text: text.split("\n", 1)[1], r"a.csv.gz:1: a data unit begins with its metadata"),
        (lambda text: "[1]\n" + text.split("\n", 1)[1], r"a.csv.gz:1: a data unit begins with its metadata"),
        (lambda text: text.replace('""Run""', "Run"), r"a.csv.gz:1: a data unit begins with its metadata"),
        (lambda text: text.replace('""', '"'), r"a.csv.gz:1: "),
        (lambda text: text.split("\n", 1)[0] + "\n", r"a.csv.gz:2: no column productive"),
        (lambda text: text.replace("junction_aa", "junction_aa_heavy"), r"a.csv.gz:2: no column junction_aa"),
        (lambda text: text.replace("ANARCI_status", "v_call"), r"a.csv.gz:2: two columns v_call"),
        (lambda text: text + "x,y\n", r"a.csv.gz:6: a row of 2 fields under 8 columns"),
        (lambda text: text.replace("ACGT,", "AC,GT,", 1), r"a.csv.gz:3: a row of 9 fields under 8 columns"),
        (lambda text: text + "\n", r"a.csv.gz:6: a row of 0 fields under 8 columns"),
        (lambda text: text[:-30], r"a.csv.gz:5: "),
        (lambda text: text + '"never closed', r"a.csv.gz:6: unexpected end of data"),
        (lambda text: text.replace(",T,", ",maybe,"), r"a.csv.gz:3: productive must be T or F, found 'maybe'"),
    ],
)
def test_malformed_units_are_named_with_their_line(
    written: Callable[..., Path], change: Callable[[str], str], message: str
) -> None:
    path = written("a.csv.gz", [{}, {}, {}])
    text = change(gzip.decompress(path.read_bytes()).decode())
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(CorpusError, match=message):
        rows_of(path)


def test_truncated_gzip_files(written: Callable[..., Path]) -> None:
    path = written("a.csv.gz", [{"sequence": f"{number:05d}"} for number in range(2000)])
    content = path.read_bytes()
    for n_bytes in (5, 1000, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(CorpusError, match=r"a\.csv\.gz:\d+: the gzip file is cut off or damaged"):
            rows_of(path)
    path.write_bytes(content[:100] + bytes(50) + content[150:])
    with pytest.raises(CorpusError, match=r"a\.csv\.gz:\d+: "):
        rows_of(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(CorpusError, match=r"a\.csv\.gz:1: the gzip file is cut off or damaged"):
        rows_of(path)


def test_bytes_that_are_no_text_are_named_with_their_line(written: Callable[..., Path]) -> None:
    path = written("a.csv.gz", [{}] * 50)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    lines[30] = lines[30].replace(b"ACGT", b"AC\xff")
    path.write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(CorpusError, match=r"a\.csv\.gz:31: not UTF-8"):
        rows_of(path)


def test_an_endless_line_is_not_read_to_its_end(units_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_bounds.corpora.antibodies.units._LONGEST_LINE", 1000)
    path = units_dir / "a.csv"
    path.write_text("productive," + "x" * 5000)
    with pytest.raises(CorpusError, match=r"a\.csv:1: longer than 1,000 bytes"):
        rows_of(path)


def test_units_are_found_by_content_and_not_by_name(written: Callable[..., Path], units_dir: Path) -> None:
    first, second = written("b.csv.gz", [{}]), written("a.csv.gz", [{}], Subject="Subject-2")
    found = find_units(units_dir)
    (units_dir / "deep").mkdir()
    first.rename(units_dir / "deep" / "0.csv.gz")
    (units_dir / "copy.csv.gz").write_bytes(second.read_bytes())
    (units_dir / ".hidden").write_text("not a unit")
    assert [unit.sha256 for unit in find_units(units_dir)] == [unit.sha256 for unit in found]
    assert len(found) == 2


def test_other_files_among_the_units_are_refused(written: Callable[..., Path], units_dir: Path) -> None:
    written("a.csv.gz", [{}])
    (units_dir / "a.csv.gz.part").write_text("")
    with pytest.raises(CorpusError, match=r"a\.csv\.gz\.part is not read"):
        find_units(units_dir)


def test_an_empty_folder_and_a_file_that_is_gone(units_dir: Path) -> None:
    with pytest.raises(CorpusError, match="holds no data units"):
        find_units(units_dir)
    with pytest.raises(CorpusError, match=r"gone\.csv cannot be read: No such file"):
        list(Unit(units_dir / "gone.csv", "").rows())


def test_fewer_rows_than_the_metadata_say(written: Callable[..., Path], caplog: Any) -> None:
    for n_rows, is_said in ((3, False), (2, True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            rows_of(written("a.csv.gz", [{}] * n_rows, **{"Unique sequences": 3}))
        assert ("a.csv.gz has 2 sequences, its metadata say 3" in caplog.text) is is_said
