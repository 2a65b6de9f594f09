"""Zstandard of the checkpoint's file."""

from __future__ import annotations

from lm_bounds.compressors.streams import FileCompressor, Stream

_LEVEL = 22  # the strongest: about 2 MB/s on weights


class Zstd(FileCompressor):
    """Level 22 Zstandard frames of the canonical safetensors file and of the configuration, each with its size.

    The same as ``zstd --ultra -22 --single-thread --no-check``. The output depends on the library's version and, with
    several threads, on how the file is cut among them: here one thread compresses. Memory is below 1 GB.

    Reference: RFC 8878.

    >>> Zstd().name, Zstd().exact
    ('zstd', True)
    """

    name = "zstd"

    def version(self) -> str:
        """The version of the Zstandard library, not of its Python binding, and the level."""
        import zstandard

        return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, level {_LEVEL}, 1 thread"

    def open_stream(self, n_bytes: int) -> Stream:
        """A frame that announces ``n_bytes`` bytes, by which the codec fits its tables to small inputs."""
        import zstandard

        # No threads is the library's single-threaded mode; one thread is already a pool.
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True, threads=0)
        return compressor.compressobj(size=n_bytes)
