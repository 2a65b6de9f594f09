"""What a compressor is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.weights.protocol import Weights


@runtime_checkable
class Compressor(Protocol):
    """A fixed way to describe weights without loss.

    Its ledger lists every part of a self-delimiting description from which ``weights.tensors``,
    ``weights.aliases`` and ``weights.config`` can be recovered bit for bit. The lengths are therefore those
    of a prefix code over sets of weights: a prior that was fixed before the weights were seen.
    """

    @property
    def name(self) -> str:
        """Name to choose it by, lower case."""

    @property
    def exact(self) -> bool:
        """Whether the ledger is the length of a code that a decoder can read, not an estimate."""

    def version(self) -> str:
        """Everything that the lengths depend on besides the weights."""

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        """Named parts in a fixed order, each a whole number of bits >= 0."""
