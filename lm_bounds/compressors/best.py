"""Exact length of the weights under the shortest of many adaptive arithmetic codes for each tensor.

Each tensor says in six bits which of 64 modes codes it, of which these are taken:

     0        raw      8 bits a byte
     1        split    as in ``arithmetic``: sign, exponent, and three mantissa bits given the exponent
     2        planes   as in ``arithmetic``: each byte position of the element
     3 to  9  split    with 0, 1, 2, 4, 5, 6, 7 mantissa bits given the exponent
    10        values   a codebook of at most 4096 distinct bit patterns and the position of each element there
    11, 12    values   with positions in 8 classes of rows, and in 8 x 8 classes of rows and columns
    13 to 20  split    with 0 to 7 mantissa bits, and exponents in 8 classes of rows
    21 to 28  split    with 0 to 7 mantissa bits, and exponents in 8 x 8 classes of rows and columns
    29 to 31  codes    that the elements hold in a quantised layout, in one class, in classes of rows, and of both
    32, 33    codes    given the zero-point, and given the scale, of their group
    34        rebuilt  nothing: the layout's rule gives the tensor
    35 to 37  levels   and scales whose products, rounded, are the elements; levels in classes as above
    38        rows     that repeat an earlier one point at it; the others as a tensor in one of the modes 0 to 28

The other 25 are for modes to come, which therefore leave the lengths of these as they are: a mode keeps its number.
"""

from __future__ import annotations

from lm_bounds.compressors.classes import Context
from lm_bounds.compressors.modes import FewValues, Mode, Planes, Raw, Split
from lm_bounds.compressors.packed import Codes, CodesBeside, Dequantised, Rebuilt
from lm_bounds.compressors.repeated_rows import RepeatedRows
from lm_bounds.compressors.tensorwise import TensorCompressor
from lm_bounds.weights.packing import Side

_LEADING = range(8)
_MODE_BITS = 6
_PLAIN: tuple[Mode, ...] = (
    Raw(),
    Split(3),
    Planes(),
    *(Split(n_leading) for n_leading in _LEADING if n_leading != 3),
    *(FewValues(context) for context in Context),
    *(Split(n_leading, Context.ROWS) for n_leading in _LEADING),
    *(Split(n_leading, Context.ROWS_AND_COLUMNS) for n_leading in _LEADING),
)


class Best(TensorCompressor):
    """Adaptive arithmetic coding with the shortest of many models: at most 4 bits a tensor above ``arithmetic``.

    >>> import numpy as np
    >>> from lm_bounds.weights.protocol import Tensor, Weights
    >>> three = Tensor.of_bytes("w", "U8", (3,), np.full(3, 7, np.uint8))
    >>> [(item.item, item.bits) for item in Best().ledger(Weights("example", (three,)))][2:]
    [('w', 22.0), ('coder termination', 2.0)]
    """

    name = "best"
    models = (
        "adaptive KT, best of 39 modes in 64: raw | split | planes | values | codes | rebuilt | levels | rows;"
        " classes of rows and columns"
    )
    modes = (
        *_PLAIN,
        *(Codes(context) for context in Context),
        *(CodesBeside(side) for side in Side),
        Rebuilt(),
        *(Dequantised(context) for context in Context),
        RepeatedRows(_PLAIN, _MODE_BITS),
    )
    mode_bits = _MODE_BITS
