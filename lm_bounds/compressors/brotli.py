"""Brotli of the checkpoint's file, with the optional library of that name."""

from __future__ import annotations

from typing import Any

from lm_bounds.compressors.streams import FileCompressor, Piece, Stream
from lm_bounds.errors import UsageError

_QUALITY = 10  # 2 to 7 MB/s on weights; 11, the strongest, falls to 0.6 MB/s and gains 4 percent at most
_WINDOW_BITS = 24  # the largest of RFC 7932


class Brotli(FileCompressor):
    """Quality 10 brotli streams, of the largest window, of the canonical safetensors file and of the configuration.

    The same as ``brotli -q 10 --lgwin=24``.

    Raises:
        UsageError: the library is not installed.

    Reference: RFC 7932.
    """

    name = "brotli"

    def __init__(self) -> None:
        try:
            import brotli
        except ImportError as error:
            raise UsageError("compressor 'brotli' needs a library: pip install 'lm-bounds[brotli]'") from error
        self._library: Any = brotli

    def version(self) -> str:
        """The version of the library, the quality and the window."""
        return f"brotli {self._library.__version__}, quality {_QUALITY}, window 2^{_WINDOW_BITS}"

    def open_stream(self, n_bytes: int) -> Stream:
        """A brotli stream."""
        return _BrotliStream(self._library.Compressor(quality=_QUALITY, lgwin=_WINDOW_BITS))


class _BrotliStream:
    """The library's compressor, whose methods have other names."""

    def __init__(self, compressor: Any) -> None:
        self._compressor = compressor

    def compress(self, data: Piece, /) -> bytes:
        return bytes(self._compressor.process(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.finish())
