"""Numbers of small tensors: scales, zero-points, shapes and settings, as numpy has them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.protocol import Misfit, require
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

#: Classes into which the scales of a layer are divided.
N_SCALE_CLASSES = 16

_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_INTEGERS = {"U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}
_WORDS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}
# Bytes of the largest tensor of settings: a shape, a name, a short JSON text.
_SETTING_BYTES = 1 << 16


def floats(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor of any floating-point dtype as float32, in its shape; eight-bit floats by their tables.

    Raises:
        Misfit: its dtype is none.
    """
    raw = tensor.data()
    if tensor.dtype in _FLOATS:
        values: NDArray[np.float32] = raw.view(_FLOATS[tensor.dtype]).astype(np.float32)
    elif tensor.dtype == "BF16":
        values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0"):
        values = _eight_bit_floats(tensor.dtype)[raw]
    else:
        raise Misfit(f"tensor {tensor.name!r} has dtype {tensor.dtype}, which is no float that is known here")
    return values.reshape(tensor.shape)


def integers(tensor: Tensor) -> NDArray[Any]:
    """A tensor of an integer dtype, in its shape.

    Raises:
        Misfit: its dtype is none.
    """
    require(tensor.dtype in _INTEGERS, tensor, "holds no integers")
    return tensor.data().view(_INTEGERS[tensor.dtype]).reshape(tensor.shape)


def sizes(tensor: Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix, from a tensor of two integers.

    Raises:
        Misfit: it holds something else.
    """
    require(tensor.n_elements == 2, tensor, "is no pair of sizes")
    rows, columns = (int(size) for size in integers(tensor).ravel())
    require(0 < rows < 2**40 and 0 < columns < 2**40, tensor, f"gives the sizes {rows} and {columns}")
    return rows, columns


def text(tensor: Tensor) -> str:
    """A text from its bytes.

    Raises:
        Misfit: it is no UTF-8, or too long for a setting.
    """
    require(tensor.dtype == "U8" and tensor.n_bytes <= _SETTING_BYTES, tensor, "holds no short text")
    try:
        return tensor.data().tobytes().decode()
    except UnicodeDecodeError as error:
        raise Misfit(f"tensor {tensor.name!r} holds no text: {error.reason}") from error


def settings(tensor: Tensor) -> dict[str, Any]:
    """A JSON object from its bytes.

    Raises:
        Misfit: it holds something else.
    """
    content = text(tensor)
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Misfit(f"tensor {tensor.name!r} holds no JSON: {error}") from error
    require(isinstance(table, dict), tensor, "holds no JSON object")
    return dict(table)


def scale_classes(tensor: Tensor) -> NDArray[np.uint8]:
    """A class below 16 for each scale: equal parts of the scales in order of value, equal scales in one class.

    Bit patterns are compared, so that every machine finds the same classes, whatever it makes of NaN.
    """
    width = DTYPE_BYTES[tensor.dtype]
    words = tensor.data().view(_WORDS[width])
    if tensor.dtype not in _INTEGERS:
        negative = words >> (8 * width - 1) == 1
        words = np.where(negative, ~words, words | words.dtype.type(1 << (8 * width - 1)))
    elif tensor.dtype.startswith("I"):
        words = words ^ words.dtype.type(1 << (8 * width - 1))
    ranks = np.searchsorted(np.sort(words), words)
    classes: NDArray[np.uint8] = (ranks * N_SCALE_CLASSES // max(1, words.size)).astype(np.uint8)
    return classes.reshape(tensor.shape)


def spread(table: NDArray[Any], shape: tuple[int, int], blocks: Sequence[int | None] = (None, None)) -> NDArray[Any]:
    """One value for each element of a matrix, from one for each of its blocks.

    Args:
        table: shape (), (1,), (rows of blocks,) or (rows of blocks, columns of blocks).
        shape: of the matrix.
        blocks: height and width of a block; None divides the matrix into blocks of equal size.

    Returns:
        Shape ``shape``, or what broadcasts to it.

    Raises:
        Misfit: there are not as many blocks.
    """
    if table.size == 1:
        return table.reshape(1, 1)
    table = table.reshape(-1, 1) if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0:
        raise Misfit(f"a table of shape {table.shape} gives no scale for each block of a matrix of shape {shape}")
    for axis in (0, 1):
        count, size = table.shape[axis], shape[axis]
        block = blocks[axis] if count > 1 else size
        width = -(-size // count) if block is None or block < 1 else block
        if width < 1 or -(-size // width) != count:
            raise Misfit(f"{count} blocks do not divide the {size} elements of axis {axis}")
        if count != size:
            table = np.take(table, np.arange(size) // width, axis=axis)
    return table


@functools.cache
def _eight_bit_floats(dtype: str) -> NDArray[np.float32]:
    """The values of the 256 codes; NaN and infinity as the dtype has them."""
    codes = np.arange(256)
    if dtype == "F8_E8M0":  # a power of two, without sign
        powers = np.exp2(codes - 127.0)
        return np.where(codes == 255, np.nan, powers).astype(np.float32)
    mantissa_bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    sign = np.where(codes >= 128, -1.0, 1.0)
    exponent = codes >> mantissa_bits & (1 << 7 - mantissa_bits) - 1
    mantissa = (codes & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    values = sign * np.exp2(np.maximum(exponent, 1) - bias) * (mantissa + (exponent > 0))
    if dtype == "F8_E4M3":
        values[codes & 127 == 127] = np.nan
    else:
        special = exponent == 31
        values[special] = np.where(mantissa[special] > 0, np.nan, sign[special] * np.inf)
    table: NDArray[np.float32] = values.astype(np.float32)
    return table
