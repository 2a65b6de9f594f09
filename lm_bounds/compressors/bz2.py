"""bzip2 of the checkpoint's file."""

from __future__ import annotations

import bz2
import sys

from lm_bounds.compressors.streams import FileCompressor, Stream

_LEVEL = 9  # the strongest: about 15 MB/s on weights


class Bz2(FileCompressor):
    """Level 9 bzip2 streams of the canonical safetensors file and of the configuration.

    The same as ``bzip2 -9``. The library's version is not to be had from Python: Python's own stands for it.

    Reference: M. Burrows and D. Wheeler, "A block-sorting lossless data compression algorithm", DEC SRC Research
    Report 124, 1994, for the transform; sourceware.org/bzip2 for the format.

    >>> Bz2().name, Bz2().exact
    ('bz2', True)
    """

    name = "bz2"

    def version(self) -> str:
        """Python's version, whose libbz2 it is, and the level."""
        return f"bz2 of Python {'.'.join(map(str, sys.version_info[:3]))}, level {_LEVEL}"

    def open_stream(self, n_bytes: int) -> Stream:
        """A bzip2 stream."""
        return bz2.BZ2Compressor(_LEVEL)
