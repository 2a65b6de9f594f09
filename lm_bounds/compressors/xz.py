"""xz (LZMA2) of the checkpoint's file."""

from __future__ import annotations

import lzma
import sys

from lm_bounds.compressors.streams import FileCompressor, Stream

_PRESET = 9  # 1.5 to 3 MB/s on weights; the "extreme" variant is slower and on bf16 weights no smaller


class Xz(FileCompressor):
    """Preset 9 xz streams of the canonical safetensors file and of the configuration, each with its CRC64.

    The same as ``xz -9 -T1``. liblzma's version is not to be had from Python: Python's own stands for it. Memory is
    below 1 GB.

    Reference: the .xz file format, version 1.2.1, tukaani.org/xz.

    >>> Xz().name, Xz().exact
    ('xz', True)
    """

    name = "xz"

    def version(self) -> str:
        """Python's version, whose liblzma it is, and the preset."""
        return f"lzma of Python {'.'.join(map(str, sys.version_info[:3]))}, preset {_PRESET}, 1 thread"

    def open_stream(self, n_bytes: int) -> Stream:
        """An xz stream."""
        return lzma.LZMACompressor(lzma.FORMAT_XZ, preset=_PRESET)
