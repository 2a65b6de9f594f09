"""Documents of text: a text file, a .jsonl file, or a folder of both, read piece by piece."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from lm_bounds.errors import CorpusError

PIECE_CHARS = 1 << 20
_READ_BYTES = 1 << 20
_SUPPORTED = "supported are UTF-8 text files, folders of them, .jsonl and token .bin files"


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus, and what shows that it was written to in the meantime."""

    path: Path
    name: str
    n_bytes: int
    modified_ns: int


class TextPiece(NamedTuple):
    """A part of a document; pieces of one document follow each other."""

    document: int
    text: str


def source_files(location: Path) -> tuple[SourceFile, ...]:
    """The file itself, or every regular file below a folder in the order of the relative POSIX paths.

    Hidden files and folders and ``__pycache__`` are left out. Links are followed; a file or folder that has
    two names below the folder is read once, under the first.

    Raises:
        CorpusError: something cannot be listed, or is of a format that is not text.
    """
    if not location.is_dir():
        return (_source_file(location, location.name),)
    names = sorted(names_below(location))
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
    if path.suffix.lower() == ".parquet":
        raise CorpusError(f"{path}: .parquet is not read; {_SUPPORTED}; write the text column to a .jsonl file")
    status = _status(path)
    return SourceFile(path, name, status.st_size, status.st_mtime_ns)


def files_sha256(files: tuple[SourceFile, ...]) -> str:
    """Hash of names, sizes and contents of the files, in their order.

    Raises:
        CorpusError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        try:
            with file.path.open("rb") as stream:
                while block := stream.read(_READ_BYTES):
                    content.update(block)
        except OSError as error:
            raise _unreadable(file, error) from error
        digest.update(json.dumps([file.name, file.n_bytes, content.hexdigest()]).encode())
    return digest.hexdigest()


def text_pieces(files: tuple[SourceFile, ...]) -> Iterator[TextPiece]:
    """The pieces of all documents in their order; a document without text has none.

    Raises:
        CorpusError: a file cannot be read, is not UTF-8 text, or has a line that is no document.
    """
    document = 0
    for file in files:
        try:
            with file.path.open(encoding="utf-8-sig", errors="strict", newline="\n") as stream:
                is_jsonl = file.path.suffix.lower() == ".jsonl"
                for text in _json_lines(file, stream) if is_jsonl else [stream]:
                    for piece in split_pieces(text):
                        if not is_jsonl and "\0" in piece:
                            raise CorpusError(f"{file.path} is not text (it has NUL bytes); {_SUPPORTED}")
                        yield TextPiece(document, piece)
                    document += 1
        except UnicodeDecodeError as error:
            raise CorpusError(f"{file.path} is not UTF-8 text ({error.reason}); {_SUPPORTED}") from error
        except OSError as error:
            raise _unreadable(file, error) from error


def split_pieces(stream: TextIO) -> Iterator[str]:
    """Cut a text into pieces: ``PIECE_CHARS`` characters and the rest of that line, at most as many again.

    Where a piece ends depends on the text up to there only, and bounds the memory that tokenising it takes.
    """
    while piece := stream.read(PIECE_CHARS):
        if not piece.endswith("\n"):
            piece += stream.readline(PIECE_CHARS)
        yield piece


def _json_lines(file: SourceFile, stream: TextIO) -> Iterator[TextIO]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield io.StringIO(_text_of_line(line, f"{file.path}:{number}"), newline="\n")


def _text_of_line(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise CorpusError(f'{where}: found a JSON {type(row).__name__}, need an object with a string field "text"')
    if not isinstance(row.get("text"), str):
        fields = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(row.items())[:10])
        raise CorpusError(f'{where}: need a string field "text", found the fields: {fields or "none"}')
    text: str = row["text"]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(f'{where}: "text" holds half a surrogate pair, which is no character; repair it') from error
    return text


def _unreadable(file: SourceFile, error: OSError) -> CorpusError:
    return CorpusError(
        f"{file.path} cannot be read: {error.strerror or error}; check that it exists and its permissions"
    )
