"""Packing weights into one file, and unpacking it."""

from __future__ import annotations

import functools
import math
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.folder import CheckpointFolder, all_tensors
from lm_bounds.compressors.container.header import Header, header_bytes, packing_compressor, read_header
from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sequence import read_tensors, write_tensors
from lm_bounds.compressors.container.sink import Sink
from lm_bounds.compressors.container.source import FileBytes, Source
from lm_bounds.compressors.registry import OnBytes
from lm_bounds.errors import WeightsError
from lm_bounds.weights.layouts import with_layout
from lm_bounds.weights.protocol import DTYPE_BYTES, Load, Weights
from lm_bounds.weights.sources import read_source

#: How a packed model's file is called.
SUFFIX = ".lmb"

# A file that says that it unpacks to more than so many bytes for each of its own, and to more than the second number,
# is taken for a bomb: weights with one bit of information in 250 bytes, nearly all of them zero, are no model.
_MOST_RATIO = 2000
_ALWAYS_BYTES = 1 << 30


@dataclass(frozen=True)
class Unpacked:
    """What has been restored from a file.

    Args:
        n_tensors: number of distinct tensors.
        stored_bytes: their bytes.
        sha256: of the weights.
    """

    n_tensors: int
    stored_bytes: int
    sha256: str


def pack(
    weights: Weights, compressor_name: str, path: str | Path, on_bytes: OnBytes = lambda activity, n_bytes: None
) -> int:
    """Write weights as what a compressor measures.

    Args:
        weights: anything that can be measured.
        compressor_name: ``arithmetic`` or ``best``.
        path: of the file, which is replaced if it exists.
        on_bytes: called with ``"pack"`` and how many bytes more of the weights have been packed.

    Returns:
        Bytes of the file: within 0.1 % and 1 kB of the measured bits.

    Raises:
        UsageError: the compressor is another one.
        WeightsError: the file cannot be written.
    """
    compressor = packing_compressor(compressor_name)
    place = Path(path)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(header_bytes(weights, compressor))
            sink = Sink(file.write)
            write_tensors(weights.tensors, compressor, sink, on_bytes)
            sink.close()
            n_bytes = file.tell()
        temporary.replace(place)
    except OSError as error:
        raise WeightsError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return n_bytes


def unpack(
    path: str | Path,
    folder: str | Path,
    max_bytes: int | None = None,
    on_bytes: OnBytes = lambda activity, n_bytes: None,
) -> Unpacked:
    """Restore a packed model as a safetensors checkpoint, bit for bit.

    Args:
        path: a file that ``pack`` wrote.
        folder: where the checkpoint goes: a new one, or an empty one; it appears when everything has been checked.
        max_bytes: largest size of the tensors; None for what is less suspect than a bomb and fits the disk.
        on_bytes: called with ``"unpack"`` and how many bytes more of the weights have been restored.

    Returns:
        What has been restored.

    Raises:
        WeightsError: the file is damaged or no packed model, its tensors are not those of its hash or too large, or the
            folder is not empty or cannot be written. Nothing is left behind.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise WeightsError(f"{target} is there and not an empty folder: name a new one")
    if not target.absolute().parent.is_dir():
        raise WeightsError(f"{target.absolute().parent} is no folder: make it first")
    temporary = target.absolute().parent / f".{target.absolute().name}.{secrets.token_hex(4)}"
    with _system_errors(path, target):
        temporary.mkdir()
        try:
            weights = _restore(Path(path), temporary, max_bytes, on_bytes)
            if target.exists():
                target.rmdir()
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(len(weights.tensors), weights.stored_bytes, weights.sha256())


def unpacked_bytes(path: str | Path) -> int:
    """Bytes of the distinct tensors that a packed model says that it has.

    Raises:
        WeightsError: the file cannot be read, or its header is damaged.
    """
    place = Path(path)
    with _system_errors(place, place.parent), place.open("rb") as opened:
        header = read_header(FileBytes(opened, place.stat().st_size))
    return sum(math.prod(shape) * DTYPE_BYTES[dtype] for _, dtype, shape in header.tensors)


def read_packed(path: str | Path, max_bytes: int | None = None) -> Weights:
    """The weights of a packed model, decoded into a temporary folder that is deleted when they are not used any more.

    Raises:
        WeightsError: as ``unpack``.
    """
    scratch = Path(tempfile.mkdtemp(prefix="lm-bounds-"))
    keeper = _Keeper()
    delete = weakref.finalize(keeper, shutil.rmtree, scratch, ignore_errors=True)
    try:
        with _system_errors(path, scratch):
            weights = _restore(Path(path), scratch, max_bytes, lambda activity, n_bytes: None)
    except BaseException:
        delete()
        raise
    kept = []
    for tensor in weights.tensors:
        kept.append(replace(tensor, load=functools.partial(_kept_load, keeper, tensor.load)))
        vars(kept[-1])["digest"] = tensor.digest
    return replace(weights, tensors=tuple(kept))


def read_model(source: str | Path) -> Weights:
    """Read the weights that a MODEL argument names: a packed model, or anything that ``read_source`` reads.

    Raises:
        WeightsError: as ``read_source`` or ``read_packed``.
        UsageError: the argument is of another form.
    """
    return read_source(source, {SUFFIX: read_packed})


class _Keeper:
    """Lives as long as something reads the temporary folder."""


def _kept_load(keeper: _Keeper, load: Load, start: int, stop: int) -> NDArray[np.uint8]:
    return load(start, stop)


@contextmanager
def _system_errors(path: str | Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.filename or f"{path} or write {folder}"
        raise WeightsError(f"cannot read {what}: {error.strerror or error}") from error


def _restore(path: Path, folder: Path, max_bytes: int | None, on_bytes: OnBytes) -> Weights:
    """Decodes a file into an empty folder, and checks it."""
    n_bytes = path.stat().st_size
    with path.open("rb") as opened:
        file = FileBytes(opened, n_bytes)
        header = read_header(file)
        _check_size(header, n_bytes, folder, max_bytes)
        files = CheckpointFolder(folder, header)
        try:
            files.create()
            weights = files.weights(str(path))
            source = Source(file)
            read_tensors(weights, header.compressor, source, files.write, on_bytes)
            source.close()
        finally:
            files.close()
    weights = with_layout(weights)
    if weights.sha256() != header.sha256:
        raise broken("the tensors are not those of its SHA-256")
    return weights


def _check_size(header: Header, file_bytes: int, folder: Path, max_bytes: int | None) -> None:
    """Refuses what is larger than it may be, or than the disk."""
    n_bytes = sum(size for *_, size in all_tensors(header))
    if max_bytes is None and n_bytes > max(_ALWAYS_BYTES, _MOST_RATIO * file_bytes):
        raise WeightsError(
            f"the packed file of {file_bytes} bytes says that it unpacks to {n_bytes} bytes, which no model does; if"
            f" you trust it: lm-bounds unpack FILE DIR --max-bytes {n_bytes}"
        )
    if max_bytes is not None and n_bytes > max_bytes:
        raise WeightsError(f"the packed file unpacks to {n_bytes} bytes, more than the {max_bytes} that are allowed")
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise WeightsError(f"the packed file unpacks to {n_bytes} bytes, but the disk of {folder} has {free} left")
