"""Elements as unsigned integers, and where the parts of a floating-point number lie in them."""

from __future__ import annotations

from dataclasses import dataclass

#: numpy's code of the unsigned, little-endian integer of so many bytes.
WORDS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


@dataclass(frozen=True)
class FloatLayout:
    """Where the parts of a floating-point number lie: sign, exponent, mantissa, from the top.

    Args:
        exponent_bits: width of the exponent.
        mantissa_bits: width of the mantissa.
    """

    exponent_bits: int
    mantissa_bits: int


#: Dtypes that are coded by sign, exponent and mantissa; every other one goes by the bytes of its elements.
FLOAT_LAYOUTS = {
    "F32": FloatLayout(8, 23),
    "F16": FloatLayout(5, 10),
    "BF16": FloatLayout(8, 7),
}
