"""The difference of two tensors of one dtype and shape, element by element, as a tensor of small unsigned integers.

Each element is taken as an integer of its width w whose order is that of the numbers: the bits of a float are
sign and magnitude, and become ``2^(w-1) + magnitude`` for a positive and ``2^(w-1) - 1 - magnitude`` for a negative
number; integers stay as they are. The difference d mod 2^w, taken as signed, is coded as 2d where d >= 0 and as
-2d - 1 elsewhere. All of it is a bijection on bit patterns, NaNs and zeros of either sign included.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

_Words = NDArray[np.unsignedinteger[Any]]

# Dtypes whose bits are sign and magnitude.
_SIGNED_MAGNITUDE = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F16", "BF16", "F32", "F64", "C64"}


def difference(tensor: Tensor, prior: Tensor) -> Tensor:
    """What has to be known of a tensor by whoever has the prior one.

    Args:
        tensor: of any dtype.
        prior: of the same dtype and shape.

    Returns:
        Of the tensor's name, U8 to U64 as wide as an element, in the same shape; a complex element is two of U32.

    Raises:
        WeightsError: dtype or shape differ.
    """
    if (tensor.dtype, tensor.shape) != (prior.dtype, prior.shape):
        raise WeightsError(
            f"tensor {tensor.name!r} has no difference to one of other dtype or shape: {tensor.dtype} {tensor.shape},"
            f" {prior.dtype} {prior.shape}"
        )
    dtype, shape = _coded_as(tensor)
    return Tensor(tensor.name, dtype, shape, functools.partial(_difference_bytes, tensor, prior))


def undone(coded: Tensor, prior: Tensor) -> Tensor:
    """The tensor whose difference to the prior one is coded: the inverse of ``difference``.

    Raises:
        WeightsError: the coded tensor has not the dtype and the shape that differences to the prior one have.
    """
    if (coded.dtype, coded.shape) != _coded_as(prior):
        raise WeightsError(
            f"tensor {coded.name!r} is no difference to one of {prior.dtype} {prior.shape}: {coded.dtype} {coded.shape}"
        )
    return Tensor(prior.name, prior.dtype, prior.shape, functools.partial(_undone_bytes, coded, prior))


def _coded_as(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of a difference."""
    if tensor.dtype == "C64":
        return "U32", (*tensor.shape, 2)
    return f"U{8 * DTYPE_BYTES[tensor.dtype]}", tensor.shape


def _difference_bytes(tensor: Tensor, prior: Tensor, start: int, stop: int) -> NDArray[np.uint8]:
    dtype = tensor.dtype
    first, last = _whole_elements(tensor, start, stop)
    own, before = (_ordered(_words(each, first, last), dtype) for each in (tensor, prior))
    return _cut(_zigzag(own - before), start - first, stop - start)


def _undone_bytes(coded: Tensor, prior: Tensor, start: int, stop: int) -> NDArray[np.uint8]:
    first, last = _whole_elements(prior, start, stop)
    before = _ordered(_words(prior, first, last), prior.dtype)
    own = before + _unzigzag(_words(coded, first, last))
    return _cut(_unordered(own, prior.dtype), start - first, stop - start)


def _whole_elements(tensor: Tensor, start: int, stop: int) -> tuple[int, int]:
    """The bytes of all elements that some bytes belong to."""
    width = DTYPE_BYTES[tensor.dtype]
    return start - start % width, stop + -stop % width


def _words(tensor: Tensor, start: int, stop: int) -> _Words:
    """Elements as unsigned integers; the two parts of a complex one by themselves."""
    width = DTYPE_BYTES[_coded_as(tensor)[0]] if tensor.dtype == "C64" else DTYPE_BYTES[tensor.dtype]
    return tensor.read(start, stop).view(f"<u{width}")


def _cut(words: _Words, offset: int, length: int) -> NDArray[np.uint8]:
    return words.view(np.uint8)[offset : offset + length]


def _ordered(words: _Words, dtype: str) -> _Words:
    """The integers in whose order the numbers are."""
    if dtype not in _SIGNED_MAGNITUDE:
        return words
    negative, top = _sign(words)
    return np.where(negative, ~words, words | top)


def _unordered(words: _Words, dtype: str) -> _Words:
    """The inverse of ``_ordered``: the top bit is set where the number is positive."""
    if dtype not in _SIGNED_MAGNITUDE:
        return words
    positive, top = _sign(words)
    return np.where(positive, words ^ top, ~words)


def _sign(words: _Words) -> tuple[NDArray[np.bool_], np.unsignedinteger[Any]]:
    """Whether the top bit of each word is set, and that bit."""
    kind = words.dtype.type
    top = kind(1 << (8 * words.itemsize - 1))
    return (words & top) != 0, top


def _zigzag(words: _Words) -> _Words:
    """Differences mod 2^w as signed numbers near zero, and these as small unsigned ones."""
    negative, _ = _sign(words)
    doubled = words << words.dtype.type(1)
    return np.where(negative, ~doubled, doubled)


def _unzigzag(words: _Words) -> _Words:
    one = words.dtype.type(1)
    halved = words >> one
    return np.where((words & one) != 0, ~halved, halved)
