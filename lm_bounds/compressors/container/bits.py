"""Numbers of a few bits, packed without gaps, as fast as memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BYTE_BITS = 8
_FIELDS = (16, 8, 4, 2, 1)


def _fields(width: int) -> Iterator[tuple[int, int]]:
    """Fields of 16, 8, 4, 2 and 1 bits that make up a width below 32, and where each lies, the lowest first."""
    shift = 0
    for size in _FIELDS:
        if width & size:
            yield size, shift
            shift += size


def packed_bytes(n: int, width: int) -> int:
    """Bytes of ``n`` numbers of ``width`` bits: each field of the numbers fills whole bytes."""
    return sum(-(-n * size // _BYTE_BITS) for size, _ in _fields(width))


def pack_bits(values: NDArray[np.integer], width: int) -> bytes:
    """Packs the low bits of numbers.

    Args:
        values: shape (n,).
        width: 0 to 31; a field of 16, 8, 4, 2 or 1 bits of all numbers comes after the other.

    >>> pack_bits(np.array([1, 2, 3], np.uint8), 2).hex(), packed_bytes(3, 2)
    ('39', 1)
    """
    packed = []
    for size, shift in _fields(width):
        field = values >> shift & (1 << size) - 1
        if size >= _BYTE_BITS:
            packed.append(field.astype(f"<u{size // _BYTE_BITS}").tobytes())
            continue
        per_byte = _BYTE_BITS // size
        padded = np.zeros(-(-values.size // per_byte) * per_byte, np.uint8)
        padded[: values.size] = field
        out = padded[::per_byte].copy()
        for place in range(1, per_byte):
            out |= padded[place::per_byte] << np.uint8(place * size)
        packed.append(out.tobytes())
    return b"".join(packed)


def unpack_bits(packed: bytes, n: int, width: int) -> NDArray[np.uint32]:
    """The inverse of ``pack_bits``, shape (n,)."""
    values = np.zeros(n, np.uint32)
    start = 0
    for size, shift in _fields(width):
        stop = start + -(-n * size // _BYTE_BITS)
        content = np.frombuffer(packed[start:stop], f"<u{max(1, size // _BYTE_BITS)}")
        start = stop
        if size < _BYTE_BITS:
            per_byte = _BYTE_BITS // size
            spread = np.empty((content.size, per_byte), np.uint8)
            for place in range(per_byte):
                spread[:, place] = content >> np.uint8(place * size) & np.uint8((1 << size) - 1)
            content = spread.reshape(-1)[:n]
        values |= content.astype(np.uint32) << np.uint32(shift)
    return values
