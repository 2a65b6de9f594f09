"""The files of a registered corpus, on the Hub or in a copy of them."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from lm_bounds.corpora.byte_source import ByteSource, HubPlace, is_remote, open_bytes
from lm_bounds.corpora.spec import HubFiles
from lm_bounds.errors import CorpusError


def hub_place(hub: HubFiles) -> str:
    """Where files are on the Hub.

    >>> hub_place(HubFiles("org/name", "main", "train/*.jsonl", None))
    'hf://datasets/org/name@main/train/*.jsonl'
    """
    return str(HubPlace(hub.repository, hub.revision, hub.files))


def open_stored_files(corpus_id: str, hub: HubFiles, path: str | None, cache_dir: Path) -> ByteSource:
    """The files of a corpus, whose numbers follow each other.

    Args:
        corpus_id: its id.
        hub: where its files are.
        path: of a copy, a folder or a URL; None for the Hub.
        cache_dir: folder for what is read from afar.

    Raises:
        CorpusError: the files cannot be read, or are not those of the corpus.
    """
    if path is not None:
        source = open_bytes(_folder_of_copy(hub, path), cache_dir, hub.pattern)
    else:
        try:
            source = open_bytes(hub_place(hub), cache_dir, hub.pattern)
        except CorpusError as error:
            raise CorpusError(
                f"corpus {corpus_id!r}, files {hub.pattern} of {hub.repository} on the Hub: {error}"
            ) from error
    _check_numbers(source, hub)
    return source


def folder_of(path: str | None) -> Path | None:
    """The folder of a copy on this machine; None where there is none."""
    if path is None or is_remote(path):
        return None
    location = Path(path).expanduser()
    return location if location.is_dir() else location.parent


def _folder_of_copy(hub: HubFiles, path: str) -> str:
    """The folder of a copy that has the files: the repository's own one in a copy of the whole repository."""
    if is_remote(path) or not hub.folder:
        return path
    location = Path(path).expanduser()
    inner = location / hub.folder
    beside = location.is_dir() and any(fnmatch.fnmatchcase(each.name, hub.pattern) for each in location.iterdir())
    return str(inner) if inner.is_dir() and not beside else path


def _check_numbers(source: ByteSource, hub: HubFiles) -> None:
    """What the first ``*`` stands for in names is a number, each once, with none left out between them.

    Raises:
        CorpusError: naming the file.
    """
    before, star, after = hub.pattern.partition("*")
    if not star:
        return
    numbered = re.compile(f"{re.escape(before)}(\\d+){fnmatch.translate(after)}")
    numbers: set[int] = set()
    for file in source.files:
        found = numbered.fullmatch(file.name.rpartition("/")[2])
        if found is None or int(found[1]) in numbers:
            raise CorpusError(
                f"{file.place} is not one of the numbered shards {hub.pattern}, or one that is there twice"
            )
        numbers.add(int(found[1]))
    missing = set(range(min(numbers), max(numbers))) - numbers
    if missing:
        raise CorpusError(
            f"{source.source}: shard {min(missing)} of {hub.pattern} is missing; all between two are needed"
        )
    if hub.n_files is not None and len(numbers) > hub.n_files:
        raise CorpusError(
            f"{source.source}: {len(numbers)} files fit {hub.pattern}, and the corpus has {hub.n_files}; keep others "
            "in a folder of their own"
        )
