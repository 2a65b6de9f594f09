"""Where modes read from: what ``Sink`` has written, in the same order."""

from __future__ import annotations

import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.bits import packed_bytes, unpack_bits
from lm_bounds.compressors.container.lanes import MOST_LANE_BITS, LaneDecoder
from lm_bounds.compressors.container.levels import LevelCode
from lm_bounds.compressors.container.models import Adaptive, Model, Plain
from lm_bounds.compressors.container.scalars import ScalarDecoder, broken
from lm_bounds.compressors.container.sink import BLOCK_SIZE, from_levels, is_adaptive, is_few, only_symbol, varint

# Nine bytes of seven bits: below 2^63.
_VARINT_BYTES = 9


class FileBytes:
    """A file whose bytes are all accounted for, so that no size in it is believed.

    Args:
        file: open for reading, at its beginning.
        n_bytes: its size.
    """

    def __init__(self, file: BinaryIO, n_bytes: int) -> None:
        self._file, self.left = file, n_bytes

    def read(self, n: int) -> bytes:
        """Exactly ``n`` bytes.

        Raises:
            WeightsError: there are fewer.
        """
        content = self._file.read(n) if n <= self.left else b""
        if len(content) != n:
            raise broken("it ends too early")
        self.left -= n
        return content

    def varint(self) -> int:
        """A number that ``sink.varint`` wrote."""
        value = 0
        for place in range(_VARINT_BYTES):
            [byte] = self.read(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise broken("a size is out of range")

    def check(self, *parts: bytes) -> None:
        """The CRC-32 of these parts comes next."""
        found = 0
        for part in parts:
            found = zlib.crc32(part, found)
        if self.read(4) != found.to_bytes(4, "little"):
            raise broken("a checksum does not match")


class Source:
    """Reads blocks, one in memory at a time.

    Args:
        file: at the first block.

    Raises:
        WeightsError: at any call: the file is damaged.
    """

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._levels = LevelCode()
        self._begin()

    def _begin(self) -> None:
        [lane_bits] = self._file.read(1)
        if lane_bits > MOST_LANE_BITS:
            raise broken("a size is out of range")
        sizes = [self._file.varint() for _ in range(3)]
        if sum(sizes) > self._file.left:
            raise broken("it ends too early")
        scalars, words, self._plain = (self._file.read(size) for size in sizes)
        self._file.check(bytes([lane_bits]) + b"".join(map(varint, sizes)), scalars, words, self._plain)
        self._scalars = ScalarDecoder(scalars)
        self._lanes = LaneDecoder(1 << lane_bits, words) if words else None
        self._place = self._size = 0

    def integer(self, n_bits: int) -> int:
        """A number below ``2^n_bits``."""
        return self._scalars.integer(n_bits)

    def below(self, n: int) -> int:
        """A number of ``range(n)``."""
        return self._scalars.below(n)

    def delta(self) -> int:
        """A number of at least 1."""
        return self._scalars.delta()

    def model(self, n: int, alphabet: int, n_contexts: int = 1) -> Model:
        """Begins sequences of symbols.

        Args:
            n: how many symbols will come, over all contexts, at least 1.
            alphabet: number of symbols.
            n_contexts: number of contexts.
        """
        if is_adaptive(n, alphabet, n_contexts):
            return Adaptive(alphabet)
        if alphabet == 1:
            return only_symbol(n_contexts)
        return from_levels(self._levels.read(self._scalars, n_contexts, alphabet))

    def symbols(self, model: Model, n: int, contexts: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
        """The next ``n`` symbols, given their contexts where there are several."""
        if isinstance(model, Adaptive):
            read = self._scalars.counted
            if contexts is None:
                return np.array([read(model.of(0)) for _ in range(n)], np.int64)
            return np.array([read(model.of(context)) for context in contexts.tolist()], np.int64)
        if isinstance(model, Plain):
            if model.absent[0 if contexts is None else contexts].any():
                raise broken("a symbol has no frequency")
            return model.symbols(self.bits(n, model.width), contexts)
        if self._lanes is None:
            raise broken("symbols are missing")
        places = self._lanes.decode(model, n, contexts)
        if contexts is not None:
            places -= contexts.astype(np.int64) * model.alphabet
        self._grow(n)
        return places

    def bits(self, n: int, width: int) -> NDArray[np.uint32]:
        """``n`` numbers below ``2^width``."""
        if is_few(n, width):
            return np.array([self.integer(width) for _ in range(n)], np.uint32)
        return unpack_bits(self.raw(packed_bytes(n, width)), n, width)

    def raw(self, n: int) -> bytes:
        """``n`` bytes as they are."""
        content = self._plain[self._place : self._place + n]
        if len(content) != n:
            raise broken("bits are missing")
        self._place += n
        self._grow(n)
        return content

    def close(self) -> None:
        """Checks that the last block, and the file, has been read to its end."""
        self._end()
        if self._file.left:
            raise broken("there is more behind its end")

    def _grow(self, n: int) -> None:
        self._size += n
        if self._size >= BLOCK_SIZE:
            self._end()
            self._begin()

    def _end(self) -> None:
        self._scalars.finish()
        if self._lanes is not None:
            self._lanes.finish()
        if self._place != len(self._plain):
            raise broken("bits are left over")
