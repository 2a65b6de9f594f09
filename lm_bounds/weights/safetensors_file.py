"""The safetensors layout: 8 bytes of header length, a JSON header, the tensors' bytes without gaps."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.protocol import Tensor, Weights

# The limit of the reference implementation; a longer header is not a checkpoint.
_MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"


def read_safetensors(path: Path) -> list[Tensor]:
    """The tensors of one file, in the order of their bytes; the bytes stay on disk until asked for.

    Args:
        path: a ``.safetensors`` file.

    Raises:
        WeightsError: the file cannot be read, or its header does not describe it exactly: the tensors must
            cover all bytes after the header, without gap or overlap, each with the size that dtype and shape
            give.
    """
    try:
        header, start, size = _read_header(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    header.pop(_METADATA, None)
    spans = sorted((_span(path, name, entry, size), name) for name, entry in header.items())
    tensors: list[Tensor] = []
    end = 0
    for (begin, stop), name in spans:
        tensor = _tensor(path, name, header[name], start + begin)
        if begin != end:
            raise _broken(path, f"tensor {name!r} starts at byte {begin}, the one before it ends at {end}")
        if tensor.n_bytes != stop - begin:
            raise _broken(
                path,
                f"tensor {name!r} of dtype {tensor.dtype} and shape {tensor.shape} needs {tensor.n_bytes}"
                f" bytes, its offsets give {stop - begin}",
            )
        tensors.append(tensor)
        end = stop
    if end != size:
        raise _broken(path, f"the tensors end at byte {end} of {size}")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that the header of a file holds beside its tensors, without ``format``.

    Raises:
        WeightsError: the file cannot be read, its header is broken, or they are no texts.
    """
    try:
        header, _, _ = _read_header(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _broken(path, f"{_METADATA} is not an object of texts")
    return {name: text for name, text in metadata.items() if name != "format"}


def read_bytes(path: Path, offset: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes of a file, counted from ``offset``; they are read, not mapped, so that memory holds no more of it.

    Raises:
        WeightsError: the file cannot be read any more, or has become shorter.
    """
    try:
        piece = np.fromfile(path, np.uint8, stop - start, offset=offset + start)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if piece.size != stop - start:
        raise WeightsError(f"{path} has become shorter while it was read: keep checkpoints as they are meanwhile")
    return piece


def serialise(weights: Weights) -> Iterator[bytes | memoryview]:
    """The canonical safetensors file of ``weights``, piece by piece.

    Tensors in order of name; aliases as JSON under ``aliases`` in the header's metadata; header padded with
    blanks to a multiple of 8 bytes. Equal weights give equal bytes.
    """
    metadata = {"format": "pt"}
    if weights.aliases:
        metadata["aliases"] = json.dumps(dict(weights.aliases), separators=(",", ":"))
    header: dict[str, Any] = {_METADATA: metadata}
    offset = 0
    for tensor in weights.tensors:
        stop = offset + tensor.n_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in weights.tensors:
        yield from (chunk.data for chunk in tensor.chunks())


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data start, and how many bytes of data there are."""
    with path.open("rb") as file:
        total = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or not 2 <= length <= min(total - 8, _MAX_HEADER_BYTES):
            raise _broken(path, f"a header of {length} bytes does not fit a file of {total} bytes")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a JSON object")
    return header, 8 + length, total - 8 - length


def _span(path: Path, name: str, entry: Any, size: int) -> tuple[int, int]:
    """The checked ``data_offsets`` of one tensor."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _broken(path, f"the tensor name {name!r} is not valid Unicode") from error
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    offsets = entry["data_offsets"]
    if not _is_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise _broken(path, f"tensor {name!r} has data_offsets {offsets} outside the {size} bytes of data")
    return offsets[0], offsets[1]


def _tensor(path: Path, name: str, entry: dict[str, Any], offset: int) -> Tensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or not _is_sizes(shape):
        raise _broken(path, f"tensor {name!r} has dtype {dtype!r} and shape {shape!r}")
    return Tensor(name, dtype, tuple(shape), functools.partial(read_bytes, path, offset))


def _is_sizes(value: Any) -> bool:
    """Whether this is a list of sizes; more than 64 dimensions are no array of any library."""
    return (
        isinstance(value, list) and len(value) <= 64 and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"the name {name!r} occurs twice")
        table[name] = value
    return table


def _broken(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a valid safetensors file: {why}; download or save it again")
