"""The windows of documents that are scored, and the hash of those that were drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from lm_bounds.errors import UsageError
from lm_bounds.sampling.uniform import LARGEST_RANGE, IntArray

DRAW_ARRAYS = ("token_index", "start", "stop", "attempt", "voided")


@dataclass(frozen=True, eq=False)
class Windows:
    """The tokens drawn and the window ``[start, stop)`` around each, in the order of the draws.

    Args:
        token_index: the tokens drawn. # shape: (n_draws,)
        start: index of each window's first token. # shape: (n_draws,)
        stop: index after each window's last token. # shape: (n_draws,)
        attempt: which slot of the stream each token was found at; None where every slot is a token. # shape: (n_draws,)
        voided: how many slots before it were void; with ``attempt``. # shape: (n_draws,)

    Raises:
        UsageError: not int64 arrays of one shape with ``start <= token_index < stop``.
    """

    token_index: IntArray
    start: IntArray
    stop: IntArray
    attempt: IntArray | None = None
    voided: IntArray | None = None

    def __post_init__(self) -> None:
        arrays = self.arrays().values()
        if len(arrays) == 4 or any(values.dtype != np.int64 or values.shape != (len(self),) for values in arrays):
            raise UsageError("draws must be one-dimensional int64 arrays of one length")
        if (self.start > self.token_index).any() or (self.token_index >= self.stop).any():
            raise UsageError("every token drawn must lie in its window: start <= token_index < stop")

    def __len__(self) -> int:
        return int(self.token_index.size)

    def arrays(self) -> dict[str, IntArray]:
        """Those that there are, by name."""
        return {name: values for name in DRAW_ARRAYS if (values := getattr(self, name)) is not None}


def fixed_windows(document_start: IntArray, document_stop: IntArray, token_index: IntArray, context: int) -> Windows:
    """The window of each token: its document is cut every ``context`` tokens from its start.

    ``start = document_start + context floor((token_index - document_start) / context)`` and
    ``stop = min(start + context, document_stop)``. The last window of a document is the shorter one: shifting
    it would let the windows tell where the document ends.

    Args:
        document_start: first token of the document of each draw. # shape: (n_draws,)
        document_stop: index after the last token of that document. # shape: (n_draws,)
        token_index: the tokens drawn. # shape: (n_draws,)
        context: scored tokens of a full window, >= 1.

    Raises:
        UsageError: ``context`` is below 1, or a token is not in its document.

    >>> windows = fixed_windows(np.array([10]), np.array([15]), np.array([14]), context=4)
    >>> windows.start.tolist(), windows.stop.tolist()
    ([14], [15])
    """
    if context < 1:
        raise UsageError(f"context must be at least 1 token, given {context}")
    if (document_start > token_index).any() or (token_index >= document_stop).any():
        raise UsageError("every token must lie in its document: document_start <= token_index < document_stop")
    # No window is longer than its document, and a stride of at most 2^63 - 1 keeps the arithmetic in int64.
    stride = min(context, LARGEST_RANGE - 1)
    start = document_start + (token_index - document_start) // stride * stride
    stop = start + np.minimum(stride, document_stop - start)
    return Windows(token_index, start, stop)


def chosen_windows(windows: Windows, numbers: IntArray) -> Windows:
    """Some of the windows, by their numbers."""
    return Windows(**{name: values[numbers] for name, values in windows.arrays().items()})


def joined_windows(one: Windows, other: Windows) -> Windows:
    """The windows of one and then those of the other, which has the same arrays."""
    arrays = other.arrays()
    return Windows(**{name: np.concatenate([values, arrays[name]]) for name, values in one.arrays().items()})


def ending_with_token(windows: Windows) -> Windows:
    """The same draws, each window cut behind its token."""
    return replace(windows, stop=windows.token_index + 1)


def count_windows(document_starts: IntArray, n_tokens: int, context: int) -> int:
    """How many windows documents are cut into.

    >>> count_windows(np.array([0, 5]), 6, context=2)
    4
    """
    return int((-(-np.diff(document_starts, append=n_tokens) // context)).sum())


def all_windows(document_starts: IntArray, n_tokens: int, context: int) -> Windows:
    """Every window once, in the corpus' order; its first token stands for the draw.

    >>> all_windows(np.array([0, 5]), 6, context=2).start.tolist()
    [0, 2, 4, 5]
    """
    stops = np.append(document_starts[1:], n_tokens)
    counts = -(-(stops - document_starts) // context)
    document = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(document)) - (np.cumsum(counts) - counts)[document]
    start = document_starts[document] + place * context
    return Windows(start, start, np.minimum(start + context, stops[document]))


def draws_sha256(windows: Windows) -> str:
    """Hash of the draws and their windows, in their order."""
    digest = hashlib.sha256(f"lm-bounds/windows/1 {len(windows)}\n".encode())
    for values in windows.arrays().values():
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()
