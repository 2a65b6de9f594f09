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

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.codelength.integers import elias_delta_bits
from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor, Weights

_ZLIB_LEVEL = 9
_MODE_BITS = 1
_TERMINATION_BITS = 2.0
_BYTE_BITS = 8
# Elements counted at a time: bincount widens each to 8 bytes, and these still fit the processor's cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class FloatLayout:
    """Where the parts of a floating-point number lie: sign, exponent, mantissa, from the top.

    Args:
        word: numpy's code of the unsigned integer of the same size, little endian.
        exponent_bits: width of the exponent.
        mantissa_bits: width of the mantissa.
    """

    word: str
    exponent_bits: int
    mantissa_bits: int

    @property
    def leading_bits(self) -> int:
        """Mantissa bits that are coded adaptively."""
        return min(3, self.mantissa_bits)

    @property
    def trailing_bits(self) -> int:
        """Mantissa bits that are written as they are."""
        return self.mantissa_bits - self.leading_bits


#: Dtypes that ``split`` codes; every other one goes by ``planes``.
FLOAT_LAYOUTS = {
    "F32": FloatLayout("<u4", 8, 23),
    "F16": FloatLayout("<u2", 5, 10),
    "BF16": FloatLayout("<u2", 8, 7),
}


class Arithmetic:
    """Adaptive arithmetic coding of every tensor, measured in closed form.

    Configuration and schema are deflated, each preceded by the Elias delta code of its length; one
    arithmetic-code stream holds all tensors. Its length is below ``ceil(-log2 P) + 2`` bits, ``P`` the
    product of the probabilities that the models assign: two bits end the stream, and each tensor is rounded
    up to whole bits.

    Reference: R. Krichevsky and V. Trofimov, "The performance of universal encoding", IEEE Trans. Inf. Theory
    27(2), 1981, for the estimator; I. Witten, R. Neal and J. Cleary, "Arithmetic coding for data
    compression", Commun. ACM 30(6), 1987, for the coder.

    >>> three = Tensor("w", "U8", (3,), lambda: np.full(3, 7, np.uint8))
    >>> [(item.item, item.bits) for item in Arithmetic().ledger(Weights("example", (three,)))][2:]
    [('w', 17.0), ('coder termination', 2.0)]
    """

    name = "arithmetic"
    exact = True

    def version(self) -> str:
        """The models, and the zlib build that the configuration and the schema depend on."""
        models = "adaptive KT: raw | split, 3 mantissa bits | planes"
        return f"{models}; zlib {zlib.ZLIB_RUNTIME_VERSION}, level {_ZLIB_LEVEL}"

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        """``config.json``, ``schema``, one item per tensor under the tensor's name, ``coder termination``."""
        return (
            LedgerItem("config.json", _deflated_bits(weights.config)),
            LedgerItem("schema", _deflated_bits(schema(weights))),
            *(LedgerItem(tensor.name, float(math.ceil(tensor_bits(tensor)))) for tensor in weights.tensors),
            LedgerItem("coder termination", _TERMINATION_BITS),
        )


def schema(weights: Weights) -> bytes:
    """Names, dtypes and shapes in order, and the aliases, as compact JSON.

    >>> schema(Weights("example", (Tensor("w", "F32", (2, 3), lambda: np.zeros(24, np.uint8)),)))
    b'{"tensors":[["w","F32",[2,3]]],"aliases":[]}'
    """
    table = {
        "tensors": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in weights.tensors],
        "aliases": [list(alias) for alias in weights.aliases],
    }
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()


def tensor_bits(tensor: Tensor) -> float:
    """Mode bit and the shorter of ``raw`` and the model that fits the dtype, in bits, before rounding up."""
    raw = float(_BYTE_BITS * tensor.n_bytes)
    if tensor.n_elements == 0:
        return _MODE_BITS + raw
    modelled = split_bits(tensor) if tensor.dtype in FLOAT_LAYOUTS else planes_bits(tensor)
    return _MODE_BITS + min(raw, modelled)


def split_bits(tensor: Tensor) -> float:
    """Length of a floating-point tensor coded part by part, in bits.

    ``2 e + KT(signs) + KT(exponents) + sum_x KT(leading mantissa bits | exponent x) + z + n (r - zeros)``:
    smallest and largest exponent are written in their width ``e`` and bound the exponents' alphabet;
    ``zeros`` is the number of low mantissa bits that are zero in every element, at most ``r``, the number of
    bits below the leading ones, and is written in ``z`` bits, the width of ``r``.

    Args:
        tensor: of a dtype in ``FLOAT_LAYOUTS`` with one element or more.
    """
    layout = FLOAT_LAYOUTS[tensor.dtype]
    counts, zeros = _float_histogram(tensor, layout)
    signs = counts.sum(axis=(1, 2))
    exponents = counts.sum(axis=(0, 2))
    lowest, highest = _support(exponents)
    leading = counts.sum(axis=0)[lowest : highest + 1]  # shape: (exponents, 2^leading_bits)
    return (
        2 * layout.exponent_bits
        + adaptive_bits(signs)
        + adaptive_bits(exponents[lowest : highest + 1])
        + adaptive_bits(leading)
        + layout.trailing_bits.bit_length()
        + tensor.n_elements * (layout.trailing_bits - zeros)
    )


def planes_bits(tensor: Tensor) -> float:
    """Length of a tensor whose byte positions are coded apart, in bits.

    ``sum_k 16 + KT(k-th byte of the elements)``: the smallest and the largest value of each plane are written
    in 8 bits each and bound its alphabet.

    Args:
        tensor: of any dtype with one element or more.
    """
    width = DTYPE_BYTES[tensor.dtype]
    counts = np.zeros((width, 256), np.int64)
    for chunk in tensor.chunks():
        for plane in range(width):
            counts[plane] += np.bincount(chunk[plane::width], minlength=256)
    bits = 0.0
    for row in counts:
        lowest, highest = _support(row)
        bits += 2 * _BYTE_BITS + adaptive_bits(row[lowest : highest + 1])
    return bits


def _float_histogram(tensor: Tensor, layout: FloatLayout) -> tuple[NDArray[np.int64], int]:
    """Counts of (sign, exponent, leading mantissa bits), and how many low mantissa bits are zero in all."""
    top_bits = 1 + layout.exponent_bits + layout.leading_bits
    counts = np.zeros(1 << top_bits, np.int64)
    union = 1 << layout.trailing_bits  # ends the run of zeros at the leading bits
    for chunk in tensor.chunks():
        words = chunk.view(layout.word)
        for start in range(0, words.size, _PIECE):
            piece = words[start : start + _PIECE]
            counts += np.bincount(piece >> layout.trailing_bits, minlength=counts.size)
            union |= int(np.bitwise_or.reduce(piece))
    zeros = (union & -union).bit_length() - 1
    return counts.reshape(2, 1 << layout.exponent_bits, 1 << layout.leading_bits), zeros


def _support(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Smallest and largest symbol that occurs."""
    present = np.flatnonzero(counts)
    return int(present[0]), int(present[-1])


def _deflated_bits(content: bytes) -> float:
    """Deflated size in bits, with the Elias delta code of the number of bytes plus one, so that 0 has one."""
    n_bytes = len(zlib.compress(content, _ZLIB_LEVEL))
    return float(_BYTE_BITS * n_bytes + elias_delta_bits(n_bytes + 1))
