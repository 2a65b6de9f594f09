"""What a source of bytes is, and files on this machine as one.

Files are read, not mapped: the memory that is used is that of the bytes that were asked for, and a file that becomes
shorter is an error in one line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from lm_bounds.errors import CorpusError

_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER_BYTES = 1024  # by the specification of git-lfs


@dataclass(frozen=True)
class FileFacts:
    """A file of a source.

    Args:
        name: its path below the source's place, with ``/``.
        place: where it is, for messages.
        n_bytes: its size.
        identity: what would be another if its content were: an ETag, an object id, or size and time of change.
    """

    name: str
    place: str
    n_bytes: int
    identity: str


class ByteRange(NamedTuple):
    """Bytes ``start .. stop - 1`` of a file, by its number in the source."""

    file: int
    start: int
    stop: int


class ByteSource(Protocol):
    """Random access to the bytes of some files, in a fixed order."""

    @property
    def source(self) -> str:
        """Where the files are, with the commit of a repository, without passwords."""
        ...

    @property
    def files(self) -> tuple[FileFacts, ...]:
        """The files."""
        ...

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range, in the order of the ranges.

        Raises:
            CorpusError: they cannot be read, or a file is no longer the one that was opened.
        """
        ...


def refuse_pointer(place: str, n_bytes: int, head: bytes) -> None:
    """Refuses what git-lfs leaves in the place of a file that was not fetched.

    Args:
        place: where the file is, for the message.
        n_bytes: its size.
        head: its first bytes, at least 64 of them or all.

    Raises:
        CorpusError: it is a pointer.
    """
    if n_bytes <= _LARGEST_POINTER_BYTES and head.startswith(_POINTER):
        raise CorpusError(f"{place} is a pointer of git-lfs and not the file itself: run git lfs pull")


def refuse_pointers(source: ByteSource, numbers: Sequence[int]) -> None:
    """Refuses files that are pointers of git-lfs, at the cost of reading those that are small.

    Args:
        source: of the files.
        numbers: of those that are looked at.

    Raises:
        CorpusError: one is a pointer, or cannot be read.
    """
    small = [number for number in numbers if source.files[number].n_bytes <= _LARGEST_POINTER_BYTES]
    ranges = [ByteRange(number, 0, source.files[number].n_bytes) for number in small]
    for number, content in zip(small, source.read_many(ranges), strict=True):
        refuse_pointer(source.files[number].place, source.files[number].n_bytes, content)


class LocalBytes:
    """Files on this machine.

    Args:
        source: what the user pointed at.
        paths: the files by their names.

    Raises:
        CorpusError: a file cannot be read.
    """

    def __init__(self, source: str, paths: Sequence[tuple[str, Path]]) -> None:
        self.source = source
        self._paths = [path for _, path in paths]
        self.files = tuple(self._facts(name, path) for name, path in paths)

    def _facts(self, name: str, path: Path) -> FileFacts:
        try:
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        return FileFacts(
            name, str(path), status.st_size, f"{status.st_size} {status.st_mtime_ns} {status.st_dev} {status.st_ino}"
        )

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range; see ``ByteSource``."""
        found = [b""] * len(ranges)
        by_file: dict[int, list[int]] = {}
        for number, wanted in enumerate(ranges):
            by_file.setdefault(wanted.file, []).append(number)
        for file, numbers in by_file.items():
            path, facts = self._paths[file], self.files[file]
            self._check_unchanged(path, facts)
            try:
                with path.open("rb", buffering=0) as stream:
                    for number in numbers:
                        found[number] = _read_exactly(stream, ranges[number], facts)
            except OSError as error:
                raise unreadable(path, error) from error
            self._check_unchanged(path, facts)
        return found

    def _check_unchanged(self, path: Path, facts: FileFacts) -> None:
        if self._facts(facts.name, path) != facts:
            raise CorpusError(f"{path} was changed while it was read; run again once nothing writes to it")


def _read_exactly(stream: io.FileIO, wanted: ByteRange, facts: FileFacts) -> bytes:
    n_bytes = wanted.stop - wanted.start
    stream.seek(wanted.start)
    content = stream.read(n_bytes)
    while len(content) < n_bytes:
        more = stream.read(n_bytes - len(content))
        if not more:
            raise CorpusError(f"{facts.place} ends before byte {wanted.stop} of {facts.n_bytes}: it was cut off")
        content += more
    return content


def unreadable(path: Path, error: OSError) -> CorpusError:
    """What to say where a file on this machine cannot be read."""
    return CorpusError(f"{path} cannot be read: {error.strerror or error}; check that it exists and its permissions")
