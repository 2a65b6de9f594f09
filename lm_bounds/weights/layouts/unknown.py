"""A layout that is not known: its tensors are measured as the bytes that they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.protocol import Misfit, Tensors
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected


@dataclass(frozen=True)
class Unknown:
    """What a configuration calls quantised, in a way of which nothing is known here.

    Args:
        method: its name for it.
    """

    method: str

    @property
    def name(self) -> str:
        """The method, and that its tensors are taken as plain bytes.

        >>> Unknown("vptq").name
        'unknown: vptq, measured as plain bytes'
        """
        return f"unknown: {self.method}, measured as plain bytes"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """None that is known."""
        return ()

    def coded(self, module: str) -> tuple[str, ...]:
        """None that is known."""
        return ()

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """None that is known."""
        return None

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """Not possible.

        Raises:
            Misfit: always.
        """
        raise Misfit(f"module {module!r}: quantised by {self.method}, a layout that is not known")
