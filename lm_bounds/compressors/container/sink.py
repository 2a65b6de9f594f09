"""Where modes write to: numbers, symbols and bits, gathered into blocks of bounded size."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.bits import pack_bits
from lm_bounds.compressors.container.lanes import MOST_LANE_BITS, Frequencies, LaneEncoder
from lm_bounds.compressors.container.levels import LevelCode, to_frequencies, to_levels
from lm_bounds.compressors.container.models import (
    FEW_SYMBOLS,
    LARGEST_ADAPTIVE,
    MOST_ADAPTIVE,
    SMALL_ALPHABET,
    SYMBOLS_PER_FREQUENCY,
    Adaptive,
    Model,
    Plain,
    plain_width,
)
from lm_bounds.compressors.container.scalars import ScalarEncoder

#: A block ends after the sequence that brings its symbols and bytes to this number.
BLOCK_SIZE = 1 << 24
#: Modes hand on so many elements at a time.
PIECE = 1 << 20

# A lane wastes about 5 bytes: below 0.03 % of so many bytes. Symbols that hardly need any bits would take too long in
# few lanes, so that there are a few more, and one for each of so many symbols.
_BYTES_PER_LANE = 1 << 14
_SYMBOLS_PER_LANE = 1 << 18
_SHORT_ROW = 1 << 12
_EASY_LANES = 32
# So few bits go with the numbers, which fill no bytes.
_FEW_BITS = 512


class Sink:
    """Writes blocks; ``Source`` reads them with the same calls in the same order.

    A block holds the numbers, coded one by one; the words of the interleaved coder; and plain bits. In front are the
    sizes of the three, behind is a CRC-32.

    Args:
        write: takes the bytes of the blocks in order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._levels = LevelCode()
        self._begin()

    def _begin(self) -> None:
        self._scalars = ScalarEncoder()
        self._symbols: list[tuple[Frequencies, NDArray[np.integer]]] = []
        self._plain: list[bytes] = []
        self._size = 0

    def integer(self, value: int, n_bits: int) -> None:
        """A number below ``2^n_bits`` in that many bits."""
        self._scalars.integer(value, n_bits)

    def below(self, value: int, n: int) -> None:
        """A number of ``range(n)`` in ``log2 n`` bits."""
        self._scalars.below(value, n)

    def delta(self, value: int) -> None:
        """A number of at least 1 in its Elias delta code."""
        self._scalars.delta(value)

    def model(self, counts: NDArray[np.int64]) -> Model:
        """Begins sequences of symbols that are coded as an adaptive code would.

        Args:
            counts: how often each symbol will come in each context, shape (contexts, alphabet), not all zero.

        Returns:
            What ``symbols`` wants; few symbols adapt one by one, and many have their frequencies written here.
        """
        n, alphabet = int(counts.sum()), counts.shape[1]
        if is_adaptive(n, alphabet, len(counts)):
            return Adaptive(alphabet)
        if alphabet == 1:
            return only_symbol(len(counts))
        levels = to_levels(counts)
        self._levels.write(self._scalars, levels)
        return from_levels(levels)

    def symbols(self, model: Model, symbols: NDArray[np.integer], contexts: NDArray[np.integer] | None = None) -> None:
        """A part of a sequence.

        Args:
            model: that ``model`` returned; over all parts each symbol comes as often as was said.
            symbols: below the alphabet, shape (n,).
            contexts: of each symbol; None where there is one context.
        """
        if isinstance(model, Adaptive):
            pairs = zip([0] * symbols.size if contexts is None else contexts.tolist(), symbols.tolist(), strict=True)
            for context, symbol in pairs:
                self._scalars.counted(symbol, model.of(context))
        elif isinstance(model, Plain):
            self.bits(model.ranks(symbols, contexts), model.width)
        else:
            places = symbols.astype(np.int32)
            if contexts is not None:
                places += contexts.astype(np.int32) * model.alphabet
            self._symbols.append((model, places.astype(np.uint16) if model.sizes.size <= 1 << 16 else places))
            self._grow(symbols.size)

    def bits(self, values: NDArray[np.integer], width: int) -> None:
        """The low ``width`` bits of numbers, at most 31."""
        if is_few(values.size, width):
            for value in values.tolist():
                self.integer(value & (1 << width) - 1, width)
        else:
            self.raw(pack_bits(values, width))

    def raw(self, content: bytes) -> None:
        """Bytes as they are."""
        self._plain.append(content)
        self._grow(len(content))

    def close(self) -> None:
        """Writes the last block."""
        self._end()

    def _grow(self, n: int) -> None:
        self._size += n
        if self._size >= BLOCK_SIZE:
            self._end()
            self._begin()

    def _end(self) -> None:
        scalars, plain = self._scalars.finish(), b"".join(self._plain)
        lane_bits = self._lane_bits()
        words = b""
        if self._symbols:
            lanes = LaneEncoder(1 << lane_bits)
            while self._symbols:
                lanes.encode(*self._symbols.pop())
            words = lanes.finish()
        sizes = bytes([lane_bits]) + b"".join(map(varint, (len(scalars), len(words), len(plain))))
        check = 0
        for part in (sizes, scalars, words, plain):
            check = zlib.crc32(part, check)
            self._write(part)
        self._write(check.to_bytes(4, "little"))

    def _lane_bits(self) -> int:
        """How many lanes the block has, as a power of two."""
        n_symbols, bits = 0, 8.0 * sum(map(len, self._plain))
        for model, places in self._symbols:
            counts = np.bincount(places, minlength=model.sizes.size)
            present = counts > 0
            bits += float((counts[present] * (24 - np.log2(model.sizes[present]))).sum())
            n_symbols += places.size
        easy = max(min(_EASY_LANES, n_symbols // _SHORT_ROW), n_symbols // _SYMBOLS_PER_LANE)
        n_lanes = max(1, int(bits / 8) // _BYTES_PER_LANE, easy)
        return min(MOST_LANE_BITS, n_lanes.bit_length() - 1)


def is_adaptive(n: int, alphabet: int, n_contexts: int) -> bool:
    """Whether ``n`` symbols are coded one by one: few, or so few that a table of frequencies would cost too much."""
    few_for_table = alphabet <= SMALL_ALPHABET and n <= min(
        MOST_ADAPTIVE, SYMBOLS_PER_FREQUENCY * alphabet * n_contexts
    )
    return (n <= FEW_SYMBOLS and alphabet <= LARGEST_ADAPTIVE) or few_for_table


def is_few(n: int, width: int) -> bool:
    """Whether ``n`` numbers of ``width`` bits are coded one by one."""
    return n * width <= _FEW_BITS


def only_symbol(n_contexts: int) -> Plain:
    """The model of an alphabet of one symbol, which needs no bits."""
    return Plain(np.ones((n_contexts, 1), np.int64), 0)


def from_levels(levels: NDArray[np.int64]) -> Model:
    """The model that levels stand for."""
    width = plain_width(levels)
    return to_frequencies(levels) if width is None else Plain(levels, width)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the last byte is below 128.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
