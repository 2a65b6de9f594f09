"""Files behind URLs: the right bytes, few requests, none twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora.byte_source import ByteRange, open_bytes
from lm_bounds.corpora.byte_source.block_cache import BLOCK_BYTES
from lm_bounds.corpora.byte_source.places import numbered_urls
from lm_bounds.errors import CorpusError, UsageError

SIZES = (3 * BLOCK_BYTES, 70, 300 * BLOCK_BYTES + 11)


@pytest.fixture
def contents(server: Any) -> list[bytes]:
    generator = np.random.default_rng(1)
    made = [generator.bytes(size) for size in SIZES]
    server.files = {f"part_{number:02}.bin": content for number, content in enumerate(made, start=8)}
    return made


def opened(server: Any, tmp_path: Path) -> Any:
    return open_bytes(server.url("part_{08..10}.bin"), tmp_path / "cache")


def ranges(seed: int, n: int = 60) -> list[ByteRange]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        file = int(generator.integers(3))
        start, stop = np.sort(generator.integers(SIZES[file] + 1, size=2)).tolist()
        found.append(ByteRange(file, start, min(stop, start + 100_000)))
    return found


def test_the_bytes_are_those_of_the_files(server: Any, contents: list[bytes], tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    assert [file.n_bytes for file in source.files] == list(SIZES)
    wanted = ranges(0)
    assert source.read_many(wanted) == [contents[file][start:stop] for file, start, stop in wanted]
    assert 1 < server.most_busy <= 8


def test_nothing_is_fetched_twice(server: Any, contents: list[bytes], tmp_path: Path) -> None:
    first = opened(server, tmp_path).read_many(ranges(1))
    server.asked.clear()
    again = opened(server, tmp_path)
    assert again.read_many(ranges(1)) == first
    assert server.asked == [(f"/part_{number}.bin", "bytes=0-0") for number in ("08", "09", "10")] or {
        wanted for _, wanted in server.asked
    } == {"bytes=0-0"}
    assert len(server.asked) == 3  # one for the identity of each file, none for bytes


def test_close_ranges_are_asked_for_together(server: Any, contents: list[bytes], tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    server.asked.clear()
    blocks = [0, 1, 2, 4, 7, 8, 200]  # 3 is fetched along with its neighbours, 5 and 6 are asked around
    found = source.read_many([ByteRange(2, n * BLOCK_BYTES + 5, n * BLOCK_BYTES + 9) for n in blocks])
    assert found == [contents[2][n * BLOCK_BYTES + 5 : n * BLOCK_BYTES + 9] for n in blocks]
    wanted = [(0, 5), (7, 9), (200, 201)]
    assert sorted(asked for _, asked in server.asked) == sorted(
        f"bytes={first * BLOCK_BYTES}-{last * BLOCK_BYTES - 1}" for first, last in wanted
    )


def test_a_long_range_is_several_requests(server: Any, contents: list[bytes], tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    server.asked.clear()
    assert source.read_many([ByteRange(2, 0, SIZES[2])]) == [contents[2]]
    assert len(server.asked) == 3  # of 128 blocks at most


def test_what_was_read_before_a_failure_is_kept(
    server: Any, contents: list[bytes], tmp_path: Path, pauses: list[float], blocks: Callable[[], list[Path]]
) -> None:
    wanted = [ByteRange(2, n * 10 * BLOCK_BYTES, n * 10 * BLOCK_BYTES + 4) for n in range(30)]
    source = opened(server, tmp_path)
    server.faults = [None] * 12
    server.always = "500"
    with pytest.raises(CorpusError, match="not to be had in 4 attempts"):
        source.read_many(wanted)
    kept = len(blocks())
    assert 0 < kept <= 12
    server.always = None
    resumed = opened(server, tmp_path)
    server.asked.clear()
    assert resumed.read_many(wanted) == [contents[2][start:stop] for _, start, stop in wanted]
    assert len(server.asked) == 30 - kept


def test_damaged_blocks_are_fetched_again(
    server: Any, contents: list[bytes], tmp_path: Path, blocks: Callable[[], list[Path]]
) -> None:
    wanted = [ByteRange(0, 10, 90_000)]
    opened(server, tmp_path).read_many(wanted)
    for number, path in enumerate(sorted(blocks())):
        stored = bytearray(path.read_bytes())
        stored[-1] ^= 1
        path.write_bytes(stored if number else stored[:100])
    assert opened(server, tmp_path).read_many(wanted) == [contents[0][10:90_000]]


def test_another_file_of_the_same_name_has_blocks_of_its_own(
    server: Any, contents: list[bytes], tmp_path: Path
) -> None:
    wanted = [ByteRange(1, 0, 70)]
    assert opened(server, tmp_path).read_many(wanted) == [contents[1]]
    server.files["part_09.bin"] = bytes(70)
    assert opened(server, tmp_path).read_many(wanted) == [bytes(70)]


def test_without_a_mark_nothing_is_taken_from_an_earlier_run(
    server: Any, contents: list[bytes], tmp_path: Path
) -> None:
    server.no_mark = True
    wanted = [ByteRange(1, 0, 70)]
    assert opened(server, tmp_path).read_many(wanted) == [contents[1]]
    server.files["part_09.bin"] = bytes(70)
    assert opened(server, tmp_path).read_many(wanted) == [bytes(70)]


def test_a_cache_that_cannot_be_written(server: Any, contents: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CorpusError, match=r"cache folder .* cannot be used"):
        opened(server, tmp_path).read_many([ByteRange(1, 0, 70)])


def test_numbered_urls(tmp_path: Path) -> None:
    assert list(numbered_urls("http://h/{1..2}/{09..10}.bin")) == [
        f"http://h/{folder}/{file}.bin" for folder in (1, 2) for file in ("09", "10")
    ]
    with pytest.raises(UsageError, match="must rise"):
        list(numbered_urls("http://h/{5..2}.bin"))
    with pytest.raises(UsageError, match="stands for more than 100000 files"):
        open_bytes("http://h/{1..100000}/{1..100000}.bin", tmp_path)


def test_local_files_that_change_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(100)))
    source = open_bytes(str(path), tmp_path / "cache")
    assert source.read_many([ByteRange(0, 90, 100), ByteRange(0, 3, 3), ByteRange(0, 0, 2)]) == [
        bytes(range(90, 100)),
        b"",
        b"\0\1",
    ]
    path.write_bytes(bytes(99))
    with pytest.raises(CorpusError, match=r"a\.bin was changed while it was read; run again"):
        source.read_many([ByteRange(0, 0, 2)])
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.bin cannot be read"):
        source.read_many([ByteRange(0, 0, 2)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="has no file whose name fits"):
        open_bytes(str(tmp_path / "empty"), tmp_path / "cache")
