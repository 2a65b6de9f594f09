"""A set of weights as named, typed arrays of bytes, whatever they were read from."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.parallel import in_parallel

#: Bytes of one element of each safetensors dtype whose elements are whole bytes.
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}

# Bytes handed on at a time: a multiple of every element size, and what a slow compressor takes in seconds.
CHUNK_BYTES = 1 << 22

_RESERVED_NAME = "__metadata__"

#: The bytes of a tensor from one position to another.
Load = Callable[[int, int], NDArray[np.uint8]]

#: The bytes of a tensor that a decoder would predict before it has read it, flat uint8.
Expected = Callable[[], NDArray[np.uint8]]

#: The layout of a checkpoint that is not quantised.
DENSE = "dense"


@dataclass(frozen=True)
class Tensor:
    """One named array, whose bytes are loaded when they are asked for.

    Args:
        name: as the checkpoint names it.
        dtype: the safetensors code, a key of ``DTYPE_BYTES``.
        shape: sizes, each >= 0; ``()`` for a scalar.
        load: returns the bytes from ``start`` to ``stop`` of the elements in row-major, little-endian order, as flat
            uint8; called at every use, so that no more than a piece of one tensor need be in memory.
        packing: how the elements hold small integers, where the layout of the checkpoint says so.
        expected: the bytes that the configuration and the schema alone predict, where the layout of the checkpoint
            predicts any; they may differ from the bytes that are there.

    Raises:
        WeightsError: the dtype is not supported, or a size is negative.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Load = field(repr=False, compare=False)
    packing: Packing | None = field(default=None, repr=False, compare=False)
    expected: Expected | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            allowed = ", ".join(sorted(DTYPE_BYTES))
            raise WeightsError(f"tensor {self.name!r} has dtype {self.dtype!r}; supported are {allowed}")
        if any(size < 0 for size in self.shape):
            raise WeightsError(f"tensor {self.name!r} has a negative size in its shape {self.shape}")

    @classmethod
    def of_bytes(cls, name: str, dtype: str, shape: tuple[int, ...], flat: NDArray[np.uint8]) -> Tensor:
        """A tensor whose bytes are in memory."""
        return cls(name, dtype, shape, lambda start, stop: flat[start:stop])

    def described(self, packing: Packing | None, expected: Expected | None) -> Tensor:
        """The same tensor with what the layout of the checkpoint says of it; it is not hashed again."""
        tensor = replace(self, packing=packing, expected=expected)
        if "digest" in vars(self):
            vars(tensor)["digest"] = self.digest
        return tensor

    @property
    def n_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all elements."""
        return self.n_elements * DTYPE_BYTES[self.dtype]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes from ``start`` to ``stop``, contiguous, shape (stop - start,).

        Raises:
            WeightsError: there are not as many bytes as dtype and shape say.
        """
        piece = self.load(start, stop)
        if piece.dtype != np.uint8 or piece.shape != (stop - start,):
            raise WeightsError(
                f"tensor {self.name!r} of dtype {self.dtype} and shape {self.shape} must give {self.n_bytes}"
                f" bytes; for those from {start} to {stop} it gave {piece.dtype} of shape {piece.shape}"
            )
        return np.ascontiguousarray(piece)

    def data(self) -> NDArray[np.uint8]:
        """All bytes, shape (n_bytes,)."""
        return self.read(0, self.n_bytes)

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes in order, ``CHUNK_BYTES`` at a time."""
        for start in range(0, self.n_bytes, CHUNK_BYTES):
            yield self.read(start, min(start + CHUNK_BYTES, self.n_bytes))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the bytes, computed at the first use."""
        state = hashlib.sha256()
        for chunk in self.chunks():
            state.update(chunk.data)
        return state.digest()


@dataclass(frozen=True)
class Weights:
    """Everything that tells one model of an architecture from another.

    Args:
        source: where it was read, for messages.
        tensors: distinct tensors sorted by name.
        aliases: (dropped name, kept name) of tensors that repeat another one, sorted.
        config: canonical JSON of the configuration, ``b"{}"`` where there is none.
        layout: how the tensors are laid out, for people: ``"dense"``, the name of a layout of quantised tensors, or
            what of them is measured as plain bytes. It follows from the others and is no part of the hash.

    Raises:
        WeightsError: names repeat or are out of order, or an alias names no tensor.
    """

    source: str
    tensors: tuple[Tensor, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    config: bytes = b"{}"
    layout: str = DENSE

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if _RESERVED_NAME in names:
            raise WeightsError(f"{self.source}: no tensor can be called {_RESERVED_NAME!r}, which safetensors reserves")
        dropped = [name for name, _ in self.aliases]
        if any(later <= earlier for earlier, later in itertools.pairwise(names)):
            raise WeightsError(f"{self.source}: tensors must be sorted by name, each name once")
        if dropped != sorted(set(dropped) - set(names)) or not {kept for _, kept in self.aliases} <= set(names):
            raise WeightsError(f"{self.source}: aliases must be sorted new names for tensors that are there")

    def by_name(self) -> dict[str, Tensor]:
        """The tensors by name; an alias gives the tensor that it repeats.

        >>> one = Tensor.of_bytes("a", "U8", (1,), np.zeros(1, np.uint8))
        >>> sorted(Weights("example", (one,), (("b", "a"),)).by_name())
        ['a', 'b']
        """
        named = {tensor.name: tensor for tensor in self.tensors}
        return named | {dropped: named[kept] for dropped, kept in self.aliases}

    @property
    def n_parameters(self) -> int:
        """Number of distinct parameters: repeated and tied tensors count once, and packed codes one by one."""
        return sum(
            tensor.n_elements if tensor.packing is None else math.prod(tensor.packing.shape) for tensor in self.tensors
        )

    @property
    def stored_bytes(self) -> int:
        """Bytes of the distinct tensors as they are stored."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    def named(self) -> dict[str, Tensor]:
        """The tensor of every name, dropped names included, in order of name; repeated ones are hashed once."""
        table = dict(sorted(self.by_name().items()))
        for dropped, kept in self.aliases:
            table[dropped] = again = replace(table[kept], name=dropped)
            if "digest" in vars(table[kept]):
                vars(again)["digest"] = table[kept].digest
        return table

    def sha256(self) -> str:
        """Hash of what the tensors and the configuration are, 64 hexadecimal digits.

        SHA-256 of one JSON text after another, each preceded by its length (8 bytes, little endian): name, dtype, shape
        and SHA-256 of each tensor in order of name, then the aliases, then the configuration.
        """
        digest = hashlib.sha256()
        in_parallel(lambda tensor: tensor.digest, self.tensors)
        for tensor in self.tensors:
            digest.update(_delimited([tensor.name, tensor.dtype, list(tensor.shape), tensor.digest.hex()]))
        digest.update(_delimited({"aliases": [list(alias) for alias in self.aliases]}))
        digest.update(_delimited({"config": self.config.decode()}))
        return digest.hexdigest()


def distinct(tensors: Iterable[Tensor]) -> tuple[tuple[Tensor, ...], tuple[tuple[str, str], ...]]:
    """Sort by name and drop each tensor that repeats one with an earlier name.

    Two tensors are the same where dtype, shape and the SHA-256 of their bytes are. Only tensors that share
    dtype and shape with another one are read.

    Returns:
        The tensors kept, and (dropped name, kept name) of the others.

    >>> zero, one = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    >>> named = [Tensor.of_bytes(name, "U8", (4,), flat) for name, flat in (("c", zero), ("b", one), ("a", zero))]
    >>> kept, aliases = distinct(named)
    >>> [tensor.name for tensor in kept], aliases
    (['a', 'b'], (('c', 'a'),))
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    alike: dict[tuple[str, tuple[int, ...]], int] = defaultdict(int)
    for tensor in ordered:
        alike[tensor.dtype, tensor.shape] += 1
    in_parallel(lambda tensor: tensor.digest, [each for each in ordered if alike[each.dtype, each.shape] > 1])
    kept: list[Tensor] = []
    aliases: list[tuple[str, str]] = []
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for tensor in ordered:
        if alike[tensor.dtype, tensor.shape] > 1:
            original = first.setdefault((tensor.dtype, tensor.shape, tensor.digest), tensor.name)
            if original != tensor.name:
                aliases.append((tensor.name, original))
                continue
        kept.append(tensor)
    return tuple(kept), tuple(aliases)


def _delimited(header: object) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text
