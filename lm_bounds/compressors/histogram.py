"""How often each symbol occurs: what all adaptive codes come down to."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

# torch's bincount is twice as fast as numpy's and leaves the interpreter to other threads, but importing torch takes
# longer than counting so many bytes with numpy.
_WORTH_IMPORTING_TORCH = 1 << 30


def histogram(symbols: NDArray[np.integer], alphabet: int) -> NDArray[np.int64]:
    """Counts of the symbols 0 to ``alphabet - 1``, shape (alphabet,).

    Args:
        symbols: of any shape and integer dtype, in that range.
        alphabet: the number of symbols, below 2^31.
    """
    flat = symbols.reshape(-1)
    torch = sys.modules.get("torch")
    if torch is None or flat.size == 0:
        return np.asarray(np.bincount(flat, minlength=alphabet), np.int64)
    counted = torch.bincount(torch.from_numpy(flat.astype(np.int32)), minlength=alphabet)
    return np.asarray(counted.numpy(), np.int64)


def use_torch(n_bytes: int) -> None:
    """Imports torch for ``histogram`` where it counts enough."""
    if n_bytes >= _WORTH_IMPORTING_TORCH:
        import torch  # noqa: F401 - it is looked up in sys.modules
