"""GGUF files: their tensors, the parts of quantised blocks apart, and the keys that define the network."""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.layouts.gguf import BLOCKS, PART_MARK, Part, part_name
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor
from lm_bounds.weights.safetensors_file import read_bytes

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 1 << 16
# Bytes of the file that are read at a time to pick one part of its blocks.
_REGION_BYTES = 1 << 22
# Elements of the longest array that defines a network.
_MAX_ARRAY = 1 << 20

# struct's codes of the types of values, by their number; 8 is a text, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

_PLAIN = frozenset({"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"})

# Keys that say what the network is called, who made it, or how the file was cut, and the tokenizer's.
_NOT_NETWORK = ("tokenizer.", "general.", "split.", "quantize.")
# transformers reads from its name whether a Llama is a Mistral.
_NETWORK = frozenset({"general.architecture", "general.name", "general.quantization_version"})


def read_gguf(path: Path) -> tuple[bytes, list[Tensor]]:
    """The configuration and the tensors of one GGUF file; the bytes stay on disk until they are asked for.

    Args:
        path: a file of version 2 or 3, little endian, that holds a whole model.

    Returns:
        Canonical JSON of the keys that define the network, under ``gguf``: all but those of the tokenizer, of names and
        descriptions, and of how the file was made; and the tensors, with the parts of quantised blocks as tensors of
        their own (``lm_bounds.weights.layouts.gguf``).

    Raises:
        WeightsError: the file cannot be read, its header does not describe it, it is one of several, or the ``gguf``
            library is not installed.

    Reference: ggml, ``docs/gguf.md``.
    """
    types = _block_types()
    try:
        with path.open("rb") as file:
            reader = _Reader(path, file)
            keys, infos = _header(reader)
            start = reader.position
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if keys.get("split.count", 0) not in (0, 1):
        raise WeightsError(f"{path} is one of several files of a model: merge them with llama-gguf-split --merge")
    alignment = keys.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise _broken(path, f"general.alignment is {alignment!r}")
    start += -start % alignment
    tensors: dict[str, Tensor] = {}
    for name, shape, kind, offset in infos:
        for tensor in _tensors(path, name, shape, types.get(kind), start + offset, reader.size):
            if tensor.name in tensors:
                raise _broken(path, f"two tensors are called {tensor.name!r}")
            tensors[tensor.name] = tensor
    network = {key: value for key, value in keys.items() if key in _NETWORK or not key.startswith(_NOT_NETWORK)}
    return canonical_config({"gguf": network}), list(tensors.values())


def _block_types() -> dict[int, tuple[str, int, int]]:
    """Name, weights of a block and bytes of a block, by the number of the type."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as error:
        raise WeightsError("a .gguf file needs a library: pip install 'lm-bounds[gguf]'") from error
    return {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


class _Reader:
    """Reads the header of a file, whose numbers it does not trust."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.size = file.seek(0, 2)
        self.position = file.seek(0)

    def take(self, n_bytes: int) -> bytes:
        """The next bytes."""
        self.skip(n_bytes)
        return self._file.read(n_bytes)

    def skip(self, n_bytes: int, *, seek: bool = False) -> None:
        """Counts bytes as read, after checking that they are there."""
        if n_bytes > self.size - self.position:
            raise _broken(self.path, f"{n_bytes} bytes at {self.position} end after the {self.size} bytes of the file")
        self.position += n_bytes
        if seek:
            self._file.seek(self.position)

    def number(self, code: str) -> Any:
        """The next number, of a code of ``struct``."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, longest: int | None = None) -> str:
        """The next text."""
        length = self.number("Q")
        if longest is not None and length > longest:
            raise _broken(self.path, f"a name has {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise _broken(self.path, f"a text is not UTF-8: {error.reason}") from error

    def value(self, kind: int, wanted: bool, depth: int = 0) -> Any:
        """The next value of a type; None for one that is not wanted."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text() if wanted else self.skip(self.number("Q"), seek=True)
        if kind != _ARRAY or depth > _MAX_DIMENSIONS:
            raise _broken(self.path, f"a value has the type {kind}, nested {depth} times")
        inner, count = self.number("I"), self.number("Q")
        if count > self.size - self.position or (wanted and count > _MAX_ARRAY):  # every element takes a byte or more
            raise _broken(self.path, f"an array of {count} elements does not fit the file")
        if inner in _SCALARS and not wanted:
            return self.skip(count * struct.calcsize("<" + _SCALARS[inner]), seek=True)
        values = [self.value(inner, wanted, depth + 1) for _ in range(count)]
        return values if wanted else None


_Info = tuple[str, tuple[int, ...], int, int]


def _header(reader: _Reader) -> tuple[dict[str, Any], list[_Info]]:
    """The keys with their values, and name, shape, type and offset of every tensor; the shape has rows first."""
    if reader.take(min(4, reader.size)) != _MAGIC:
        raise _broken(reader.path, "it does not begin with GGUF")
    version = reader.number("I")
    if version not in _VERSIONS:
        raise _broken(reader.path, f"version {version} is none of {_VERSIONS}, or its bytes are in big-endian order")
    n_tensors, n_keys = reader.number("Q"), reader.number("Q")
    keys: dict[str, Any] = {}
    for _ in range(n_keys):
        name = reader.text(_MAX_NAME_BYTES)
        if name in keys:
            raise _broken(reader.path, f"the key {name!r} occurs twice")
        keys[name] = reader.value(reader.number("I"), not name.startswith("tokenizer."))
    infos: list[_Info] = []
    for _ in range(n_tensors):
        name, n_dimensions = reader.text(_MAX_NAME_BYTES), reader.number("I")
        if n_dimensions > _MAX_DIMENSIONS or PART_MARK in name:
            raise _broken(reader.path, f"tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(n_dimensions))[::-1]
        infos.append((name, shape, reader.number("I"), reader.number("Q")))
    return keys, infos


def _tensors(
    path: Path, name: str, shape: tuple[int, ...], kind: tuple[str, int, int] | None, offset: int, size: int
) -> list[Tensor]:
    """One tensor as it is, or one for each part of its blocks."""
    if kind is None:
        raise WeightsError(
            f"{path}: tensor {name!r} has a type that the installed gguf library does not know; upgrade it"
        )
    type_name, n_weights, n_bytes = kind
    columns = shape[-1] if shape else 1
    if columns % n_weights:
        raise _broken(path, f"tensor {name!r} of type {type_name} has {columns} columns, no multiple of {n_weights}")
    if math.prod(shape) // n_weights * n_bytes > size - offset:
        raise _broken(path, f"tensor {name!r} of type {type_name} and shape {shape} ends after the file")
    if type_name in _PLAIN:
        return [Tensor(name, type_name, shape, functools.partial(read_bytes, path, offset))]
    blocks = (*shape[:-1], columns // n_weights)
    if type_name not in BLOCKS:
        load = functools.partial(read_bytes, path, offset)
        return [Tensor(part_name(name, type_name, "blocks"), "U8", (*blocks, n_bytes), load)]
    found = []
    begin = 0
    for part in BLOCKS[type_name][1]:
        load = functools.partial(_read_part, path, offset, n_bytes, begin, part.n_bytes)
        found.append(Tensor(part_name(name, type_name, part.name), part.dtype, _part_shape(blocks, part), load))
        begin += part.n_bytes
    if begin != n_bytes:
        raise WeightsError(
            f"{path}: blocks of type {type_name} have {n_bytes} bytes, {begin} are known; upgrade lm-bounds"
        )
    return found


def _part_shape(blocks: tuple[int, ...], part: Part) -> tuple[int, ...]:
    n_elements = part.n_bytes // DTYPE_BYTES[part.dtype]
    return blocks if n_elements == 1 else (*blocks, n_elements)


def _read_part(
    path: Path, offset: int, block_bytes: int, begin: int, part_bytes: int, start: int, stop: int
) -> NDArray[np.uint8]:
    """The bytes from ``start`` to ``stop`` of one part of all blocks, which lies ``begin`` bytes into each."""
    first, last = start // part_bytes, -(-stop // part_bytes)
    step = max(1, _REGION_BYTES // block_bytes)
    picked = np.empty((last - first, part_bytes), np.uint8)
    for block in range(first, last, step):
        end = min(block + step, last)
        region = read_bytes(path, offset, block * block_bytes, end * block_bytes).reshape(-1, block_bytes)
        picked[block - first : end - first] = region[:, begin : begin + part_bytes]
    return picked.reshape(-1)[start - first * part_bytes : stop - first * part_bytes]


def _broken(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a valid GGUF file: {why}; download or convert it again")
