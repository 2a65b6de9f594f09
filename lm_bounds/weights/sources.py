"""What a MODEL argument may be, and which reader it goes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.models import BUILT_IN_MODELS
from lm_bounds.weights.adapters import Adapter, read_adapter, with_adapter
from lm_bounds.weights.checkpoint import read_checkpoint
from lm_bounds.weights.hub import cached_snapshot, fetch_adapter, fetch_checkpoint, split_revision
from lm_bounds.weights.protocol import Weights

#: Reads one file.
Reader = Callable[[Path], Weights]

_PEFT = ",peft="
_PACKAGE = "lm_bounds/"
# Names that end so are files: none of them is looked for on the Hub.
_FILE_SUFFIXES = (".safetensors", ".gguf", ".lmb", ".bin", ".pt", ".pth", ".json")


def read_source(source: str | Path, readers: Mapping[str, Reader] = MappingProxyType({})) -> Weights:
    """Read the weights that a MODEL argument names.

    The first of these that fits:

        DIR, FILE             a checkpoint's directory, or one file whose suffix has a reader
        DIR[@REVISION]        ``models--ORG--NAME`` of a cache of the Hub
        BASE,peft=ADAPTER     a base and its adapter; BASE is anything but such a pair, ADAPTER a directory or a Hub id
        NAME                  a model that comes with the package, also as ``lm_bounds/NAME``
        ORG/NAME[@REVISION]   a model on the Hub; REVISION is a branch, a tag or a commit

    What exists on disk under the whole text goes first, so that a name with a comma or an ``@`` can be given.

    Args:
        source: the argument.
        readers: by suffix, for files that ``read_checkpoint`` does not read.

    Returns:
        Weights whose ``source`` says where they are from: for the Hub with the commit, ``ORG/NAME@COMMIT``.

    Raises:
        WeightsError: nothing is there, the Hub cannot give it, or it cannot be read.
        UsageError: the argument names two adapters or half a pair.
    """
    text = str(source)
    if not os.path.exists(text) and _PEFT in text:
        base, _, adapter = text.partition(_PEFT)
        if not base or not adapter or _PEFT in adapter:
            raise UsageError(f"{text!r} must be BASE,peft=ADAPTER with one base and one adapter")
        return with_adapter(_read_base(base, readers), _read_adapter(adapter))
    return _read_base(text, readers)


def _read_base(text: str, readers: Mapping[str, Reader]) -> Weights:
    path = Path(text)
    if os.path.exists(text):
        cached = cached_snapshot(path, None)
        if cached is not None:
            return replace(read_checkpoint(cached.folder), source=cached.name)
        return path_reader(path, readers)(path)
    name = text.removeprefix(_PACKAGE)
    if name in BUILT_IN_MODELS:
        return replace(read_checkpoint(BUILT_IN_MODELS[name].path), source=_PACKAGE + name)
    place, revision = split_revision(text)
    if os.path.isdir(place):
        cached = cached_snapshot(Path(place), revision)
        if cached is not None:
            return replace(read_checkpoint(cached.folder), source=cached.name)
    _refuse_path(text, place, "a directory or a .safetensors file")
    snapshot = fetch_checkpoint(place, revision)
    return replace(read_checkpoint(snapshot.folder), source=snapshot.name)


def path_reader(path: Path, readers: Mapping[str, Reader]) -> Reader:
    """The reader of what is at a path: for files by their suffix, ``read_checkpoint`` where none is given."""
    return read_checkpoint if path.is_dir() else readers.get(path.suffix, read_checkpoint)


def _read_adapter(text: str) -> Adapter:
    place, revision = split_revision(text)
    for existing, chosen in ((text, None), (place, revision)):
        if os.path.exists(existing):
            cached = cached_snapshot(Path(existing), chosen)
            if cached is not None:
                return replace(read_adapter(cached.folder), source=cached.name)
            if chosen is None:
                return read_adapter(Path(existing))
    _refuse_path(text, place, "the directory of an adapter")
    snapshot = fetch_adapter(place, revision)
    return replace(read_adapter(snapshot.folder), source=snapshot.name)


def _refuse_path(text: str, place: str, wanted: str) -> None:
    """What looks like a path is not looked for on the Hub, whose answer would hide a misspelt name."""
    is_path = place.startswith((".", "/", "~")) or "\\" in place or place.count("/") > 1
    if not place or is_path or place.endswith(_FILE_SUFFIXES):
        raise WeightsError(f"no checkpoint at {text}: give {wanted} that exists, or a Hub id")
