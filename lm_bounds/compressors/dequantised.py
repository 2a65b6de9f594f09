"""Floating-point tensors that were made from small integers: the integers and their scales are found again.

A dequantised tensor has in every group of consecutive elements of a row only values ``round(s u_k)``: ``s`` is the
group's scale, ``u_k`` a level, and ``round`` the rounding to the tensor's dtype of the product in single precision.
Levels are either the integers, or the sixteen of the 4-bit NormalFloat. Whatever is found is multiplied out and
compared bit for bit with the tensor, so that nothing depends on how it was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.compressors.histogram import histogram
from lm_bounds.compressors.words import FLOAT_LAYOUTS, WORDS
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

#: Elements of a group that are tried, a whole row first (0).
GROUPS = (0, 256, 128, 64, 32)
#: Dtypes that scales are stored in, the shorter ones first.
SCALE_DTYPES = ("F16", "BF16", "F32")
#: The largest magnitude of an integer level: 8 bits with a zero-point at either end.
LARGEST_LEVEL = 255
#: The levels of the 4-bit NormalFloat. T. Dettmers et al., "QLoRA", NeurIPS 2023, appendix E.
NORMAL_FLOAT = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)

_FORMATS: dict[str, Any] = {"F16": np.float16, "F32": np.float32}
# The scales of smaller groups would cost more than their elements.
_LEAST_GROUP = 16
# The first try sees so many groups, and so many elements of each: most tensors were never quantised.
_SAMPLE_GROUPS = 4
_SAMPLE_ELEMENTS = 512
_FITS = 2
# Values below the smallest normal number are rounded to steps that are no part of theirs: they pass.
_SUBNORMAL = 1e-3
# Groups are taken apart so many elements at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Quantised:
    """Levels and scales that rebuild a tensor.

    Args:
        group: elements of a group.
        scales: one for each group, shape (groups,), in ``scale_dtype`` as a tensor.
        levels: of every element, shape (rows, columns); integers, or positions in ``NORMAL_FLOAT``.
        is_normal_float: whether they are positions there.
    """

    group: int
    scales: Tensor
    levels: NDArray[np.int16]
    is_normal_float: bool

    @property
    def scale_dtype(self) -> str:
        """A member of ``SCALE_DTYPES``."""
        return self.scales.dtype


def dequantise(scales: NDArray[np.float32], levels: NDArray[np.int16], dtype: str, is_normal_float: bool) -> Any:
    """The elements as words of the dtype: single precision products, rounded to nearest even.

    Args:
        scales: shape (groups,).
        levels: shape (groups, elements of a group).
        dtype: of the tensor.
        is_normal_float: whether levels are positions in ``NORMAL_FLOAT``.
    """
    units = NORMAL_FLOAT[levels] if is_normal_float else levels.astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return to_words(units * scales[:, None], dtype)


def to_words(values: NDArray[np.float32], dtype: str) -> Any:
    """Single precision numbers rounded to a dtype of ``FLOAT_LAYOUTS``, as unsigned integers."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return np.asarray(values.astype(_FORMATS[dtype]).view(WORDS[DTYPE_BYTES[dtype]]))
    words = values.view("<u4")
    rounded = words + 0x7FFF + (words >> 16 & 1)
    return np.where(np.isnan(values), words | 0x400000, rounded).astype("<u4") >> 16


def to_floats(words: Any, dtype: str) -> NDArray[np.float32]:
    """Words of a dtype of ``FLOAT_LAYOUTS`` as single precision numbers, without error."""
    if dtype == "BF16":
        return np.asarray((words.astype("<u4") << 16).view(np.float32))
    with np.errstate(invalid="ignore"):  # some NaNs signal that they are widened
        return np.asarray(words.view(_FORMATS[dtype]), np.float32)


def find_quantised(tensor: Tensor) -> Quantised | None:
    """Levels and scales that rebuild a tensor bit for bit, where there are any.

    Of several group sizes that do, the one with the shortest levels and scales: large groups of numbers of few digits
    can be rebuilt with many levels where smaller ones need few.
    """
    if tensor.dtype not in FLOAT_LAYOUTS or len(tensor.shape) < 2 or not tensor.n_elements:
        return None
    n_columns = tensor.n_elements // tensor.shape[0]
    sizes = [n_columns, *(size for size in GROUPS[1:] if size < n_columns and n_columns % size == 0)]
    # What rebuilds a group rebuilds a part of it, where levels are integers: most tensors fail at a small part.
    kinds = (False, True) if _sample_fits(tensor, min(GROUPS[-1], n_columns), False) else (True,)
    found = [
        parts
        for group in sizes
        for is_normal_float in kinds
        if group >= _LEAST_GROUP
        and _sample_fits(tensor, group, is_normal_float)
        and (parts := _take_apart(tensor, group, is_normal_float)) is not None
    ]
    return min(found, key=_cost, default=None)


def _cost(found: Quantised) -> float:
    """Bits of the levels under one adaptive code, and of the scales as they are."""
    lowest = int(found.levels.min())
    counts = histogram(found.levels - lowest, int(found.levels.max()) - lowest + 1)
    return adaptive_bits(counts) + 8 * found.scales.n_bytes


def _sample_fits(tensor: Tensor, group: int, is_normal_float: bool) -> bool:
    """Whether a few groups, or the beginnings of them, can be rebuilt; zeros alone say nothing."""
    n_groups, width = tensor.n_elements // group, DTYPE_BYTES[tensor.dtype]
    seen = False
    for number in np.unique(np.linspace(0, n_groups - 1, _SAMPLE_GROUPS).astype(int)).tolist():
        start = number * group
        stop = start + (group if is_normal_float else min(group, _SAMPLE_ELEMENTS))
        words = tensor.read(start * width, stop * width).view(WORDS[width])[None]
        if np.unique(words).size > 2 * LARGEST_LEVEL + 1 or not (is_normal_float or _may_fit(words, tensor.dtype)):
            return False
        if _parts(words, tensor.dtype, is_normal_float) is None:
            return False
        seen = seen or bool((words << 1 != 0).any())  # -0.0 is a zero too
    return seen


def _may_fit(words: Any, dtype: str) -> bool:
    """Whether the ratios of a group's values to the largest one are near those of integers up to ``LARGEST_LEVEL``."""
    single = to_floats(words, dtype).reshape(-1)
    if not np.isfinite(single).all():
        return False
    values = single.astype(np.float64)
    largest = np.abs(values).max()
    if largest == 0:
        return True
    levels = values / largest * np.arange(1, LARGEST_LEVEL + 1)[:, None]
    # Both values of a ratio were rounded, to half a unit in the last place.
    error = np.abs(levels) * 2.0 ** -FLOAT_LAYOUTS[dtype].mantissa_bits * 1.01 + _SUBNORMAL
    return bool((np.abs(levels - np.rint(levels)) <= error).all(axis=1).any())


def _take_apart(tensor: Tensor, group: int, is_normal_float: bool) -> Quantised | None:
    scales, levels = [], []
    for words in _group_blocks(tensor, group):
        parts = _parts(words, tensor.dtype, is_normal_float)
        if parts is None:
            return None
        scales.append(parts[0])
        levels.append(parts[1])
    joined = np.concatenate(levels).reshape(tensor.shape[0], -1)
    return Quantised(group, _stored_scales(tensor.name, np.concatenate(scales)), joined, is_normal_float)


def _group_blocks(tensor: Tensor, group: int) -> Iterator[Any]:
    """Words of the tensor, shape (groups, elements of a group), a number of groups at a time."""
    width, n_groups = DTYPE_BYTES[tensor.dtype], tensor.n_elements // group
    height = max(1, _BLOCK // group)
    for start in range(0, n_groups, height):
        stop = min(start + height, n_groups)
        raw = tensor.read(start * group * width, stop * group * width)
        yield raw.view(WORDS[width]).reshape(-1, group)


def _stored_scales(name: str, scales: NDArray[np.float32]) -> Tensor:
    """Scales in the shortest dtype that holds all of them."""
    for dtype in SCALE_DTYPES:
        words = to_words(scales, dtype)
        if np.array_equal(to_floats(words, dtype).view("<u4"), scales.view("<u4")):
            break
    raw = words.astype(WORDS[DTYPE_BYTES[dtype]]).view(np.uint8)
    return Tensor.of_bytes(name, dtype, scales.shape, raw)


def _parts(words: Any, dtype: str, is_normal_float: bool) -> tuple[NDArray[np.float32], NDArray[np.int16]] | None:
    """Scales, shape (groups,), and levels of groups that they rebuild; None where one of them cannot be rebuilt."""
    values = to_floats(words, dtype)
    if not np.isfinite(values).all():
        return None
    low, high = _rounding_intervals(words, values, dtype)
    largest = np.abs(values).max(axis=1)
    # A zero with a sign comes of a negative scale.
    sign = np.where((words == 1 << (8 * words.itemsize - 1)).any(axis=1), -1.0, 1.0)
    scales = sign.astype(np.float32)
    levels = np.zeros(values.shape, np.int16)
    left = np.arange(len(values))
    if is_normal_float:
        levels += int(np.flatnonzero(NORMAL_FLOAT == 0)[0])
    for top in (1,) if is_normal_float else range(1, LARGEST_LEVEL + 1):
        left = left[largest[left] > 0] if top == 1 else left
        if not left.size:
            break
        found = _levels(values[left] * sign[left, None].astype(np.float64), largest[left] / top, is_normal_float)
        fitted = _fitted_scales(found, words[left], (low[left], high[left]), sign[left], dtype, is_normal_float)
        fits = np.isfinite(fitted)
        scales[left[fits]], levels[left[fits]] = fitted[fits], found[fits]
        left = left[~fits]
    if left.size or not np.array_equal(dequantise(scales, levels, dtype, is_normal_float), words):
        return None
    return scales, levels


def _rounding_intervals(words: Any, values: NDArray[np.float32], dtype: str) -> tuple[Any, Any]:
    """For the magnitude of every value the ends of the interval that is rounded to it, in double precision."""
    half = 1 << (8 * words.itemsize - 1)
    magnitude = words & (half - 1)
    exact = np.abs(values.astype(np.float64))
    above = to_floats((magnitude + 1).astype(words.dtype), dtype).astype(np.float64)
    below = to_floats((magnitude - (magnitude > 0)).astype(words.dtype), dtype).astype(np.float64)
    above = np.where(np.isfinite(above), above, exact)
    return (exact + below) / 2, (exact + above) / 2


def _levels(values: Any, scales: Any, is_normal_float: bool) -> NDArray[np.int16]:
    """The level next to each value over its group's scale.

    Scales made from one rounded value are not exact enough for many levels: they are fitted to all values by least
    squares, and the levels taken again.
    """
    if is_normal_float:
        between = (NORMAL_FLOAT[1:].astype(np.float64) + NORMAL_FLOAT[:-1]) / 2
        return np.asarray(np.searchsorted(between, values / scales.astype(np.float64)[:, None]), np.int16)
    levels = np.rint(values / scales.astype(np.float64)[:, None])
    for _ in range(_FITS):
        fitted = (values * levels).sum(axis=1) / (levels * levels).sum(axis=1)
        levels = np.rint(values / fitted[:, None])
    return np.asarray(levels, np.int16)


def _fitted_scales(
    levels: NDArray[np.int16], words: Any, interval: tuple[Any, Any], sign: Any, dtype: str, is_normal_float: bool
) -> NDArray[np.float32]:
    """For each group a scale that rebuilds it with these levels, a short one where there is one; NaN where none does.

    Every element allows an interval of scales. Products half-way between two values are rounded to either of them, so
    that the ends of what all elements allow are tried as well.
    """
    units = np.abs(NORMAL_FLOAT[levels].astype(np.float64) if is_normal_float else levels.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(units > 0, interval[0] / units, 0.0).max(axis=1)
        most = np.where(units > 0, interval[1] / units, np.inf).min(axis=1)
    fitted = np.full(len(levels), np.nan, np.float32)
    places = np.flatnonzero((least <= most) & np.isfinite(most))
    ends = [((least + most) / 2)[places], least[places], most[places]]
    tried = [to_floats(to_words(end.astype(np.float32), kind), kind) for kind in SCALE_DTYPES for end in ends]
    for candidates in tried:
        open_ = np.isnan(fitted[places]) & (candidates >= least[places]) & (candidates <= most[places])
        where = places[open_]
        signed = (candidates[open_] * sign[where]).astype(np.float32)
        fits = (dequantise(signed, levels[where], dtype, is_normal_float) == words[where]).all(axis=1)
        fitted[where[fits]] = signed[fits]
    return fitted
