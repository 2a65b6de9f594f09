"""Ways to code tensors that were quantised: they hold codes, were made from codes, or follow from other tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lm_bounds.compressors.classes import Context
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.modes import Mode, Raw, Split, shortest
from lm_bounds.weights.packing import Side

#: How scales are coded, as the tensor that they are.
SCALE_MODES: tuple[Mode, ...] = (Raw(), *(Split(n_leading) for n_leading in range(8)))
SCALE_MODE_BITS = 4
LEVEL_BITS = 9  # levels are between -255 and 255


@dataclass(frozen=True)
class Codes:
    """The codes that the elements hold, under an adaptive code of their alphabet.

    Args:
        context: of the codes.
    """

    context: Context = Context.NONE

    def bits(self, counted: Counted) -> float:
        """``L(codes)`` over the alphabet of ``2^b`` codes of ``b`` bits, ``L`` the length in the context."""
        return math.inf if counted.packed is None else counted.packed.bits(self.context)


@dataclass(frozen=True)
class CodesBeside:
    """The codes that the elements hold, given what another tensor says of their group, where there is such a one.

    Args:
        side: the zero-point or the scale of the group.
    """

    side: Side

    def bits(self, counted: Counted) -> float:
        """``sum_l KT(codes of groups with label l)``; the labels cost nothing, they are made from a decoded tensor."""
        packing = counted.tensor.packing
        if counted.packed is None or packing is None:
            return math.inf
        labels = packing.labels(self.side)
        return counted.packed.bits(Context.NONE) if labels is None else counted.packed.beside(labels)


@dataclass(frozen=True)
class Rebuilt:
    """A tensor that its layout's rule gives: the decoder makes it from the configuration and other tensors."""

    def bits(self, counted: Counted) -> float:
        """0."""
        expected = counted.tensor.expected
        if expected is None or not np.array_equal(expected(), counted.tensor.data()):
            return math.inf
        return 0.0


@dataclass(frozen=True)
class Dequantised:
    """Scales of groups of elements, and the level of every element: the product, rounded, is the element.

    Args:
        context: of the levels.
    """

    context: Context = Context.NONE

    def bits(self, counted: Counted) -> float:
        """``3 + 1 + 2 + L(scales) + 9 + 9 + L(levels)``.

        Which group size, which levels and which dtype of the scales; the scales as a tensor under the shortest of
        ``raw`` and ``split`` with 0 to 7 mantissa bits, whose number takes 4 bits; the smallest and the largest level,
        which bound the alphabet; the levels in the context.
        """
        found = counted.quantised
        if found is None:
            return math.inf
        _, scales = shortest(found.scales, SCALE_MODES)
        return 3 + 1 + 2 + SCALE_MODE_BITS + scales + 2 * LEVEL_BITS + counted.levels.bits(self.context)
