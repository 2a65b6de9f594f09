"""gzip of the checkpoint's file: the measure that anybody can repeat with one command."""

from __future__ import annotations

import zlib

from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.weights.protocol import Weights
from lm_bounds.weights.safetensors_file import serialise

_LEVEL = 9
_GZIP_CONTAINER = 31  # zlib's window bits: 15 for the largest window, 16 to ask for a gzip header


class Gzip:
    """Level 9 gzip of the canonical safetensors file, with the configuration deflated beside it.

    ``bits = 8 (len(deflate(config)) + len(gzip(safetensors)))``. Both streams mark their own end, so neither
    needs a length. The gzip header holds no time and no name.

    Reference: RFC 1950 to 1952.

    >>> [item.item for item in Gzip().ledger(Weights("empty", ()))]
    ['config.json', 'safetensors']
    """

    name = "gzip"
    exact = True

    def version(self) -> str:
        """The zlib build, on which the size depends, and the level."""
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level {_LEVEL}"

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        """Two items, ``config.json`` and ``safetensors``; the model is streamed, never held in memory."""
        config_bytes = len(zlib.compress(weights.config, _LEVEL))
        stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_CONTAINER)
        file_bytes = 0
        for piece in serialise(weights):
            file_bytes += len(stream.compress(piece))
        file_bytes += len(stream.flush())
        return (
            LedgerItem("config.json", 8.0 * config_bytes),
            LedgerItem("safetensors", 8.0 * file_bytes),
        )
