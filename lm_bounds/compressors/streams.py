"""What the general-purpose compressors share: the canonical safetensors file goes through one stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.weights.protocol import Weights
from lm_bounds.weights.safetensors_file import serialise

Piece = bytes | memoryview


class Stream(Protocol):
    """An open stream of a codec: bytes in, compressed bytes out, and the rest at the end."""

    def compress(self, data: Piece, /) -> bytes:
        """What the stream emits for more bytes, perhaps nothing yet."""

    def flush(self) -> bytes:
        """What is left, and the mark of the stream's end."""


class FileCompressor(ABC):
    """The size of the canonical safetensors file, and of the configuration, as two streams of one codec.

    ``bits = 8 (len(codec(config)) + len(codec(safetensors)))``. Each stream marks its own end, so neither needs a
    length. The file is streamed: memory is the codec's window and a piece of a tensor. One thread compresses, since
    with several the output of some codecs depends on their number.
    """

    name: str
    exact = True

    @abstractmethod
    def version(self) -> str:
        """The codec's library and its version, on which the size depends, and the level."""

    @abstractmethod
    def open_stream(self, n_bytes: int) -> Stream:
        """A new stream for ``n_bytes`` bytes."""

    def open_config_stream(self, n_bytes: int) -> Stream:
        """A new stream for a configuration of ``n_bytes`` bytes."""
        return self.open_stream(n_bytes)

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        """Two items, ``config.json`` and ``safetensors``; the model is streamed, never held in memory."""
        config_stream = self.open_config_stream(len(weights.config))
        pieces = serialise(weights)
        header = next(pieces)
        stream = self.open_stream(len(header) + weights.stored_bytes)
        file_bytes = len(stream.compress(header)) + _stream_bytes(stream, pieces)
        return (
            LedgerItem("config.json", 8.0 * _stream_bytes(config_stream, [weights.config])),
            LedgerItem("safetensors", 8.0 * file_bytes),
        )


def _stream_bytes(stream: Stream, pieces: Iterable[Piece]) -> int:
    """Bytes that the stream emits for the pieces and at its end."""
    n_bytes = sum(len(stream.compress(piece)) for piece in pieces)
    return n_bytes + len(stream.flush())
