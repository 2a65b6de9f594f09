"""The ways in which layouts pack codes into words: fields of equal width, streams of bits, signed integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.protocol import Misfit
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Tensor

_WORD_BITS = 32

#: Labels of the codes, of a shape that broadcasts to that of the codes.
Labels = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Codes:
    """What every packing here has: width, shape, and labels that are made when they are asked for.

    Args:
        n_bits: width of a code.
        shape: rows and columns of the matrix of codes.
        sources: names of the tensors that the shape or the labels come from.
        sides: how to make the labels.
    """

    n_bits: int
    shape: tuple[int, int]
    sources: tuple[str, ...] = field(default=(), kw_only=True)
    sides: Mapping[Side, Labels] = field(default_factory=dict, kw_only=True, repr=False, compare=False)

    def labels(self, side: Side) -> NDArray[np.uint8] | None:
        """For every code a label of its group; None without one, or where the tensor that tells it does not fit."""
        make = self.sides.get(side)
        if make is None:
            return None
        try:
            labels = np.asarray(make(), np.uint8)
            return np.ascontiguousarray(np.broadcast_to(labels, self.shape))
        except Misfit:
            return None


@dataclass(frozen=True)
class Fields(Codes):
    """Fields of equal width side by side in words.

    The words form a table (chunks, width), in which each word has a field at every shift; the codes are the table
    (chunks, shifts, width) in row-major order, as a matrix of shape ``capacity`` of which the upper left part is used.

    Args:
        word: numpy's code of the unsigned word.
        width: words of a chunk.
        shifts: position of the lowest bit of each field, in the order of the codes.
        capacity: rows and columns of all fields.
    """

    word: str
    width: int
    shifts: tuple[int, ...]
    capacity: tuple[int, int]

    def __post_init__(self) -> None:
        bits = 8 * np.dtype(self.word).itemsize
        if max(self.shifts) + self.n_bits > bits or len(set(self.shifts)) != len(self.shifts):
            raise Misfit(f"fields of {self.n_bits} bits at {self.shifts} do not lie in a word of {bits} bits")
        _check_part(self.shape, self.capacity)

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, in ``shape``.

        Raises:
            ValueError: a bit outside of the fields, or a field outside of the matrix, is not zero.
        """
        words = raw.view(self.word).reshape(-1, self.width)
        used = sum(((1 << self.n_bits) - 1) << shift for shift in self.shifts)
        if used != (1 << 8 * words.itemsize) - 1 and int(np.bitwise_or.reduce(words, axis=None)) & ~used:
            raise ValueError("bits that belong to no code are set")
        codes = np.empty((len(words), len(self.shifts), self.width), _code_type(self.n_bits))
        mask = words.dtype.type((1 << self.n_bits) - 1)
        for position, shift in enumerate(self.shifts):
            codes[:, position] = words >> words.dtype.type(shift) & mask
        return _used_part(codes.reshape(self.capacity), self.shape)

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the words."""
        fields = _padded(codes, self.capacity).reshape(-1, len(self.shifts), self.width)
        words = np.zeros((len(fields), self.width), self.word)
        for position, shift in enumerate(self.shifts):
            words |= fields[:, position].astype(self.word) << words.dtype.type(shift)
        return words.reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class Reshaped(Codes):
    """The codes of another packing, in row-major order, as a matrix of another shape.

    Args:
        fields: the other packing.
    """

    fields: Fields

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, in ``shape``.

        Raises:
            ValueError: as the other packing does.
        """
        return self.fields.unpack(raw).reshape(self.shape)

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the words."""
        return self.fields.pack(codes.reshape(self.fields.shape))


@dataclass(frozen=True)
class BitStream(Codes):
    """Codes one after another in a stream of bits over 32-bit words, the lowest bit first, along one axis.

    Code ``i`` takes the bits ``i b`` to ``i b + b - 1``, across the border of two words where it has to; every row
    (axis 1) or column (axis 0) of the table of words is a stream of its own.

    Args:
        words: rows and columns of the table of words.
        axis: along which a stream runs.
    """

    words: tuple[int, int]
    axis: int

    def __post_init__(self) -> None:
        across = 1 - self.axis
        capacity = self.words[self.axis] * _WORD_BITS // self.n_bits
        if self.shape[across] != self.words[across] or not 0 < self.shape[self.axis] <= capacity:
            raise Misfit(f"words of shape {self.words} hold no {self.n_bits}-bit codes of shape {self.shape}")

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, in ``shape``.

        Raises:
            ValueError: a bit after the last code of a stream is not zero.
        """
        table = raw.view("<u4").reshape(self.words)
        streams = table if self.axis == 0 else table.T  # shape: (words of a stream, streams)
        n_words, n_codes = self._period
        streams = np.pad(streams, ((0, -len(streams) % n_words), (0, 0)))
        codes = np.empty((len(streams) // n_words * n_codes, streams.shape[1]), _code_type(self.n_bits))
        mask = np.uint32((1 << self.n_bits) - 1)
        for position in range(n_codes):
            word, shift = divmod(position * self.n_bits, _WORD_BITS)
            part = streams[word::n_words] >> np.uint32(shift)
            if shift + self.n_bits > _WORD_BITS:
                part = part | streams[word + 1 :: n_words] << np.uint32(_WORD_BITS - shift)
            codes[position::n_codes] = part & mask
        across = streams.shape[1]
        used = _used_part(codes, (self.shape[self.axis], across))
        return used if self.axis == 0 else np.ascontiguousarray(used.T)

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the words."""
        n_words, n_codes = self._period
        along = codes if self.axis == 0 else codes.T
        length = -(-self.words[self.axis] // n_words)
        along = _padded(along, (length * n_codes, along.shape[1])).astype(np.uint32)
        streams = np.zeros((length * n_words, along.shape[1]), "<u4")
        for position in range(n_codes):
            word, shift = divmod(position * self.n_bits, _WORD_BITS)
            part = along[position::n_codes]
            streams[word::n_words] |= part << np.uint32(shift)
            if shift + self.n_bits > _WORD_BITS:
                streams[word + 1 :: n_words] |= part >> np.uint32(_WORD_BITS - shift)
        streams = streams[: self.words[self.axis]]
        table = streams if self.axis == 0 else streams.T
        return np.ascontiguousarray(table).reshape(-1).view(np.uint8)

    @property
    def _period(self) -> tuple[int, int]:
        """After how many words, and codes, both begin together again."""
        common = math.gcd(self.n_bits, _WORD_BITS)
        return self.n_bits // common, _WORD_BITS // common


@dataclass(frozen=True)
class SignedPlanes(Codes):
    """Whole numbers in two's complement, the code being the number modulo ``2^n_bits``, in a table of three sizes.

    The matrix has the rows of the first plane, then those of the next: (planes x rows, columns).

    Args:
        word: numpy's code of the signed integer.
        sizes: rows, columns and planes of the table, as it is stored.
    """

    word: str
    sizes: tuple[int, int, int]

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, in ``shape``.

        Raises:
            ValueError: a number does not lie in the range of ``n_bits`` bits.
        """
        numbers = raw.view(self.word).reshape(self.sizes)
        half = 1 << self.n_bits - 1
        if not -half <= int(numbers.min()) <= int(numbers.max()) < half:
            raise ValueError(f"there are numbers outside the range of {self.n_bits} bits")
        codes = (numbers & numbers.dtype.type(-1 if self.n_bits == 8 * numbers.itemsize else 2 * half - 1)).astype(
            _code_type(self.n_bits)
        )
        return np.ascontiguousarray(codes.transpose(2, 0, 1)).reshape(self.shape)

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the numbers."""
        rows, columns, planes = self.sizes
        half = 1 << self.n_bits - 1
        numbers = codes.astype(np.int32)
        numbers = np.where(numbers >= half, numbers - 2 * half, numbers).astype(self.word)
        table = numbers.reshape(planes, rows, columns).transpose(1, 2, 0)
        return np.ascontiguousarray(table).reshape(-1).view(np.uint8)


def unpacked(packing: Packing, tensor: Tensor, raw: NDArray[np.uint8] | None = None) -> NDArray[np.unsignedinteger]:
    """The codes of a tensor, or of other bytes in its place.

    Raises:
        Misfit: bits that no code uses are not zero.
    """
    try:
        return packing.unpack(tensor.data() if raw is None else raw)
    except ValueError as error:
        raise Misfit(f"tensor {tensor.name!r} cannot be unpacked: {error}") from error


def _code_type(n_bits: int) -> type[np.unsignedinteger]:
    return np.uint8 if n_bits <= 8 else np.uint16


def _check_part(shape: tuple[int, int], capacity: tuple[int, int]) -> None:
    if not (0 < shape[0] <= capacity[0] and 0 < shape[1] <= capacity[1]):
        raise Misfit(f"there is no room for codes of shape {shape} in fields of shape {capacity}")


def _used_part(fields: NDArray[np.unsignedinteger], shape: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """The upper left part, after checking that the rest is zero."""
    rows, columns = shape
    if fields[rows:].any() or fields[:rows, columns:].any():
        raise ValueError("fields that belong to no code are not zero")
    return np.ascontiguousarray(fields[:rows, :columns])


def _padded(codes: NDArray[np.unsignedinteger], capacity: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    if codes.shape == capacity:
        return codes
    fields = np.zeros(capacity, codes.dtype)
    fields[: codes.shape[0], : codes.shape[1]] = codes
    return fields
