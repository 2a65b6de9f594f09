"""What cells in files have in common, whatever the files hold."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lm_bounds.corpora.byte_source import ByteSource
from lm_bounds.corpora.token_stream import IntArray


@dataclass(frozen=True, eq=False)
class StoredCells(ABC):
    """Cells in files that follow each other.

    Args:
        stored: the bytes of the files.
        order: their numbers, in the order in which they follow each other.
    """

    stored: ByteSource
    order: Sequence[int]

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.stored.source

    @property
    def identity(self) -> str:
        """What would be another if a file were changed."""
        return files_identity(self.stored, self.order)

    @cached_property
    def file_bytes(self) -> IntArray:
        """The sizes of the files. # shape: (files,)"""
        return np.array([self.stored.files[number].n_bytes for number in self.order], dtype=np.int64)

    @cached_property
    def starts(self) -> IntArray:
        """First slots of parts (files, row groups, record batches), and the number of slots. # shape: (parts + 1,)"""
        return np.concatenate([[0], np.cumsum(self.part_slots(), dtype=np.int64)])

    @abstractmethod
    def part_slots(self) -> IntArray:
        """How many slots each part has. # shape: (parts,)"""

    @property
    def number(self) -> int:
        """How many slots there are."""
        return int(self.starts[-1])

    def part_of(self, slot: IntArray) -> IntArray:
        """The part that holds each slot."""
        return np.searchsorted(self.starts, slot, side="right") - 1


def sizes_sha256(sizes: IntArray) -> str:
    """Hash of numbers of slots, in their order."""
    return hashlib.sha256(np.asarray(sizes).astype("<i8").tobytes()).hexdigest()


def files_identity(source: ByteSource, order: Sequence[int]) -> str:
    """What would be another if one of some files were changed."""
    return hashlib.sha256(json.dumps([source.files[number].identity for number in order]).encode()).hexdigest()
