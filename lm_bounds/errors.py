"""Every error this package raises on purpose.

    LmBoundsError                 exit code 1
    ├── UsageError                exit code 2: an option, a metadata key or a flag is wrong
    ├── CorpusError               the corpus is missing, empty, or not what it was said to be
    ├── ModelError                the model cannot be certified (not causal, not normalised, ...)
    ├── WeightsError              the weights cannot be read or measured
    └── VerificationError         exit code 3: a certificate does not hold together

Each message is one line: what is wrong, what was given, and what to do.
"""

from __future__ import annotations


class LmBoundsError(Exception):
    """Base of all errors of this package; ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UsageError(LmBoundsError):
    """An option, a metadata key or a flag has a value that is not allowed."""

    exit_code = 2


class CorpusError(LmBoundsError):
    """The corpus is missing, empty, or not what it was said to be."""


class ModelError(LmBoundsError):
    """The language model cannot be certified."""


class WeightsError(LmBoundsError):
    """The weights cannot be read, or are not what was evaluated."""


class VerificationError(LmBoundsError):
    """A certificate does not hold together."""

    exit_code = 3
