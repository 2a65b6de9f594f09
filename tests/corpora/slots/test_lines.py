"""Lines of files partition their bytes, and are those that a cut at every newline gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora.byte_source import ByteRange, FileFacts, open_bytes
from lm_bounds.corpora.slots import lines
from lm_bounds.corpora.slots.lines import LineCells, check_line_files
from lm_bounds.errors import CorpusError


@dataclass
class InMemory:
    """Files in memory that note what is read of them.

    Args:
        contents: of the files.
        asked: the ranges, call by call.
    """

    contents: Sequence[bytes]
    asked: list[list[ByteRange]] = field(default_factory=list)
    source: str = "memory"

    @property
    def files(self) -> tuple[FileFacts, ...]:
        return tuple(FileFacts(str(n), f"file {n}", len(each), each.hex()) for n, each in enumerate(self.contents))

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        self.asked.append(list(ranges))
        for each in ranges:
            assert 0 <= each.start <= each.stop <= len(self.contents[each.file])
        return [self.contents[each.file][each.start : each.stop] for each in ranges]


def twin(contents: Sequence[bytes], order: Sequence[int]) -> list[tuple[int, int, bytes, str]]:
    """Base, slots, content and place of every line, found by cutting whole files."""
    found, base = [], 0
    for number in order:
        pieces, at = contents[number].split(b"\n"), 0
        for place, piece in enumerate(pieces):
            n_slots = len(piece) + (place < len(pieces) - 1)
            if n_slots:
                found.append((base, n_slots, piece, f"file {number}, byte {at}"))
            base, at = base + n_slots, at + n_slots
    return found


def cells_of(contents: Sequence[bytes], order: Sequence[int] | None = None) -> LineCells:
    return LineCells(InMemory(contents), range(len(contents)) if order is None else order, bytes)


BYTES = st.lists(st.sampled_from([b"\n", b"a", b"\r", b"\x85", b"\xe2\x80\xa8", b"\x00", b"xyz" * 30]), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_lines_are_those_between_newlines(data: st.DataObject) -> None:
    contents = [b"".join(each) for each in data.draw(st.lists(BYTES, min_size=1, max_size=4))]
    order = data.draw(st.permutations(range(len(contents))))
    wanted, cells = twin(contents, order), cells_of(contents, order)
    assert cells.number == sum(n_slots for _, n_slots, _, _ in wanted)
    bases = [base for base, *_ in wanted]
    slots = st.lists(st.integers(0, cells.number - 1), max_size=30).map(sorted) if cells.number else st.just([])
    chosen = data.draw(st.one_of(slots, st.just(list(range(cells.number)))))
    with (
        mock.patch.object(lines, "_WINDOW", data.draw(st.integers(1, 100))),
        mock.patch.object(lines, "_EVEN_STEPS", data.draw(st.integers(0, 5))),
        mock.patch.object(lines, "_LONGEST_STEP", data.draw(st.integers(1, 300))),
        mock.patch.object(lines, "_READ_TOGETHER", data.draw(st.sampled_from([1, 50, 1 << 26]))),
    ):
        found = cells.at(np.array(chosen, dtype=np.int64))
    assert [tuple(each) for each in found] == [
        wanted[int(np.searchsorted(bases, slot, side="right")) - 1] for slot in chosen
    ]


def test_what_is_read_depends_on_the_line_alone() -> None:
    """From whichever of its bytes a line is found: what was read for one draw is enough for another in its line."""
    generator = np.random.default_rng(1)
    lengths = generator.choice([0, 1, 100, 12_000, 65_535, 65_536, 200_000, 900_000], size=30)
    content = b"\n".join(b"x" * int(each) for each in lengths)
    window = 1 << 16
    for base, n_slots, _, _ in twin([content], [0]):
        needed = range(max(base - 1, 0) // window, (base + n_slots - 1) // window + 1)
        for slot in {base, base + n_slots - 1, base + int(generator.integers(n_slots))}:
            cells = cells_of([content])
            cells.at(np.array([slot]))
            asked = [part for call in cells.stored.asked for part in call if part.start < part.stop]
            assert {n for each in asked for n in range(each.start // window, (each.stop - 1) // window + 1)} == {
                *needed
            }
            assert len(asked) <= len(needed) + 1  # and once more for the content of a line in several windows


def test_lines_in_one_window_are_one_read() -> None:
    cells = cells_of([b"\n".join(b"%05d" % n * 400 for n in range(300))])  # 2,000 bytes each
    cells.at(np.arange(10_000, 50_000))
    assert [call for call in cells.stored.asked if call] == [[ByteRange(0, 0, 1 << 16)]]


def test_slots_of_a_long_line_share_its_search() -> None:
    """500 slots of one line of 8 MB: the file is read a few times, not 500 times."""
    content = b"short\n" + b"x" * (8 << 20) + b"\nshort"
    cells = cells_of([content])
    slots = np.sort(np.random.default_rng(2).integers(cells.number, size=500))
    found = cells.at(slots)
    assert {each.base for each in found} == {6}
    assert len({id(each.content) for each in found}) == 1
    assert sum(part.stop - part.start for call in cells.stored.asked for part in call) < 4 * len(content)
    lone = cells_of([content])
    lone.at(slots[:1])
    assert len(lone.stored.asked) < 60


def test_what_is_read_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_READ_TOGETHER", 100_000)
    content = b"\n".join([b"y" * 20_000] * 50)
    cells = cells_of([content])
    cells.at(np.arange(0, cells.number, 10_007))
    sizes = [sum(part.stop - part.start for part in call) for call in cells.stored.asked]
    assert max(sizes) <= 100_000


def test_a_line_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 20)
    longest = b"z" * ((1 << 20) - 1) + b"\n"
    assert cells_of([longest]).at(np.array([5]))[0].n_slots == 1 << 20
    for place in (6, 1 << 19, 1 << 20):
        with pytest.raises(CorpusError, match=r"file 0, byte \d+: a line of more than 1 MiB; check that these are"):
            cells_of([b"short\n" + b"z" + longest]).at(np.array([place]))


def test_rule_and_identity() -> None:
    one, other = cells_of([b"a\n", b"bc"]), cells_of([b"a\n", b"bd"])
    assert one.rule == other.rule  # the same sizes
    assert one.identity != other.identity
    assert one.rule != cells_of([b"bc", b"a\nb"]).rule
    assert cells_of([b"a", b"bb"]).rule != cells_of([b"a", b"bb"], [1, 0]).rule
    assert cells_of([b"a", b"b"]).identity != cells_of([b"a", b"b"], [1, 0]).identity


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty; get it again"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a pointer of git-lfs"),
        ("a.jsonl.GZ", b"\x1f\x8b", "is no file of lines; unpack it"),
        ("a.parquet", b"PAR1", "is no file of lines; unpack it"),
    ],
)
def test_files_without_lines_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "b.jsonl").write_bytes(b"{}\n")
    check_line_files(open_bytes(str(tmp_path), tmp_path / "cache"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=f"{name} {message}") as caught:
        check_line_files(open_bytes(str(tmp_path), tmp_path / "cache"))
    assert "\n" not in str(caught.value)


def test_only_small_files_are_looked_into() -> None:
    source: Any = InMemory([b"{}\n" * 1000, b"{}\n"])
    check_line_files(source)
    assert source.asked == [[ByteRange(1, 0, 3)]]
