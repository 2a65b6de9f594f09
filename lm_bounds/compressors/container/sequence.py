"""In which order the tensors of a model are written, and read back.

In order of name, except that a tensor whose codes are packed may be given by others, which a decoder needs first: of
such a tensor the number of its mode comes in its place, and the codes come after all others, as soon as the tensors
that give them are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.coders import CODERS, read_number, write_number
from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sink import Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.modes import Mode
from lm_bounds.compressors.packed import Codes, CodesBeside
from lm_bounds.compressors.registry import OnBytes
from lm_bounds.compressors.tensorwise import TensorCompressor
from lm_bounds.errors import WeightsError
from lm_bounds.weights.layouts import layout_of, packing_of
from lm_bounds.weights.protocol import Load, Tensor, Weights

#: Takes the name of a tensor, the place of its first byte, and some bytes.
Write = Callable[[str, int, NDArray[np.uint8]], None]

_GIVEN = (Codes, CodesBeside)


def write_tensors(tensors: Sequence[Tensor], compressor: TensorCompressor, sink: Sink, on_bytes: OnBytes) -> None:
    """Writes all tensors, each in its shortest mode.

    Args:
        tensors: in order of name.
        compressor: whose modes code them.
        sink: where to.
        on_bytes: called with ``"pack"`` and how many bytes of tensors more have been written.
    """
    late: list[tuple[Tensor, Mode]] = []
    for tensor in tensors:
        counted = Counted(tensor)
        mode = write_number(counted, compressor.modes, compressor.mode_bits, sink)
        if isinstance(mode, _GIVEN):
            late.append((tensor, mode))
            continue
        CODERS[type(mode)].write(mode, counted, sink)
        on_bytes("pack", tensor.n_bytes)
    done = {tensor.name for tensor in tensors} - {tensor.name for tensor, _ in late}
    while late:
        tensor, mode = late.pop(next(k for k, (each, _) in enumerate(late) if _sources(each) <= done))
        CODERS[type(mode)].write(mode, Counted(tensor), sink)
        done.add(tensor.name)
        on_bytes("pack", tensor.n_bytes)


def read_tensors(
    weights: Weights, compressor: TensorCompressor, source: Source, write: Write, on_bytes: OnBytes
) -> None:
    """Reads all tensors, and notes their hashes in ``weights``.

    Args:
        weights: whose tensors read back what has been written of them.
        compressor: whose modes code them.
        source: where from.
        write: takes the bytes.
        on_bytes: called with ``"unpack"`` and how many bytes of tensors more have been read.

    Raises:
        WeightsError: the file is damaged.
    """
    growing = _Growing(weights)
    late: list[tuple[Tensor, Mode]] = []

    def read(tensor: Tensor, mode: Mode) -> None:
        digest, start = hashlib.sha256(), 0
        for piece in CODERS[type(mode)].read(mode, tensor, source):
            write(tensor.name, start, piece)
            digest.update(piece.data)
            start += piece.size
        if start != tensor.n_bytes:
            raise broken(f"tensor {tensor.name!r} has {start} bytes")
        growing.add(tensor.name, digest.digest())
        on_bytes("unpack", tensor.n_bytes)

    for tensor in growing.foreseen():
        mode = read_number(tensor, compressor.modes, compressor.mode_bits, source)
        if isinstance(mode, _GIVEN):
            late.append((tensor, mode))
        else:
            read(tensor, mode)
    while late:
        number, tensor = growing.next_packed([tensor for tensor, _ in late])
        read(tensor, late.pop(number)[1])


def _sources(tensor: Tensor) -> set[str]:
    assert tensor.packing is not None
    return set(tensor.packing.sources)


class _NotYet(WeightsError):
    """A tensor is read before it has been decoded."""


@dataclass(frozen=True)
class _Guarded:
    """The bytes of a tensor once it is there."""

    name: str
    load: Load
    done: set[str]

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        if self.name not in self.done:
            raise _NotYet(f"tensor {self.name!r} is not there yet")
        return self.load(start, stop)


class _Growing:
    """Weights of which some tensors have been decoded, and what their layout says of the others.

    Args:
        weights: all of them.
    """

    def __init__(self, weights: Weights) -> None:
        self._own = {tensor.name: tensor for tensor in weights.tensors}
        self._done: set[str] = set()
        guarded = [replace(each, load=_Guarded(each.name, each.load, self._done)) for each in weights.tensors]
        self._tensors = replace(weights, tensors=tuple(guarded)).by_name()
        config = json.loads(weights.config)
        self._layout = layout_of(config) if isinstance(config, dict) else None

    def foreseen(self) -> Iterator[Tensor]:
        """Every tensor with the bytes that the layout expects of it."""
        for name, tensor in self._own.items():
            expected = None if self._layout is None else self._layout.expected(self._tensors, name)
            yield tensor.described(None, expected)

    def add(self, name: str, digest: bytes) -> None:
        """A tensor has been decoded, and has this hash."""
        self._done.add(name)
        for tensor in (self._own[name], self._tensors[name]):
            vars(tensor)["digest"] = digest

    def next_packed(self, late: Sequence[Tensor]) -> tuple[int, Tensor]:
        """The first tensor whose packing is known and whose sources are there, and its place.

        Raises:
            WeightsError: there is none.
        """
        for number, tensor in enumerate(late):
            try:
                packing = None if self._layout is None else packing_of(self._layout, self._tensors, tensor.name)
            except _NotYet:
                continue
            if packing is not None and set(packing.sources) <= self._done:
                return number, tensor.described(packing, None)
        raise broken(f"tensor {late[0].name!r} holds no codes")
