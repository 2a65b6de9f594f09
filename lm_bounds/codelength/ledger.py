"""Bits as named terms that add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LedgerItem:
    """One named part of a description and what it costs.

    Args:
        item: what the bits describe, e.g. a tensor's name.
        bits: its cost in bits, >= 0; may be fractional (``log2`` of a grid's size).
    """

    item: str
    bits: float


def total_bits(ledger: Iterable[LedgerItem]) -> float:
    """Sum of the ledger in bits, in the ledger's order.

    >>> total_bits([LedgerItem("a", 2.0), LedgerItem("b", 0.5)])
    2.5
    """
    return float(sum(entry.bits for entry in ledger))


@dataclass(frozen=True)
class Prior:
    """A model whose weights were fixed before the corpus, relative to which others are described.

    Args:
        name: where it was read.
        sha256: of its weights.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class CodeLength:
    """The measured size of a set of weights under one compressor.

    Args:
        compressor: its name, e.g. ``"arithmetic"``.
        version: everything that its output depends on, e.g. ``"zlib 1.3.1, level 9"``.
        bits: the sum of ``ledger`` in bits, a whole number.
        ledger: named parts, in a fixed order.
        n_parameters: number of distinct parameters measured (tied tensors once).
        n_tensors: number of distinct tensors.
        stored_bytes: bytes of these tensors as they are stored.
        sha256: hash of names, dtypes, shapes and bytes of the tensors measured, and of the configuration.
        seconds: time that measuring took.
        exact: whether ``bits`` is the length of a code that a decoder can read (not an estimate).
        source: ``measured``; ``artifact`` where it is the size of a file that holds the model; ``declared`` where
            somebody says so.
        artifact_sha256: of that file.
        prior: the model that the decoder has, where the size is relative to one.
    """

    compressor: str
    version: str
    bits: float
    ledger: tuple[LedgerItem, ...]
    n_parameters: int
    n_tensors: int
    stored_bytes: int
    sha256: str
    seconds: float
    exact: bool
    source: str = "measured"
    artifact_sha256: str | None = None
    prior: Prior | None = None

    @property
    def bits_per_parameter(self) -> float:
        """``bits / n_parameters``."""
        return self.bits / self.n_parameters

    @property
    def ratio_to_stored(self) -> float:
        """``bits / (8 stored_bytes)``: below one where the compressor helps."""
        return self.bits / (8 * self.stored_bytes)
