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

import difflib
from collections.abc import Iterable


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


def printable(text: str, longest: int | None = None) -> str:
    """One line without control characters, to quote what others wrote.

    Args:
        text: that is quoted.
        longest: letters after which it is cut; None where it is not.

    >>> printable("a\\x1b[2J  b\\n"), printable("x" * 200, 5)
    ('a?[2J b', 'xxxxx...')
    """
    shown = text if longest is None else text[:longest]
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(shown.split()))
    return line if shown == text else f"{line}..."


def closest(name: object, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of some names that is most like another name, whatever the case of their letters.

    Args:
        name: as it was typed.
        names: that exist.
        likeness: from which a name is alike, between 0 and 1.

    Returns:
        None where no name is alike.

    >>> closest("Windws", ["windows", "pilot"])
    'windows'
    """
    folded = {each.lower(): each for each in names}
    near = difflib.get_close_matches(str(name).lower(), folded, 1, likeness)
    return folded[near[0]] if near else None


def nearest(name: object, names: Iterable[str], prefix: str = "") -> str:
    """How the message about an unknown name ends: with the name that was meant, else with those that there are.

    Args:
        name: as it was typed.
        names: that exist.
        prefix: what was typed before the name.

    >>> "no metric is called 'bdp'" + nearest("bdp", ["bpd", "top1"])
    "no metric is called 'bdp': did you mean 'bpd'?"
    >>> nearest("loss", ["bpd", "top1"])
    ': use one of bpd, top1'
    """
    existing = list(names)
    meant = closest(name, existing)
    return f": did you mean {prefix + meant!r}?" if meant else f": use one of {', '.join(existing)}"
