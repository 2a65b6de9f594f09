"""How each mode writes a tensor, and reads it back: those that write tensors inside of tensors, and the list of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container import packed_coders, plain_coders
from lm_bounds.compressors.container.matrices import read_matrix, write_matrix
from lm_bounds.compressors.container.places import Places
from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sink import PIECE, Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.dequantised import (
    GROUPS,
    LARGEST_LEVEL,
    NORMAL_FLOAT,
    SCALE_DTYPES,
    dequantise,
    to_floats,
)
from lm_bounds.compressors.modes import ByDtype, FewValues, Mode, Planes, Raw, Split, shortest
from lm_bounds.compressors.packed import (
    LEVEL_BITS,
    SCALE_MODE_BITS,
    SCALE_MODES,
    Codes,
    CodesBeside,
    Dequantised,
    Rebuilt,
)
from lm_bounds.compressors.repeated_rows import RepeatedRows, new_rows, row_origins
from lm_bounds.compressors.words import FLOAT_LAYOUTS, WORDS
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Coder:
    """The two directions of a mode.

    Args:
        write: writes the tensor of a ``Counted``, one that the mode can code.
        read: gives the bytes of a tensor of which dtype, shape and packing are known, piece by piece.
    """

    write: Callable[[Any, Counted, Sink], None]
    read: Callable[[Any, Tensor, Source], Iterator[Bytes]]


def number_bits(modes: tuple[Mode, ...], mode_bits: int) -> int:
    """Width of the number of a mode: ``mode_bits``, or more where modes for different dtypes share a number there."""
    return max(mode_bits, (len(modes) - 1).bit_length())


def write_tensor(tensor: Tensor, modes: tuple[Mode, ...], mode_bits: int, sink: Sink) -> None:
    """Writes the number of the mode with the shortest code, the first of several, and the tensor in that mode."""
    counted = Counted(tensor)
    mode = write_number(counted, modes, mode_bits, sink)
    CODERS[type(mode)].write(mode, counted, sink)


def write_number(counted: Counted, modes: tuple[Mode, ...], mode_bits: int, sink: Sink) -> Mode:
    """Writes the number of the mode with the shortest code, and returns the mode."""
    number, _ = shortest(counted, modes)
    sink.integer(number, number_bits(modes, mode_bits))
    return modes[number]


def read_tensor(tensor: Tensor, modes: tuple[Mode, ...], mode_bits: int, source: Source) -> Iterator[Bytes]:
    """The bytes of a tensor of which everything else is known, piece by piece."""
    mode = read_number(tensor, modes, mode_bits, source)
    yield from CODERS[type(mode)].read(mode, tensor, source)


def read_number(tensor: Tensor, modes: tuple[Mode, ...], mode_bits: int, source: Source) -> Mode:
    """The mode of a tensor."""
    number = source.integer(number_bits(modes, mode_bits))
    if number >= len(modes) or (number and not tensor.n_elements):
        raise broken(f"tensor {tensor.name!r} has a mode that there is not")
    return modes[number]


def _write_levels(mode: Dequantised, counted: Counted, sink: Sink) -> None:
    found = counted.quantised
    assert found is not None
    n_rows, n_columns = found.levels.shape
    lowest, highest = int(found.levels.min()), int(found.levels.max())
    sink.integer(GROUPS.index(0 if found.group == n_columns else found.group), 3)
    sink.integer(int(found.is_normal_float), 1)
    sink.integer(SCALE_DTYPES.index(found.scale_dtype), 2)
    write_tensor(found.scales, SCALE_MODES, SCALE_MODE_BITS, sink)
    sink.integer(lowest + LARGEST_LEVEL, LEVEL_BITS)
    sink.integer(highest + LARGEST_LEVEL, LEVEL_BITS)
    places = Places.write(sink, counted.levels.labels(mode.context), (n_rows, n_columns))
    write_matrix(sink, found.levels - lowest, highest - lowest + 1, places.contexts, places.n_contexts)


def _read_levels(mode: Dequantised, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    if tensor.dtype not in FLOAT_LAYOUTS or not tensor.shape:
        raise broken(f"tensor {tensor.name!r} has levels and scales")
    n_rows, n_columns = tensor.shape[0], math.prod(tensor.shape[1:])
    size, is_normal_float, dtype = source.integer(3), bool(source.integer(1)), source.integer(2)
    if size >= len(GROUPS) or dtype >= len(SCALE_DTYPES) or n_columns % (GROUPS[size] or n_columns):
        raise broken("a number is outside its range")
    group, scale_dtype = GROUPS[size] or n_columns, SCALE_DTYPES[dtype]
    empty = Tensor.of_bytes(tensor.name, scale_dtype, (tensor.n_elements // group,), np.empty(0, np.uint8))
    raw = np.concatenate(list(read_tensor(empty, SCALE_MODES, SCALE_MODE_BITS, source)))
    scales = to_floats(raw.view(WORDS[DTYPE_BYTES[scale_dtype]]), scale_dtype)
    lowest, highest = (source.integer(LEVEL_BITS) - LARGEST_LEVEL for _ in range(2))
    largest = NORMAL_FLOAT.size - 1 if is_normal_float else LARGEST_LEVEL
    if not (0 if is_normal_float else -LARGEST_LEVEL) <= lowest <= highest <= largest:
        raise broken("a number is outside its range")
    places = Places.read(source, mode.context, (n_rows, n_columns))
    symbols = read_matrix(source, tensor.n_elements, highest - lowest + 1, places.contexts, places.n_contexts)
    levels = (symbols + lowest).astype(np.int16).reshape(-1, group)
    height = max(1, PIECE // group)
    for start in range(0, len(levels), height):
        rows = slice(start, start + height)
        words = dequantise(scales[rows], levels[rows], tensor.dtype, is_normal_float)
        yield words.astype(WORDS[DTYPE_BYTES[tensor.dtype]]).reshape(-1).view(np.uint8)


def _write_rows(mode: RepeatedRows, counted: Counted, sink: Sink) -> None:
    tensor, origins = counted.tensor, row_origins(counted.tensor)
    assert origins is not None
    is_new = origins == np.arange(len(origins))
    write_matrix(sink, is_new.astype(np.uint8), 2, lambda start, stop: None, 1)
    rank = np.cumsum(is_new) - 1
    for row in np.flatnonzero(~is_new).tolist():
        sink.below(int(rank[origins[row]]), int(rank[row]) + 1)
    write_tensor(new_rows(tensor, origins), mode.modes, mode.mode_bits, sink)


def _read_rows(mode: RepeatedRows, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    if len(tensor.shape) < 2 or not tensor.n_elements:
        raise broken(f"tensor {tensor.name!r} has rows")
    is_new = read_matrix(source, tensor.shape[0], 2, lambda start, stop: None, 1).astype(bool)
    if not is_new[0]:
        raise broken("the first row repeats another one")
    origins = np.cumsum(is_new) - 1
    for row in np.flatnonzero(~is_new).tolist():
        origins[row] = source.below(int(origins[row]) + 1)
    n_new, row_bytes = int(is_new.sum()), tensor.n_bytes // tensor.shape[0]
    empty = Tensor.of_bytes(tensor.name, tensor.dtype, (n_new, *tensor.shape[1:]), np.empty(0, np.uint8))
    rows = np.concatenate(list(read_tensor(empty, mode.modes, mode.mode_bits, source))).reshape(n_new, row_bytes)
    height = max(1, PIECE // row_bytes)
    for start in range(0, len(origins), height):
        yield rows[origins[start : start + height]].reshape(-1)


#: The coder of every mode. A new mode needs one here.
CODERS: Mapping[type[Any], Coder] = MappingProxyType(
    {
        Raw: Coder(plain_coders.write_raw, plain_coders.read_raw),
        ByDtype: Coder(plain_coders.write_by_dtype, plain_coders.read_by_dtype),
        Split: Coder(plain_coders.write_split, plain_coders.read_split),
        Planes: Coder(plain_coders.write_planes, plain_coders.read_planes),
        FewValues: Coder(plain_coders.write_values, plain_coders.read_values),
        Codes: Coder(packed_coders.write_codes, packed_coders.read_codes),
        CodesBeside: Coder(packed_coders.write_codes_beside, packed_coders.read_codes_beside),
        Rebuilt: Coder(packed_coders.write_rebuilt, packed_coders.read_rebuilt),
        Dequantised: Coder(_write_levels, _read_levels),
        RepeatedRows: Coder(_write_rows, _read_rows),
    }
)
