"""The blocks of GGUF files: which bytes of a block are scales, and which are codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields, Reshaped
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, require
from lm_bounds.weights.layouts.values import floats, scale_classes
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

#: Between the name of a tensor of the file and that of a part of its blocks.
PART_MARK = "#"

# Small tables of the formats, by their four-bit codes.
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Part:
    """Consecutive bytes of a block.

    Args:
        name: of the part.
        n_bytes: of one block.
        dtype: of the elements of the part.
        n_bits: width of the codes that share bytes; 0 where the elements are what they are.
        width: bytes of a chunk, in which all codes at one shift follow each other.
        shifts: the lowest bits of the codes of a byte, in order.
    """

    name: str
    n_bytes: int
    dtype: str = "U8"
    n_bits: int = 0
    width: int = 1
    shifts: tuple[int, ...] = (0,)


def _nibbles(n_bytes: int, width: int) -> Part:
    return Part("low", n_bytes, "U8", 4, width, (0, 4))


_D = Part("d", 2, "F16")
_M = Part("m", 2, "F16")
_DMIN = Part("dmin", 2, "F16")
_HIGH_BITS = Part("high", 4, "U8", 1, 1, tuple(range(8)))
_QUARTERS = (0, 2, 4, 6)
_EIGHTHS = tuple(range(8))

#: Weights of a block, and its parts in the order of the bytes, by the name of the type.
BLOCKS: Mapping[str, tuple[int, tuple[Part, ...]]] = MappingProxyType(
    {
        "Q4_0": (32, (_D, _nibbles(16, 16))),
        "Q4_1": (32, (_D, _M, _nibbles(16, 16))),
        "Q5_0": (32, (_D, _HIGH_BITS, _nibbles(16, 16))),
        "Q5_1": (32, (_D, _M, _HIGH_BITS, _nibbles(16, 16))),
        "Q8_0": (32, (_D, Part("codes", 32, "I8"))),
        "Q2_K": (256, (Part("scales", 16), Part("low", 64, "U8", 2, 32, _QUARTERS), _D, _DMIN)),
        "Q3_K": (
            256,
            (Part("high", 32, "U8", 1, 32, _EIGHTHS), Part("low", 64, "U8", 2, 32, _QUARTERS), Part("scales", 12), _D),
        ),
        "Q4_K": (256, (_D, _DMIN, Part("scales", 12), _nibbles(128, 32))),
        "Q5_K": (256, (_D, _DMIN, Part("scales", 12), Part("high", 32, "U8", 1, 32, _EIGHTHS), _nibbles(128, 32))),
        "Q6_K": (256, (_nibbles(128, 64), Part("high", 64, "U8", 2, 32, _QUARTERS), Part("scales", 16, "I8"), _D)),
        "MXFP4": (32, (Part("e", 1, "F8_E8M0"), _nibbles(16, 16))),
        "IQ4_NL": (32, (_D, _nibbles(16, 16))),
        "IQ4_XS": (256, (_D, Part("scales_high", 2, "U16"), Part("scales_low", 4), _nibbles(128, 16))),
    }
)


def part_name(tensor: str, kind: str, part: str) -> str:
    """The name of a part of a tensor; it tells the type of the blocks.

    >>> part_name("blk.0.attn_q.weight", "Q4_0", "low")
    'blk.0.attn_q.weight#q4_0.low'
    """
    return f"{tensor}{PART_MARK}{kind.lower()}.{part}"


@dataclass(frozen=True)
class Gguf:
    """Tensors of a GGUF file, each type of block split into its parts; m rows, n columns.

    A tensor NAME of the type TYPE becomes ``NAME#type.part`` for each part: ``d``, ``m`` and ``dmin`` (F16) are scales
    and minima of blocks, ``scales`` those of parts of blocks, as the bytes are, ``low`` and ``high`` the lower and the
    upper bits of the codes. The shape of a part is that of the tensor, outermost size first, with the blocks of a row
    in place of the columns, and the elements of the part in a block where there is more than one. Types of which the
    parts are not known are one tensor ``NAME#type.blocks``; whole numbers and plain floats keep their name.

    Lower and upper bits are codes of a matrix of all rows and n columns, with a class of the block's scale as label.

    A module here is the name of a tensor of the file.

    Reference: ggml, ``ggml-common.h`` and ``ggml-quants.c``; gguf-py, ``quants.py``.
    """

    name: str = "gguf"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Names of the tensors in blocks."""
        return tuple(sorted({name.rpartition(PART_MARK)[0] for name in tensors if PART_MARK in name}))

    def coded(self, module: str) -> tuple[str, ...]:
        """The parts of every known type that pack codes."""
        return tuple(
            part_name(module, kind, part.name) for kind, (_, parts) in BLOCKS.items() for part in parts if part.n_bits
        )

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of lower or upper bits, shape (rows, columns)."""
        kind, part = _kind_and_part(name)
        if part is None or not part.n_bits:
            return None
        tensor = tensors[name]
        fits = tensor.dtype == part.dtype and len(tensor.shape) >= 2 and tensor.n_elements > 0
        require(fits, tensor, "holds no codes")
        require(tensor.shape[-1] == part.n_bytes, tensor, f"does not have {part.n_bytes} bytes a block")
        n_weights = BLOCKS[kind][0]
        columns = tensor.shape[-2] * n_weights
        n_rows = tensor.n_bytes // part.n_bytes * n_weights // columns
        per_block = part.n_bytes * len(part.shifts)
        if per_block != n_weights:
            raise Misfit(f"tensor {name!r}: a block has {per_block} codes for {n_weights} weights")
        flat = tensor.n_bytes * len(part.shifts) // columns, columns
        fields = Fields(part.n_bits, flat, "u1", part.width, part.shifts, flat)
        scale = tensors.get(part_name(name.rpartition(PART_MARK)[0], kind, "d"))
        if scale is None or scale.n_elements * n_weights != n_rows * columns:
            return Reshaped(part.n_bits, (n_rows, columns), fields)
        sides = {Side.SCALE: lambda: np.repeat(scale_classes(scale).ravel(), n_weights).reshape(n_rows, columns)}
        return Reshaped(part.n_bits, (n_rows, columns), fields, sources=(scale.name,), sides=sides)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """A tensor in the shape that it has for its layer: (rows, columns), with other sizes before them."""
        for kind, (n_weights, parts) in BLOCKS.items():
            names = [part_name(module, kind, part.name) for part in parts]
            if all(name in tensors for name in names):
                found = {part.name: tensors[name] for part, name in zip(parts, names, strict=True)}
                blocks = {part.name: _blocks(found[part.name], part) for part in parts}
                shape = found[parts[0].name].shape[: None if parts[0].n_bytes <= 2 else -1]
                values = _FORMULAS[kind](blocks).reshape(*shape[:-1], shape[-1] * n_weights)
                return np.ascontiguousarray(values, np.float32)
        raise Misfit(f"tensor {module!r} has no blocks of a type that is known here")


def _kind_and_part(name: str) -> tuple[str, Part | None]:
    kind, _, part = name.rpartition(PART_MARK)[2].partition(".")
    known = BLOCKS.get(kind.upper(), (0, ()))[1] if PART_MARK in name else ()
    return kind.upper(), next((entry for entry in known if entry.name == part), None)


def _blocks(tensor: Tensor, part: Part) -> NDArray[np.float32]:
    """A part as numbers: floats, whole numbers, or codes in the order of the weights; shape (blocks, numbers)."""
    raw = tensor.data()
    if tensor.dtype == "F8_E8M0":  # half of the power of two; no code is NaN here
        return np.exp2(raw.astype(np.float64) - 128).astype(np.float32).reshape(-1, 1)
    if tensor.dtype.startswith("F"):
        return floats(tensor).reshape(-1, 1)
    if not part.n_bits:
        words = raw.view({"U8": "u1", "I8": "i1", "U16": "<u2"}[part.dtype])
        return words.reshape(len(raw) // part.n_bytes, -1).astype(np.float32)
    shape = len(raw) // part.n_bytes, part.n_bytes * len(part.shifts)
    codes = Fields(part.n_bits, shape, "u1", part.width, part.shifts, shape).unpack(raw)
    return codes.astype(np.float32)


_Blocks = Mapping[str, NDArray[np.float32]]


def _fields_of(bytes_: NDArray[np.float32], shift: int, n_bits: int) -> NDArray[np.int32]:
    """Some bits of bytes, or of words of two bytes."""
    return bytes_.astype(np.int32) >> shift & (1 << n_bits) - 1


def _six_bits(scales: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The eight scales and eight minima of six bits each in twelve bytes, each shape (blocks, 8, 1)."""
    first, second, third = scales[:, :4], scales[:, 4:8], scales[:, 8:]
    high_scales = _fields_of(third, 0, 4) | _fields_of(first, 6, 2) << 4
    high_minima = _fields_of(third, 4, 4) | _fields_of(second, 6, 2) << 4
    both = (
        np.concatenate([_fields_of(first, 0, 6), high_scales], axis=1),
        np.concatenate([_fields_of(second, 0, 6), high_minima], axis=1),
    )
    return both[0].astype(np.float32)[:, :, None], both[1].astype(np.float32)[:, :, None]


def _three_bit_scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sixteen scales of six bits in twelve bytes, less 32."""
    low = np.concatenate([_fields_of(scales[:, :8], 0, 4), _fields_of(scales[:, :8], 4, 4)], axis=1)
    high = np.concatenate([_fields_of(scales[:, 8:], shift, 2) for shift in _QUARTERS], axis=1)
    scales_of_parts: NDArray[np.float32] = ((low | high << 4) - 32).astype(np.float32)
    return scales_of_parts


def _grouped(values: NDArray[np.float32], n_groups: int) -> NDArray[np.float32]:
    return values.reshape(len(values), n_groups, -1)


def _q2_k(b: _Blocks) -> NDArray[np.float32]:
    scale = b["d"] * _fields_of(b["scales"], 0, 4).astype(np.float32)
    minimum = b["dmin"] * _fields_of(b["scales"], 4, 4).astype(np.float32)
    return scale[:, :, None] * _grouped(b["low"], 16) - minimum[:, :, None]


def _q3_k(b: _Blocks) -> NDArray[np.float32]:
    scale = (b["d"] * _three_bit_scales(b["scales"]))[:, :, None]
    return scale * _grouped(b["low"] - 4 * (1 - b["high"]), 16)


def _k_with_minima(b: _Blocks, codes: NDArray[np.float32]) -> NDArray[np.float32]:
    scales, minima = _six_bits(b["scales"])
    return b["d"][:, :, None] * scales * _grouped(codes, 8) - b["dmin"][:, :, None] * minima


def _q6_k(b: _Blocks) -> NDArray[np.float32]:
    return (b["d"] * b["scales"])[:, :, None] * _grouped(b["low"] + 16 * b["high"] - 32, 16)


def _iq4_xs(b: _Blocks) -> NDArray[np.float32]:
    low = np.stack([_fields_of(b["scales_low"], 0, 4), _fields_of(b["scales_low"], 4, 4)], axis=2).reshape(-1, 8)
    high = np.concatenate([_fields_of(b["scales_high"], 2 * k, 2) for k in range(8)], axis=1)
    scales = b["d"] * ((low | high << 4) - 32).astype(np.float32)
    return scales[:, :, None] * _grouped(_looked_up(_IQ4, b["low"]), 8)


def _looked_up(table: tuple[int, ...], codes: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.array(table, np.float32)[codes.astype(np.int32)]
    return values


_FORMULAS: Mapping[str, Callable[[_Blocks], NDArray[np.float32]]] = MappingProxyType(
    {
        "Q4_0": lambda b: b["d"] * (b["low"] - 8),
        "Q4_1": lambda b: b["d"] * b["low"] + b["m"],
        "Q5_0": lambda b: b["d"] * (b["low"] + 16 * b["high"] - 16),
        "Q5_1": lambda b: b["d"] * (b["low"] + 16 * b["high"]) + b["m"],
        "Q8_0": lambda b: b["codes"] * b["d"],
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": lambda b: _k_with_minima(b, b["low"]),
        "Q5_K": lambda b: _k_with_minima(b, b["low"] + 16 * b["high"]),
        "Q6_K": _q6_k,
        "MXFP4": lambda b: b["e"] * _looked_up(_FP4, b["low"]),
        "IQ4_NL": lambda b: b["d"] * _looked_up(_IQ4, b["low"]),
        "IQ4_XS": _iq4_xs,
    }
)
