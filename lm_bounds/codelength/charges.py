"""What a description of a hypothesis costs besides its weights: the length prefix and the settings.

Every setting that defines the hypothesis or its inequality and that a user can change after seeing the corpus is coded
with a fixed prior, whether it was changed or not, so that no choice is free. The code words are written down here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lm_bounds.codelength.integers import elias_delta_bits, paper_prefix_bits
from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.errors import UsageError

METHOD_SLOTS = 8  # bounding methods, present and future
SMOOTHING_SLOTS = 4  # ways to smooth
DTYPE_SLOTS = 8  # number formats of the forward pass
COMPRESSOR_SLOTS = 16  # the last one announces a name of a third party, the one before it a prior and then a compressor
ARTIFACT = "artifact"  # stands for a compressor where a file of any kind holds the model
DECLARED = "declared"  # and where the size is stated and not measured
NAMED_COMPRESSORS = ("gzip", "arithmetic", "zstd", "xz", "brotli", "bz2", "best", ARTIFACT, DECLARED)
PRIOR_BITS = math.log2(COMPRESSOR_SLOTS) + 256  # the code word that announces a prior, and its SHA-256
PRIOR_ITEM = "prior model (sha256)"  # of a ledger: which model the weights are described relative to


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation that a description has to name.

    Args:
        compressor: its name, ``ARTIFACT`` or ``DECLARED``.
        context: scored tokens of a window, >= 1.
        default_prefix: whether the token before a window is the tokenizer's own (BOS, else end of text).
        vocab_size: V, the number of logits.
    """

    compressor: str
    context: int
    default_prefix: bool
    vocab_size: int


def settings_ledger(settings: EvaluationSettings) -> tuple[LedgerItem, ...]:
    """Bits of every setting: log2 of the number of slots, Elias-delta for integers, a flag for the prefix token.

    >>> ledger = settings_ledger(EvaluationSettings("gzip", 1024, True, 50257))
    >>> [(entry.item, entry.bits) for entry in ledger][-2:]
    [('context length', 17), ('prefix token', 1.0)]
    """
    compressor_bits = math.log2(COMPRESSOR_SLOTS)
    if settings.compressor not in NAMED_COMPRESSORS:
        name = settings.compressor.encode()
        compressor_bits += elias_delta_bits(len(name) + 1) + 8 * len(name)
    prefix_bits = 1.0 if settings.default_prefix else 1.0 + math.ceil(math.log2(settings.vocab_size))
    return (
        LedgerItem("method", math.log2(METHOD_SLOTS)),
        LedgerItem("smoothing mode", math.log2(SMOOTHING_SLOTS)),
        LedgerItem("compressor", compressor_bits),
        LedgerItem("number format", math.log2(DTYPE_SLOTS)),
        LedgerItem("context length", elias_delta_bits(settings.context)),
        LedgerItem("prefix token", prefix_bits),
    )


def length_prefix(method: str, code_bits: float) -> LedgerItem:
    """What it costs to delimit a code of C bits: Elias-delta of C, or 2 log2 C for the method ``paper``.

    Raises:
        UsageError: for a length below 1 bit (2 for ``paper``), or one that is not finite.

    >>> length_prefix("kl_inf", 1024.0)
    LedgerItem(item='length prefix (Elias delta)', bits=17)
    """
    if method == "paper":
        return LedgerItem("length prefix (2 log2 C)", paper_prefix_bits(code_bits))
    if not 1 <= code_bits < math.inf:
        raise UsageError(f"the length of a code must be at least 1 bit and finite, {code_bits} bits were given")
    return LedgerItem("length prefix (Elias delta)", elias_delta_bits(math.ceil(code_bits)))
