"""Where the token ids of a file begin, how many there are and how wide they are.

Recognised are ``.npy`` files (one-dimensional, of integers), files with the header of llm.c (256 int32: a magic number,
a version, the number of tokens), and files without a header.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange, ByteSource, FileFacts, refuse_pointer
from lm_bounds.errors import CorpusError

LLMC_HEADER_BYTES = 256 * 4
# magic number -> version and type of the ids: GPT-2 and Llama 3 files of llm.c
_LLMC: dict[int, tuple[int, np.dtype[Any]]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}
_NPY_MAGIC = b"\x93NUMPY"
_HEAD_BYTES = 4096
TOKEN_SUFFIXES = (".bin", ".npy")


@dataclass(frozen=True)
class Part:
    """The token ids in a file.

    Args:
        file: its number in the source.
        offset: bytes before the first id.
        n_bytes: of the ids.
    """

    file: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class TokenFiles:
    """Token ids in files, one file after another.

    Args:
        source: of the bytes.
        dtype: of an id.
        parts: that hold ids, in their order.
    """

    source: ByteSource
    dtype: np.dtype[Any]
    parts: tuple[Part, ...]


def token_files(
    source: ByteSource, default: np.dtype[Any], numbers: Sequence[int] | None = None, *, cut_anywhere: bool = False
) -> TokenFiles:
    """The token ids in files of a source.

    Args:
        source: of the bytes.
        default: type of the ids where a file has no header.
        numbers: of the files, in the order of their ids; None for all.
        cut_anywhere: whether files without a header may end inside an id, which the next one continues.

    Raises:
        CorpusError: a header is malformed or does not fit its file, or the files differ in the type of their ids.
    """
    chosen = list(range(len(source.files)) if numbers is None else numbers)
    ranges = [ByteRange(file, 0, min(_HEAD_BYTES, source.files[file].n_bytes)) for file in chosen]
    found = [
        _described(file, source.files[file], head, default, cut_anywhere)
        for file, head in zip(chosen, source.read_many(ranges), strict=True)
    ]
    dtype = found[0][0]
    for (other, part), (_, first) in zip(found, found[:1] * len(found), strict=True):
        if other != dtype:
            raise CorpusError(
                f"{source.files[part.file].place} holds {other.name} ids, {source.files[first.file].place} holds "
                f"{dtype.name} ids; keep files of one kind in a folder of their own"
            )
    return TokenFiles(source, dtype, tuple(part for _, part in found))


def _described(
    file: int, facts: FileFacts, head: bytes, default: np.dtype[Any], cut_anywhere: bool
) -> tuple[np.dtype[Any], Part]:
    if not facts.n_bytes:
        raise CorpusError(f"{facts.place} is empty; it must hold little-endian {default.name} token ids")
    refuse_pointer(facts.place, facts.n_bytes, head)
    if head.startswith(_NPY_MAGIC):
        dtype, offset, n_ids = _npy_header(facts, head)
    elif len(head) >= LLMC_HEADER_BYTES and int.from_bytes(head[:4], "little") in _LLMC:
        dtype, offset, n_ids = _llmc_header(facts, head)
    else:
        dtype, offset, n_ids = default, 0, facts.n_bytes // default.itemsize
        if facts.n_bytes % default.itemsize and not cut_anywhere:
            raise CorpusError(
                f"{facts.place} has {facts.n_bytes} bytes, not a multiple of {default.itemsize}: this tokenizer needs "
                f"little-endian {default.name} ids"
            )
        return dtype, Part(file, 0, facts.n_bytes)
    n_bytes = n_ids * dtype.itemsize
    if offset + n_bytes != facts.n_bytes:
        raise CorpusError(
            f"{facts.place} has {facts.n_bytes} bytes, but its header announces {n_ids} ids of {dtype.name}, "
            f"{offset + n_bytes} bytes; it was cut off or is damaged: get it again"
        )
    if not n_ids:
        raise CorpusError(f"{facts.place} holds no token ids; leave it out")
    return dtype, Part(file, offset, n_bytes)


def _npy_header(facts: FileFacts, head: bytes) -> tuple[np.dtype[Any], int, int]:
    stream = io.BytesIO(head)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise ValueError(f"version {version} of the format is not known")
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = readers[version](stream)
        shape, _, dtype = header
    except ValueError as error:
        raise CorpusError(f"{facts.place} is no .npy file that can be read: {error}") from error
    if len(shape) != 1 or dtype.kind not in "ui":
        raise CorpusError(
            f"{facts.place} holds {dtype} of shape {shape}; a one-dimensional array of integers is needed: save "
            "array.ravel().astype('<u2') or '<u4'"
        )
    n_ids: int = shape[0]
    return dtype, stream.tell(), n_ids


def _llmc_header(facts: FileFacts, head: bytes) -> tuple[np.dtype[Any], int, int]:
    magic, version, n_ids = (int(value) for value in np.frombuffer(head[:12], dtype="<i4"))
    wanted, dtype = _LLMC[magic]
    if version != wanted:
        raise CorpusError(f"{facts.place} has the header of llm.c with version {version}; version {wanted} is known")
    return dtype, LLMC_HEADER_BYTES, max(n_ids, 0)


def in_order(names: Sequence[str]) -> list[int]:
    """The numbers of some file names in the order of the names, digits as numbers: ``part2`` before ``part10``.

    >>> in_order(["part10.bin", "part2.bin"])
    [1, 0]
    """

    def key(number: int) -> tuple[list[tuple[int, int, str]], str]:
        pieces = re.split(r"(\d+)", names[number])
        return [(1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces], names[number]

    return sorted(range(len(names)), key=key)
