"""The beginning of a packed file: what it is, the hash of the weights, their configuration and schema."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sink import varint
from lm_bounds.compressors.container.source import FileBytes
from lm_bounds.compressors.registry import COMPRESSORS
from lm_bounds.compressors.tensorwise import TensorCompressor, schema
from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor, Weights

# Like that of PNG: no text, and what changes line ends changes it.
MAGIC = b"\x89lmb\r\n\x1a\n"
#: Of the file, and of the modes that the compressors have: a mode keeps its number.
FORMAT_VERSION = 1

_ZLIB_LEVEL = 9
# More is no checkpoint, and would be a bomb.
_MOST_JSON_BYTES = 1 << 25
_MOST_JSON_RATIO = 100
_ALWAYS_JSON_BYTES = 1 << 20
_MOST_NAMES = 1 << 18
_MOST_DIMENSIONS = 64
_RESERVED_NAME = "__metadata__"


@dataclass(frozen=True)
class Header:
    """What is known of a packed model before its tensors are decoded.

    Args:
        compressor: whose modes code the tensors.
        sha256: of the weights, 64 hexadecimal digits.
        config: canonical JSON.
        tensors: name, dtype and shape of each, in order of name.
        aliases: (dropped name, kept name), sorted.
    """

    compressor: TensorCompressor
    sha256: str
    config: bytes
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    aliases: tuple[tuple[str, str], ...]


def packing_compressor(name: str) -> TensorCompressor:
    """The compressor of that name, where it is one that packs.

    Raises:
        UsageError: it measures a file of another format.
    """
    compressor = COMPRESSORS[name]() if name in COMPRESSORS else None
    if not isinstance(compressor, TensorCompressor):
        packing = ", ".join(each for each, kind in COMPRESSORS.items() if isinstance(kind(), TensorCompressor))
        raise UsageError(f"a model is packed with one of {packing}, not with {name!r}")
    return compressor


def header_bytes(weights: Weights, compressor: TensorCompressor) -> bytes:
    """Magic, version, name of the compressor, SHA-256, deflated configuration and schema, CRC-32."""
    name = compressor.name.encode()
    config, table = (zlib.compress(content, _ZLIB_LEVEL) for content in (weights.config, schema(weights)))
    content = b"".join(
        (
            MAGIC,
            bytes([FORMAT_VERSION]),
            *(varint(len(name)), name),
            bytes.fromhex(weights.sha256()),
            *(varint(len(config)), config),
            *(varint(len(table)), table),
        )
    )
    return content + zlib.crc32(content).to_bytes(4, "little")


def read_header(file: FileBytes) -> Header:
    """Reads the header, which only says what the tensors are: nothing is as large as it says before they are decoded.

    Raises:
        WeightsError: this is no packed model, it is damaged, or it is of another version.
    """
    if file.left < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
        raise WeightsError("this is not a packed model: `lm-bounds compress MODEL --pack FILE` makes one")
    version = file.read(1)
    if version[0] != FORMAT_VERSION:
        raise WeightsError(f"the packed file has format {version[0]}, this version reads {FORMAT_VERSION}: update it")
    name, sha256 = _delimited(file), file.read(32)
    config, table = _delimited(file), _delimited(file)
    lengths = [varint(len(part)) for part in (name, config, table)]
    file.check(MAGIC, version, lengths[0], name, sha256, lengths[1], config, lengths[2], table)
    try:
        compressor = packing_compressor(name.decode())
    except (UsageError, UnicodeDecodeError) as error:
        raise broken(f"there is no compressor {name!r}") from error
    content = _inflated(config)
    _json_object(content)
    tensors, aliases = _tables(_json_object(_inflated(table)))
    # Refuses names that repeat or are out of order.
    Weights("the packed file", tuple(Tensor(*entry, _unread) for entry in tensors), aliases, content)
    return Header(compressor, sha256.hex(), content, tensors, aliases)


def _unread(start: int, stop: int) -> NDArray[np.uint8]:
    raise broken("a tensor is read before it is there")


def _delimited(file: FileBytes) -> bytes:
    return file.read(file.varint())


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    most = min(_MOST_JSON_BYTES, max(_ALWAYS_JSON_BYTES, _MOST_JSON_RATIO * len(content)))
    try:
        inflated = stream.decompress(content, most)
    except zlib.error as error:
        raise broken(f"the header cannot be inflated ({error})") from error
    if not stream.eof or stream.unused_data:
        raise broken("the header cannot be inflated")
    return inflated


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise broken("the header is not valid JSON") from error
    if not isinstance(value, dict):
        raise broken("the header is not a JSON object")
    return value


def _tables(
    table: dict[str, Any],
) -> tuple[tuple[tuple[str, str, tuple[int, ...]], ...], tuple[tuple[str, str], ...]]:
    """The tensors and the aliases of a schema, checked."""
    tensors, aliases = table.get("tensors"), table.get("aliases")
    if not isinstance(tensors, list) or not isinstance(aliases, list) or len(table) != 2:
        raise broken("the schema has no tensors")
    if len(tensors) + len(aliases) > _MOST_NAMES:
        raise broken("the schema has too many tensors")
    if not all(isinstance(entry, list) and len(entry) == 3 and _is_tensor(*entry) for entry in tensors):
        raise broken("the schema names a tensor that cannot be")
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_name, pair)) for pair in aliases):
        raise broken("the schema names an alias that cannot be")
    return (
        tuple((name, dtype, tuple(shape)) for name, dtype, shape in tensors),
        tuple((dropped, kept) for dropped, kept in aliases),
    )


def _is_tensor(name: Any, dtype: Any, shape: Any) -> bool:
    return (
        _is_name(name)
        and isinstance(dtype, str)
        and dtype in DTYPE_BYTES
        and isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    )


def _is_name(name: Any) -> bool:
    """Whether a safetensors file can have a tensor of that name; lone surrogates have no UTF-8."""
    return isinstance(name, str) and name != _RESERVED_NAME and not any("\ud800" <= each <= "\udfff" for each in name)
