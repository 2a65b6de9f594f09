"""Exact length of the weights under an adaptive arithmetic code, from histograms alone.

Each tensor says in one bit which of two models codes it:

    raw      8 bits a byte
    split    F32, F16, BF16: sign, exponent, and the three leading mantissa bits given the exponent, each
             under its own adaptive code; then the other mantissa bits as they are, without the low bits that
             are zero in all elements
    planes   every other dtype: each byte position of the element under its own adaptive code

so that the choice is between ``raw`` and the one that fits the dtype. An adaptive code's length depends on
counts only: one histogram a tensor gives it at the speed of reading.
"""

from __future__ import annotations

from lm_bounds.compressors.modes import Planes, Raw, Split
from lm_bounds.compressors.tensorwise import TensorCompressor


class Arithmetic(TensorCompressor):
    """Adaptive arithmetic coding with one model for each dtype.

    >>> import numpy as np
    >>> from lm_bounds.weights.protocol import Tensor, Weights
    >>> three = Tensor.of_bytes("w", "U8", (3,), np.full(3, 7, np.uint8))
    >>> [(item.item, item.bits) for item in Arithmetic().ledger(Weights("example", (three,)))][2:]
    [('w', 17.0), ('coder termination', 2.0)]
    """

    name = "arithmetic"
    models = "adaptive KT: raw | split, 3 mantissa bits | planes"
    modes = (Raw(), Split(3), Planes())
    mode_bits = 1  # split and planes share the second code word: no dtype has both
