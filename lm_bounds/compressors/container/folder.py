"""A safetensors checkpoint that is filled tensor by tensor, in any order."""

from __future__ import annotations

import functools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.header import Header
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor, Weights
from lm_bounds.weights.safetensors_file import read_bytes

#: A shard has so many bytes of tensors, unless one tensor alone has more.
SHARD_BYTES = 5 * 10**9

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"


class CheckpointFolder:
    """The files of a checkpoint, at their full size; an alias is a tensor of its own there.

    Args:
        folder: an empty one.
        header: the tensors, aliases and configuration.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self._folder, self._header = folder, header
        self._files: dict[Path, BinaryIO] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._names = defaultdict(list)
        for name, _, _ in header.tensors:
            self._names[name].append(name)
        for dropped, kept in header.aliases:
            self._names[kept].append(dropped)

    def create(self) -> None:
        """Makes the files, with their headers and without the tensors' bytes."""
        stored = all_tensors(self._header)
        shards = _shards(stored)
        for number, shard in enumerate(shards, 1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
            self._create(self._folder / name, shard)
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": sum(n_bytes for *_, n_bytes in stored)},
                "weight_map": {name: path.name for name, (path, _) in self._places.items()},
            }
            (self._folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
        if self._header.config != b"{}":
            (self._folder / _CONFIG).write_bytes(self._header.config)

    def _create(self, path: Path, shard: list[tuple[str, str, tuple[int, ...], int]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, dtype, shape, n_bytes in shard:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + n_bytes]}
            offset += n_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file = self._files[path] = path.open("wb", buffering=0)
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + offset)
        for name, entry in header.items():
            if "data_offsets" in entry:
                self._places[name] = path, start + entry["data_offsets"][0]

    def weights(self, source: str) -> Weights:
        """The weights that the files hold, as far as they have been written."""
        tensors = tuple(
            Tensor(name, dtype, shape, functools.partial(read_bytes, *self._places[name]))
            for name, dtype, shape in self._header.tensors
        )
        return Weights(source, tensors, self._header.aliases, self._header.config)

    def write(self, name: str, start: int, piece: NDArray[np.uint8]) -> None:
        """Writes bytes of a tensor, and of what repeats it, from its byte ``start`` on."""
        for each in self._names[name]:
            path, offset = self._places[each]
            self._files[path].seek(offset + start)
            view = memoryview(piece.data)
            while view:
                view = view[self._files[path].write(view) :]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def all_tensors(header: Header) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Name, dtype, shape and bytes of every tensor, of those that repeat another one too, in order of name."""
    kept = {name: (dtype, shape) for name, dtype, shape in header.tensors}
    names = {name: name for name in kept} | dict(header.aliases)
    return [
        (name, *kept[original], math.prod(kept[original][1]) * DTYPE_BYTES[kept[original][0]])
        for name, original in sorted(names.items())
    ]


def _shards(
    stored: list[tuple[str, str, tuple[int, ...], int]],
) -> list[list[tuple[str, str, tuple[int, ...], int]]]:
    shards: list[list[tuple[str, str, tuple[int, ...], int]]] = [[]]
    n_bytes = 0
    for entry in stored:
        if n_bytes + entry[-1] > SHARD_BYTES and shards[-1]:
            shards.append([])
            n_bytes = 0
        shards[-1].append(entry)
        n_bytes += entry[-1]
    return shards
