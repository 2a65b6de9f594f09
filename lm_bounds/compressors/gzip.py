"""gzip of the checkpoint's file: the measure that anybody can repeat with one command."""

from __future__ import annotations

import zlib

from lm_bounds.compressors.streams import FileCompressor, Stream

_LEVEL = 9
_GZIP_CONTAINER = 31  # zlib's window bits: 15 for the largest window, 16 to ask for a gzip header


class Gzip(FileCompressor):
    """Level 9 gzip of the canonical safetensors file, with the configuration deflated beside it.

    The gzip header holds no time and no name.

    Reference: RFC 1950 to 1952.

    >>> from lm_bounds.weights.protocol import Weights
    >>> [item.item for item in Gzip().ledger(Weights("empty", ()))]
    ['config.json', 'safetensors']
    """

    name = "gzip"

    def version(self) -> str:
        """The zlib build, on which the size depends, and the level."""
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level {_LEVEL}"

    def open_stream(self, n_bytes: int) -> Stream:
        """A gzip stream."""
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_CONTAINER)

    def open_config_stream(self, n_bytes: int) -> Stream:
        """A zlib stream, whose container is the smaller one."""
        return zlib.compressobj(_LEVEL)
