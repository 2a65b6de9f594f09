"""The packed file: what the compressors ``arithmetic`` and ``best`` measure, written down.

    header   magic, format, name of the compressor, SHA-256 of the weights, configuration and schema, CRC-32
    blocks   numbers, words of the interleaved coder, plain bits, CRC-32

A mode writes to a ``Sink`` and reads from a ``Source``; ``coders.CODERS`` has both directions of each.
"""

from lm_bounds.compressors.container.file import (
    SUFFIX,
    Unpacked,
    pack,
    read_model,
    read_packed,
    unpack,
    unpacked_bytes,
)
from lm_bounds.compressors.container.header import packing_compressor

__all__ = [
    "SUFFIX",
    "Unpacked",
    "pack",
    "packing_compressor",
    "read_model",
    "read_packed",
    "unpack",
    "unpacked_bytes",
]
