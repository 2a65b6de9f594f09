"""The layouts of bitsandbytes: codebooks of sixteen values with a scale for each block, and eight-bit integers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats, integers, scale_classes, settings
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

_N_BITS = 4
_STATE = "weight.quant_state.bitsandbytes__"

# Quantiles of the normal distribution (QLoRA, arXiv 2305.14314, appendix E), and the values of a four-bit float.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)

# int8 times this is the value, as the library multiplies.
_INT8_STEP = np.float32(7.874015718698502e-3)


@dataclass(frozen=True)
class _State:
    """The settings of a layer, from its ``quant_state``."""

    shape: tuple[int, int]
    block_size: int
    nested_block_size: int
    nested_offset: np.float32


@dataclass(frozen=True)
class BitsAndBytes:
    """Layers of four bits (nf4 or fp4) and of eight bits (int8); m outputs, n inputs.

        weight                          (m n / 2 bytes): two codes a byte, the first one in the upper half
        weight.quant_map                F32 (16,): the values of the codes; expected, since the library has them fixed
        weight.absmax                   F32 (blocks,); U8 where it is quantised itself
        weight.nested_quant_map         F32 (256,), weight.nested_absmax F32: how it is; the map is expected
        weight.quant_state.bitsandbytes__nf4 or __fp4   U8: JSON with shape, block sizes and the offset of absmax

    ``W.ravel()[k] = quant_map[q_k] a[k // blocksize]``, ``a = nested_quant_map[absmax] nested_absmax + offset`` where
    it is nested. Codes have a class of the scale of their block as labels; their matrix is that of the layer.

        weight          I8 (m, n): elements are whole bytes and need no packing
        SCB             F32 (m,)
        weight_format   U8 (): 0 for rows, expected

    ``W[j, i] = weight[j, i] SCB[j] / 127``.

    Reference: bitsandbytes 0.50, ``functional.py`` (QuantState, create_dynamic_map) and ``backends/default/ops.py``.
    """

    name: str = "bitsandbytes"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers of both kinds."""
        suffixes = tuple("." + _STATE + kind for kind in ("nf4", "fp4"))
        four = {name[: -len(suffix)] for name in tensors for suffix in suffixes if name.endswith(suffix)}
        return tuple(sorted({*four, *modules_with(tensors, "SCB", "weight")}))

    def coded(self, module: str) -> tuple[str, ...]:
        """The codes of a layer; int8 ones are elements, and need no packing."""
        return (member(module, "weight"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes of four bits, shape (outputs, inputs)."""
        module, part = split(name)
        if part != "weight" or _state_tensor(tensors, module) is None:
            return None
        codes, absmax, (source, state) = tensors[name], find(tensors, module, "weight.absmax"), _state(tensors, module)
        n_codes = math.prod(state.shape)
        require(2 * codes.n_bytes == n_codes, codes, f"does not hold {n_codes} codes of four bits")
        require(absmax.n_elements == -(-n_codes // state.block_size), absmax, "is no scale for each block")

        def of_codes() -> NDArray[np.uint8]:
            of_blocks = np.repeat(scale_classes(absmax).ravel(), min(state.block_size, n_codes))
            return of_blocks[:n_codes].reshape(state.shape)

        return Fields(
            _N_BITS,
            state.shape,
            "u1",
            1,
            (4, 0),
            state.shape,
            sources=(source.name, absmax.name),
            sides={Side.SCALE: of_codes},
        )

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """The maps that the library has fixed, and the format of int8 weights."""
        if name.endswith("weight.quant_map"):
            module = name.removesuffix("weight.quant_map").rstrip(".")
            kind = "nf4" if member(module, _STATE + "nf4") in tensors else "fp4"
            return lambda: _values(kind).view(np.uint8)
        if name.endswith("weight.nested_quant_map"):
            return lambda: _dynamic_map().view(np.uint8)
        if split(name)[1] == "weight_format":
            return lambda: np.zeros(1, np.uint8)
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The weight, shape (outputs, inputs), in the order of operations of the library."""
        codes = find(tensors, module, "weight")
        if _state_tensor(tensors, module) is None:
            scales = floats(find(tensors, module, "SCB")).ravel()
            require(codes.dtype == "I8" and codes.shape[:1] == scales.shape, codes, "holds no row for each scale")
            rows: NDArray[np.float32] = integers(codes).astype(np.float32) * scales[:, None] * _INT8_STEP
            return rows
        packing = self.packing(tensors, member(module, "weight"))
        assert packing is not None
        _, state = _state(tensors, module)
        values = floats(find(tensors, module, "weight.quant_map")).ravel()
        if values.size != 1 << _N_BITS:
            raise Misfit(f"module {module!r}: quant_map has {values.size} values for codes of four bits")
        blocks = np.arange(math.prod(state.shape)).reshape(state.shape) // state.block_size
        weight: NDArray[np.float32] = values[packing.unpack(codes.data())] * _scales(tensors, module, state)[blocks]
        return weight


def _scales(tensors: Tensors, module: str, state: _State) -> NDArray[np.float32]:
    """The scale of each block."""
    absmax = find(tensors, module, "weight.absmax")
    if absmax.dtype != "U8":
        return floats(absmax).ravel()
    codes = integers(absmax).ravel()
    outer = floats(find(tensors, module, "weight.nested_absmax")).ravel()
    values = floats(find(tensors, module, "weight.nested_quant_map")).ravel()
    if values.size != 256 or outer.size != -(-codes.size // state.nested_block_size):
        raise Misfit(f"module {module!r}: nested_quant_map and nested_absmax do not fit {codes.size} scales")
    scales = np.repeat(outer, min(state.nested_block_size, codes.size))[: codes.size]
    nested: NDArray[np.float32] = values[codes] * scales
    return nested + state.nested_offset


def _state_tensor(tensors: Tensors, module: str) -> Tensor | None:
    names = (member(module, _STATE + kind) for kind in ("nf4", "fp4"))
    return next((tensors[name] for name in names if name in tensors), None)


def _state(tensors: Tensors, module: str) -> tuple[Tensor, _State]:
    source = _state_tensor(tensors, module)
    if source is None:
        raise Misfit(f"module {module!r} has no quant_state")
    table = settings(source)
    shape, block_size = table.get("shape"), table.get("blocksize")
    pair = isinstance(shape, list) and len(shape) == 2 and all(_is_size(size) for size in shape)
    require(pair and _is_size(block_size), source, f"gives the shape {shape} and the block size {block_size}")
    nested, offset = table.get("nested_blocksize", 256), table.get("nested_offset", 0.0)
    real = isinstance(offset, float) or (isinstance(offset, int) and abs(offset) < 2**24)
    require(_is_size(nested) and real, source, "gives no settings of its nested scales")
    assert isinstance(shape, list)
    assert isinstance(block_size, int)
    return source, _State((shape[0], shape[1]), block_size, nested, np.float32(offset))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**40


def _values(kind: str) -> NDArray[np.float32]:
    """The sixteen values of a kind of code, the largest one being 1."""
    if kind == "nf4":
        return np.array(_NF4, np.float32)
    positive = np.array(_FP4, np.float32)
    signed = np.concatenate([positive, np.where(positive == 0, positive, -positive)])
    values: NDArray[np.float32] = signed / positive.max()
    return values


@functools.cache
def _dynamic_map() -> NDArray[np.float32]:
    """The 256 values for nested scales: for each power of ten the middles of equal parts of [0.1, 1], of both signs."""
    values = [0.0, 1.0]
    for exponent in range(7):
        n_parts = 1 << exponent
        first = np.float32(0.1)
        step = float(np.float32(1 - first) / np.float32(n_parts))
        index = np.arange(n_parts + 1, dtype=np.float64)
        # Counted from the nearer end and rounded once, as torch.linspace does with fused multiply-adds.
        exact = np.where(index < (n_parts + 1) // 2, float(first) + step * index, 1 - step * (n_parts - index))
        bounds = exact.astype(np.float32)
        middles = (bounds[:-1] + bounds[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (exponent - 6)) * middles
        values += [*scaled.tolist(), *(-scaled).tolist()]
    return np.sort(np.array(values, np.float32))
