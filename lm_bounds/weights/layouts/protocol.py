"""What the layout of a quantised checkpoint tells about its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected, Tensor

#: The tensors of a checkpoint by name; an alias gives the tensor that it repeats.
Tensors = Mapping[str, Tensor]


class Misfit(WeightsError):
    """A tensor is not as its layout has it: it is measured as plain bytes, and cannot be dequantised."""


class Layout(Protocol):
    """The way in which one method of quantisation writes layers into the tensors of a checkpoint.

    Everything is a function of the configuration, of names, dtypes and shapes, and of the tensors that a packing names
    as its ``sources``: whoever decodes a checkpoint finds the same packing before the packed tensor is there.
    """

    @property
    def name(self) -> str:
        """What the checkpoint is called, e.g. ``"gptq"``."""

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Names of the quantised layers, sorted: those that have the tensors of this layout, by name."""

    def coded(self, module: str) -> tuple[str, ...]:
        """Names of the tensors of a layer that pack codes; none where each code is an element of its own."""

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """How a tensor packs codes, None for one that packs none.

        Raises:
            Misfit: it is among ``coded``, but dtypes, shapes or small tensors beside it do not fit.
        """

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """The bytes of a tensor that the configuration and the schema predict, None where they predict none.

        The prediction may be wrong; then the tensor is coded as any other.
        """

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The weight of a layer, shape (outputs, inputs): the formula of the layout in float32.

        Raises:
            Misfit: the tensors do not fit, or this kind of layer has no formula here.
        """


def member(module: str, part: str) -> str:
    """The name of a tensor of a module.

    >>> member("lm_head", "qweight"), member("", "qweight")
    ('lm_head.qweight', 'qweight')
    """
    return f"{module}.{part}" if module else part


def split(name: str) -> tuple[str, str]:
    """Module and part of the name of a tensor.

    >>> split("model.lm_head.qweight")
    ('model.lm_head', 'qweight')
    """
    module, _, part = name.rpartition(".")
    return module, part


def find(tensors: Tensors, module: str, part: str) -> Tensor:
    """A tensor of a module.

    Raises:
        Misfit: there is none.
    """
    name = member(module, part)
    if name not in tensors:
        raise Misfit(f"module {module!r} has no tensor {name!r}")
    return tensors[name]


def modules_with(tensors: Tensors, *parts: str) -> tuple[str, ...]:
    """The modules that have tensors of all these names, sorted."""
    first, *others = parts
    found = {split(name)[0] for name in tensors if split(name)[1] == first}
    return tuple(sorted(module for module in found if all(member(module, part) in tensors for part in others)))


def require(fits: bool, tensor: Tensor, what: str) -> None:
    """Checks one thing about a tensor.

    Raises:
        Misfit: it does not hold.
    """
    if not fits:
        raise Misfit(f"tensor {tensor.name!r} of dtype {tensor.dtype} and shape {tensor.shape} {what}")


def whole(settings: Mapping[str, Any], key: str) -> int | None:
    """A setting that is a whole number; None where it is none."""
    value = settings.get(key)
    return value if type(value) is int else None
