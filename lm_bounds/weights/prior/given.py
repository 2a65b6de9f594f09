"""Weights described with the help of others that the decoder has: what is the same, and what is left to code.

``relative`` takes from a set of weights everything that a prior tells; what is left is a set of weights again, which
any compressor measures. ``restore`` is the inverse: from the prior and what is left it makes the weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.codelength.charges import PRIOR_BITS, PRIOR_ITEM
from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.errors import WeightsError
from lm_bounds.weights.prior.differences import difference, undone
from lm_bounds.weights.prior.merged_config import merged_header, split_header
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor, Weights

_TREATMENT_BITS = 2
# A tensor of packed codes is left as it is unless the difference is shorter by a quarter: compressors code the codes
# better than the bytes by which both are compared here.
_PACKED_SHARE = 0.75


class Treatment(Enum):
    """What becomes of a tensor of the prior: one of four code words of two bits each."""

    ABSENT = "no tensor of this name is stored"
    SAME = "the same tensor"
    DIFFERENCE = "the difference of the elements is coded"
    PLAIN = "another tensor is coded under its name"


@dataclass(frozen=True)
class Given:
    """A set of weights relative to a prior.

    Args:
        prior_sha256: of the prior, 64 hexadecimal digits.
        treatments: of each name of the prior, in order of name.
        rest: what is left to code: tensors that are new or plain, differences, and as ``config`` what the header needs.
        n_new: tensors whose name the prior does not have.
    """

    prior_sha256: str
    treatments: tuple[Treatment, ...]
    rest: Weights
    n_new: int

    @property
    def n_identical(self) -> int:
        """Tensors that the prior has bit for bit under the same name."""
        return self.treatments.count(Treatment.SAME)

    @property
    def n_differ(self) -> int:
        """Tensors whose name the prior has and whose content it has not."""
        return self.n_differences + self.treatments.count(Treatment.PLAIN)

    @property
    def n_differences(self) -> int:
        """Those of them that are coded as differences."""
        return self.treatments.count(Treatment.DIFFERENCE)

    @property
    def ledger(self) -> tuple[LedgerItem, ...]:
        """What is coded besides ``rest``: which prior, and what becomes of its tensors.

        The prior costs ``log2(16) + 256`` bits: the code word of the compressor that announces one, then its SHA-256.
        """
        return (
            LedgerItem(PRIOR_ITEM, PRIOR_BITS),
            LedgerItem("tensors of the prior", float(_TREATMENT_BITS * len(self.treatments))),
        )


def relative(weights: Weights, prior: Weights) -> Given:
    """Describe weights relative to a prior that was fixed before the corpus.

    Tensors are matched by name, the names of repeated ones included. One of the same dtype, shape and bytes is not
    coded. Of one of the same dtype and shape the difference is coded where an adaptive code of each byte position of
    the elements makes it the shorter, whichever compressor is used afterwards. Everything else is coded as it is.

    Args:
        weights: of the model.
        prior: of the model that the decoder has.
    """
    before = prior.named()
    own = {tensor.name: tensor for tensor in weights.tensors}
    treatments = tuple(_treatment(own.get(name), tensor) for name, tensor in before.items())
    left = [tensor for name, tensor in own.items() if name not in before]
    n_new = len(left)
    for (name, tensor), treatment in zip(before.items(), treatments, strict=True):
        if treatment is Treatment.PLAIN:
            left.append(own[name])
        elif treatment is Treatment.DIFFERENCE:
            left.append(difference(own[name], tensor))
    inherited = _inherited(prior, treatments)
    header = split_header(weights.config, weights.aliases, prior.config, inherited)
    rest = Weights(weights.source, tuple(sorted(left, key=lambda tensor: tensor.name)), (), header)
    return Given(prior.sha256(), treatments, rest, n_new)


def restore(prior: Weights, given: Given) -> Weights:
    """The weights that ``relative`` was given, bit for bit.

    Args:
        prior: the same as then.
        given: what ``relative`` returned, or what a decoder made of its code.

    Raises:
        WeightsError: the prior is another one, or the description does not fit it.
    """
    if prior.sha256() != given.prior_sha256:
        raise WeightsError(f"{prior.source} is not the prior that was used, whose sha256 is {given.prior_sha256}")
    before = prior.named()
    if len(before) != len(given.treatments):
        raise WeightsError(f"{prior.source} has {len(before)} names, {len(given.treatments)} are described")
    rest = {tensor.name: tensor for tensor in given.rest.tensors}
    tensors = [tensor for name, tensor in rest.items() if name not in before]
    for (name, tensor), treatment in zip(before.items(), given.treatments, strict=True):
        if treatment is Treatment.SAME:
            tensors.append(tensor)
        elif treatment is not Treatment.ABSENT:
            if name not in rest:
                raise WeightsError(f"{given.rest.source}: nothing is left of tensor {name!r}")
            tensors.append(undone(rest[name], tensor) if treatment is Treatment.DIFFERENCE else rest[name])
    inherited = _inherited(prior, given.treatments)
    config, aliases = merged_header(given.rest.config, prior.config, inherited)
    return Weights(given.rest.source, tuple(sorted(tensors, key=lambda tensor: tensor.name)), aliases, config)


def _treatment(own: Tensor | None, before: Tensor) -> Treatment:
    if own is None:
        return Treatment.ABSENT
    if (own.dtype, own.shape) != (before.dtype, before.shape):
        return Treatment.PLAIN
    if own.digest == before.digest:
        return Treatment.SAME
    share = 1 if own.packing is None else _PACKED_SHARE
    shorter = _measure(difference(own, before)) < share * _measure(own)
    return Treatment.DIFFERENCE if shorter else Treatment.PLAIN


def _measure(tensor: Tensor) -> float:
    """Bits of an adaptive code of each byte position of the elements, which is what decides between two forms."""
    width = DTYPE_BYTES[tensor.dtype]
    counts = np.zeros((width, 256), np.int64)
    for chunk in tensor.chunks():
        for position in range(width):
            counts[position] += np.bincount(chunk[position::width], minlength=256)
    return adaptive_bits(counts)


def _inherited(prior: Weights, treatments: Iterable[Treatment]) -> tuple[tuple[str, str], ...]:
    """The aliases of the prior that hold for the weights too unless others are written down."""
    of_name = dict(zip(prior.named(), treatments, strict=True))
    return tuple(
        (dropped, kept)
        for dropped, kept in prior.aliases
        if of_name[dropped] is Treatment.ABSENT and of_name[kept] is not Treatment.ABSENT
    )
