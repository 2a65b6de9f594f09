"""Which files of a folder hold the documents of a corpus, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lm_bounds.corpora.byte_source import refuse_pointer, unreadable
from lm_bounds.errors import CorpusError

TABLE_SUFFIXES = (".parquet", ".arrow")
_DESCRIPTIONS = {"README.md", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus, and what shows that it was written to in the meantime."""

    path: Path
    name: str
    n_bytes: int
    modified_ns: int


def source_files(location: Path) -> tuple[SourceFile, ...]:
    """The file itself, or every regular file below a folder in the order of the relative POSIX paths.

    Hidden files and folders and ``__pycache__`` are left out, and beside tables what is written about them. Links are
    followed; a file or folder that has two names below the folder is read once, under the first.

    Raises:
        CorpusError: something cannot be listed, or is of a format that is not text.
    """
    if not location.is_dir():
        return (_source_file(location, location.name),)
    names = without_descriptions(sorted(names_below(location)))
    found: list[SourceFile] = []
    seen: set[tuple[int, int]] = set()
    for name in names:
        path = location / name
        status = _status(path)
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or identity in seen:
            continue
        seen.add(identity)
        if path.suffix.lower() in (".bin", ".npy"):
            raise CorpusError(
                f"{path}: a token file inside a folder of text; name the file itself as the corpus, or keep token "
                "files in a folder of their own"
            )
        found.append(_source_file(path, name))
    return tuple(found)


def names_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all visible files; each folder is entered once, so that links cannot loop.

    Raises:
        CorpusError: something cannot be listed.
    """
    pending = [""]
    entered: set[tuple[int, int]] = set()
    while pending:
        prefix = pending.pop()
        status = _status(folder / prefix)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        folders = []
        for entry in _listed(folder / prefix):
            if is_skipped(entry.name):
                continue
            if _is_folder(entry):
                folders.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name
        pending += sorted(folders, reverse=True)


def is_skipped(name: str) -> bool:
    """Whether a file or folder of that name is left out of a folder's documents.

    >>> is_skipped(".git"), is_skipped("__pycache__"), is_skipped("notes.txt")
    (True, True, False)
    """
    return name.startswith(".") or name == "__pycache__"


def suffix_of(name: str) -> str:
    """The suffix of a file, which says what it holds, in lower case."""
    return PurePosixPath(name).suffix.lower()


def is_plain_text(name: str) -> bool:
    """Whether a file is a document as it stands."""
    return suffix_of(name) not in (".jsonl", *TABLE_SUFFIXES)


def without_descriptions(names: list[str], *, is_data_set: bool = False) -> list[str]:
    """The names of files but, in a data set, its card and what ``datasets`` writes beside its tables.

    Args:
        names: of files.
        is_data_set: whether they are known to be one; files with tables among them are.

    >>> without_descriptions(["a.arrow", "state.json"]), without_descriptions(["a.txt", "state.json"])
    (['a.arrow'], ['a.txt', 'state.json'])
    """
    if not is_data_set and not any(suffix_of(name) in TABLE_SUFFIXES for name in names):
        return names
    return [name for name in names if PurePosixPath(name).name not in _DESCRIPTIONS]


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise CorpusError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it as a file gives the error that names it
        return False


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read: {error.strerror}; repair or remove it (a broken link, or no permission)"
        ) from error


def _source_file(path: Path, name: str) -> SourceFile:
    status = _status(path)
    return SourceFile(path, name, status.st_size, status.st_mtime_ns)


def files_sha256(files: tuple[SourceFile, ...]) -> str:
    """Hash of names, sizes and contents of the files, in their order.

    Raises:
        CorpusError: a file cannot be read, or is a pointer of git-lfs.
    """
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        try:
            with file.path.open("rb") as stream:
                block = stream.read(_READ_BYTES)
                refuse_pointer(str(file.path), file.n_bytes, block)
                while block:
                    content.update(block)
                    block = stream.read(_READ_BYTES)
        except OSError as error:
            raise unreadable(file.path, error) from error
        digest.update(json.dumps([file.name, file.n_bytes, content.hexdigest()]).encode())
    return digest.hexdigest()
