"""Exact length of the weights under an adaptive arithmetic code, from histograms alone.

Each tensor says in two bits which of four models codes it:

    raw      8 bits a byte
    dtype    F32, F16, BF16: sign, exponent, and the three leading mantissa bits given the exponent, each
             under its own adaptive code; then the other mantissa bits as they are, without the low bits that
             are zero in all elements. Every other dtype: each byte position of the element under its own
             adaptive code
    codes    the codes that the elements hold in a quantised layout, given the zero-point of their group where
             the layout has zero-points
    rebuilt  nothing: the layout's rule gives the tensor

An adaptive code's length depends on counts only: one histogram a tensor gives it at the speed of reading.
"""

from __future__ import annotations

from lm_bounds.compressors.modes import ByDtype, Raw
from lm_bounds.compressors.packed import CodesBeside, Rebuilt
from lm_bounds.compressors.tensorwise import TensorCompressor
from lm_bounds.weights.packing import Side


class Arithmetic(TensorCompressor):
    """Adaptive arithmetic coding with one model for each dtype.

    >>> import numpy as np
    >>> from lm_bounds.weights.protocol import Tensor, Weights
    >>> three = Tensor.of_bytes("w", "U8", (3,), np.full(3, 7, np.uint8))
    >>> [(item.item, item.bits) for item in Arithmetic().ledger(Weights("example", (three,)))][2:]
    [('w', 18.0), ('coder termination', 2.0)]
    """

    name = "arithmetic"
    models = "adaptive KT: raw | split, 3 mantissa bits, or planes | codes given zero-points | rebuilt"
    modes = (Raw(), ByDtype(), CodesBeside(Side.ZERO_POINT), Rebuilt())
    mode_bits = 2
