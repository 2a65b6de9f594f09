"""Files behind URLs as a source of bytes: read in blocks that are kept on disk, several requests at a time."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from lm_bounds.corpora.byte_source.block_cache import BLOCK_BYTES, BlockCache
from lm_bounds.corpora.byte_source.files import ByteRange, FileFacts
from lm_bounds.corpora.byte_source.range_requests import CONNECTIONS, RangeReader, Resource
from lm_bounds.errors import CorpusError

_MOST_BLOCKS = 128  # of one request, 4 MiB
_LARGEST_GAP = 1  # unwanted blocks that are fetched rather than asked around
_KEPT_BLOCKS = 512


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be read by ranges.

    Args:
        facts: of the file.
        resource: how it is asked for.
    """

    facts: FileFacts
    resource: Resource

    @property
    def key(self) -> str:
        """Under which its blocks are kept."""
        parts = ["lm-bounds/blocks/1", BLOCK_BYTES, self.facts.identity, self.facts.n_bytes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Run(NamedTuple):
    """Consecutive blocks ``first .. last`` of a file that one request brings."""

    file: int
    first: int
    last: int


class RemoteBytes:
    """Files behind URLs.

    Args:
        source: where they are.
        files: opened ones.
        reader: that asks for ranges; None where the network must not be used.
        cache: that keeps what was read.
    """

    def __init__(self, source: str, files: Sequence[RemoteFile], reader: RangeReader | None, cache: BlockCache) -> None:
        self.source = source
        self.files = tuple(file.facts for file in files)
        self._resources = [file.resource for file in files]
        self._keys = [file.key for file in files]
        self._reader, self._cache = reader, cache
        self._recent: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range; see ``ByteSource``. What is not kept yet is fetched first, close ranges together."""
        wanted = sorted({(each.file, number) for each in ranges for number in _blocks(each)})
        self._fetch_all(_runs([block for block in wanted if not self._is_kept(*block)]))
        return [self._joined(each) for each in ranges]

    def _is_kept(self, file: int, number: int) -> bool:
        known = (file, number) in self._recent
        return known or self._cache.has(self._keys[file], number, self._size(file, number, number))

    def _size(self, file: int, first: int, last: int) -> int:
        return min((last + 1) * BLOCK_BYTES, self.files[file].n_bytes) - first * BLOCK_BYTES

    def _fetch_all(self, runs: list[_Run]) -> None:
        if len(runs) < 2:
            for run in runs:
                self._fetch(run)
            return
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            for _ in pool.map(self._fetch, runs):
                pass
        finally:  # after a failure, what has not begun is left
            pool.shutdown(cancel_futures=True)

    def _fetch(self, run: _Run) -> None:
        """Brings blocks into the cache."""
        start = run.first * BLOCK_BYTES
        stop = start + self._size(*run)
        if self._reader is None:
            raise CorpusError(
                f"{self.files[run.file].place}, bytes {start} to {stop - 1}: HF_HUB_OFFLINE is set and these were not "
                "read before: unset it, or pass corpus_path=FOLDER with a copy of the files"
            )
        content = self._reader.read(self._resources[run.file], start, stop)
        for number in range(run.first, run.last + 1):
            at = (number - run.first) * BLOCK_BYTES
            self._cache.put(self._keys[run.file], number, content[at : at + BLOCK_BYTES])

    def _joined(self, wanted: ByteRange) -> bytes:
        blocks = _blocks(wanted)
        content = b"".join(self._block(wanted.file, number) for number in blocks)
        start = wanted.start - blocks.start * BLOCK_BYTES
        return content[start : start + wanted.stop - wanted.start]

    def _block(self, file: int, number: int) -> bytes:
        content = self._recent.pop((file, number), None)
        if content is None:
            content = self._cache.get(self._keys[file], number)
        if content is None:  # damaged on disk
            self._fetch(_Run(file, number, number))
            content = self._cache.get(self._keys[file], number)
        if content is None or len(content) != self._size(file, number, number):
            raise CorpusError("a block was written to the cache folder but cannot be read back; check its disk")
        self._recent[file, number] = content
        if len(self._recent) > _KEPT_BLOCKS:
            self._recent.popitem(last=False)
        return content


def _blocks(wanted: ByteRange) -> range:
    if wanted.start == wanted.stop:
        return range(0)
    return range(wanted.start // BLOCK_BYTES, (wanted.stop - 1) // BLOCK_BYTES + 1)


def _runs(blocks: Sequence[tuple[int, int]]) -> list[_Run]:
    """Blocks in increasing order as runs of close ones."""
    runs: list[_Run] = []
    for file, number in blocks:
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.file == file
            and number - last.last <= 1 + _LARGEST_GAP
            and number - last.first < _MOST_BLOCKS
        ):
            runs[-1] = _Run(file, last.first, number)
        else:
            runs.append(_Run(file, number, number))
    return runs
