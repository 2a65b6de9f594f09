"""Small integers that a quantised checkpoint packs into the elements of its tensors."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Side(Enum):
    """What of the quantisation group of a code another tensor of the checkpoint tells."""

    ZERO_POINT = "zero-point"
    SCALE = "scale"


class Packing(Protocol):
    """A bijection between a tensor's bytes and a matrix of codes, which the configuration and the schema determine.

    Whoever decodes a checkpoint has its configuration, its schema and the tensors of ``sources`` before the packed one.
    """

    @property
    def n_bits(self) -> int:
        """Width of a code: codes are below ``2 ** n_bits``; 1 to 16."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix of codes; a row or a column is an output or an input of the layer."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the tensors that ``labels`` reads and that the shape comes from."""

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, uint8 or uint16, in ``shape``.

        Args:
            raw: all bytes of the tensor.

        Raises:
            ValueError: bits that no code uses are not zero, so that ``pack`` would not give them back.
        """

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the tensor; ``pack(unpack(raw))`` is ``raw``."""

    def labels(self, side: Side) -> NDArray[np.uint8] | None:
        """For every code a label of its group, in ``shape``; None where the layout has no such side information."""
