"""What a layer computes, compared with the matrix that the files of its checkpoint give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError

if TYPE_CHECKING:
    import torch

# Inputs of a layer that are tried at a time.
_ROWS = 256
# Neighbours in a row of the matrix whose largest magnitude says how coarsely they may be rounded.
_NEIGHBOURS = 64
# The machine epsilon of bfloat16.
_STEP = np.float32(2.0**-7)
_MEAN_SHARE = 0.75


@dataclass
class Difference:
    """How far a layer is from its matrix, in units of what rounding may do.

    Args:
        largest: of all elements so far.
        total: sum over all elements so far.
        allowed: sum of what they may be.
    """

    largest: float = 0.0
    total: float = 0.0
    allowed: float = 0.0

    @property
    def mean(self) -> float:
        """In units of three quarters of what single elements may differ by."""
        return self.total / (_MEAN_SHARE * self.allowed) if self.allowed > 0 else 0.0

    @property
    def is_rounding(self) -> bool:
        """Whether both the largest and the mean difference are at most 1; not where one is no number."""
        return self.largest <= 1.0 and self.mean <= 1.0

    def add(self, found: NDArray[np.float32], given: NDArray[np.float32], allowed: NDArray[np.float32]) -> None:
        """Takes in some elements: as they are, as they should be, and by how much they may differ."""
        with np.errstate(invalid="ignore"):
            error = np.abs(found - given)
        if error.size:
            ratio = np.divide(error, allowed, out=np.where(error == 0, 0.0, np.inf), where=allowed > 0)
            self.largest = max(self.largest, float(np.nan_to_num(ratio, nan=np.inf).max()))
            self.total += float(error.sum(dtype=np.float64))
            self.allowed += float(allowed.sum(dtype=np.float64))


def compare_layer(
    layer: torch.nn.Module, matrix: NDArray[np.float32], bias: NDArray[np.float32] | None, dtype: torch.dtype
) -> Difference:
    """Applies a layer to the rows of the identity and compares what comes out with a matrix.

    A linear layer ``y = W x + b`` is given every unit vector, and zero, in ``dtype``; an embedding every token. With
    ``A`` the largest magnitude among the 64 neighbours of an element in its row, each element of ``W`` may differ by
    ``2^-7 A`` (and ``2^-7 |b|``, since the bias is subtracted), and the mean of all differences by three quarters of
    the mean of that. ``2^-7`` is the machine epsilon of bfloat16, in which many kernels compute whatever is given:
    rounding a weight makes half of it at most, rounding its scale and their product as much again. Half a step of
    codes of 4 bits is about ``2^-4 A``, eight times what an element may differ by. Codes of 8 bits are as fine as
    bfloat16 is, so that it is the mean that tells them from others.

    Args:
        layer: on any device, in evaluation mode.
        matrix: W as the files give it, shape (outputs, inputs); of an embedding (tokens, width).
        bias: b as the files give it, shape (outputs,); None where there is none.
        dtype: of the vectors.

    Raises:
        WeightsError: the layer cannot be applied, or gives another shape.
    """
    import torch

    difference = Difference()
    if isinstance(layer, torch.nn.Embedding):
        for start in range(0, len(matrix), _ROWS):
            rows = matrix[start : start + _ROWS]
            found = _apply(layer, torch.arange(start, start + len(rows)), rows.shape[1])
            difference.add(found, rows, _STEP * _around(rows))
        return difference
    n_outputs, n_inputs = matrix.shape
    offset = np.zeros(n_outputs, np.float32) if bias is None else bias
    of_zero = Difference()
    of_zero.add(_apply(layer, torch.zeros(1, n_inputs, dtype=dtype), n_outputs)[0], offset, _STEP * np.abs(offset))
    difference.largest = of_zero.largest
    for start in range(0, n_inputs, _ROWS):  # a multiple of the neighbours
        columns = matrix[:, start : start + _ROWS]
        units = torch.zeros(columns.shape[1], n_inputs, dtype=dtype)
        units[torch.arange(len(units)), torch.arange(start, start + len(units))] = 1
        found = _apply(layer, units, n_outputs) - offset
        difference.add(found.T, columns, _STEP * (_around(columns) + np.abs(offset)[:, None]))
    return difference


def compare_values(found: NDArray[np.float32], given: NDArray[np.float32]) -> Difference:
    """The same for the values of a tensor that a model holds unpacked; of any shape."""
    difference = Difference()
    width = found.shape[-1] if found.ndim else 1
    rows, expected = found.reshape(-1, width), given.reshape(-1, width)
    difference.add(rows, expected, _STEP * _around(expected))
    return difference


def _apply(layer: torch.nn.Module, inputs: torch.Tensor, n_outputs: int) -> NDArray[np.float32]:
    """What a layer makes of a batch of one sequence, shape (positions, outputs)."""
    import torch

    tensors: Any = (*layer.parameters(), *layer.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    try:
        with torch.no_grad():
            outputs = layer(inputs.to(device)[None])
    # A kernel may fail in any way: on this device, in this dtype, for this number of rows.
    except Exception as error:
        raise WeightsError(f"a {type(layer).__name__} cannot be applied to unit vectors: {error!r}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (1, len(inputs), n_outputs):
        raise WeightsError(f"a {type(layer).__name__} does not have the {n_outputs} outputs of its tensors")
    values: NDArray[np.float32] = outputs[0].float().cpu().numpy()
    return values


def _around(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each element the largest magnitude of its block of neighbours in the row."""
    width = rows.shape[1]
    padded = np.pad(np.abs(rows), ((0, 0), (0, -width % _NEIGHBOURS)))
    peaks = padded.reshape(len(rows), -1, _NEIGHBOURS).max(axis=2)
    around: NDArray[np.float32] = np.repeat(peaks, _NEIGHBOURS, axis=1)[:, :width]
    return around
