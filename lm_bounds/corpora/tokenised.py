"""Text to tokens, once: the ids of a corpus are streamed to a cache file that later runs map into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lm_bounds.corpora import text_documents
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.source_files import files_sha256, source_files
from lm_bounds.corpora.text_documents import TextPiece, text_bytes, text_pieces
from lm_bounds.corpora.token_stream import IntArray, TokenArray, token_chunks
from lm_bounds.errors import CorpusError

_LOG = logging.getLogger(__name__)
_FORMAT = "lm-bounds/tokenised/2"
_MAGIC = b"LMBTOK01"
# magic, number of tokens, number of documents, reserved, sha256 of everything after the header
_HEADER = struct.Struct("<8sQQ8x32s")
_BATCH_CHARS = 1 << 21
_PIECE_OVERHEAD_CHARS = 64
_PROGRESS_FROM_BYTES = 8_000_000


@dataclass(frozen=True)
class TextSource:
    """Documents of text that are to be tokenised.

    Args:
        name: what they are called in a message.
        sha256: of the documents, or of all that they are made from.
        pieces: reads them, piece by piece.
        is_unchanged: whether they are still those of the hash.
        n_bytes: their size; None where it is not known before they are read.
    """

    name: str
    sha256: str
    pieces: Callable[[], Iterator[TextPiece]]
    is_unchanged: Callable[[], bool]
    n_bytes: int | None = None


def tokenise(
    location: Path, tokenizer: Tokenizer, tokenizer_hash: str, *, end_of_text_id: int | None, cache_dir: Path
) -> tuple[TokenArray, IntArray]:
    """The tokens of a text, .jsonl, .parquet or .arrow file or a folder, and where each document of the source starts.

    A document's tokens are those of its pieces, without added special tokens, and one end-of-text token
    after them; a document with the tokens of an earlier one is left out. The result is kept in ``cache_dir``
    under a hash of the text, the tokenizer and the rules.

    Returns:
        ``(tokens, source_starts)``: a read-only memory map of uint32 # shape: (n_tokens,)
        and int64 # shape: (number of documents with tokens,)

    Raises:
        CorpusError: the text cannot be read or has no tokens, or the cache cannot be written.
    """
    files = source_files(location)
    source = TextSource(
        str(location),
        files_sha256(files),
        lambda: text_pieces(files),
        lambda: source_files(location) == files,
        text_bytes(files),
    )
    return tokenise_source(source, tokenizer, tokenizer_hash, end_of_text_id=end_of_text_id, cache_dir=cache_dir)


def tokenise_source(
    source: TextSource, tokenizer: Tokenizer, tokenizer_hash: str, *, end_of_text_id: int | None, cache_dir: Path
) -> tuple[TokenArray, IntArray]:
    """The tokens of documents of text, wherever they are, and where each starts; see ``tokenise``.

    Raises:
        CorpusError: as ``tokenise``.
    """
    key = _cache_key(source, tokenizer_hash, end_of_text_id)
    target = cache_dir / f"{key}.tokens"
    cached = read_token_file(target)
    if cached is None:
        _build(source, tokenizer, end_of_text_id, target)
        cached = read_token_file(target)
    if cached is None:
        raise CorpusError(f"{target} was written but cannot be read back; check the disk of the cache folder")
    return cached


def _cache_key(source: TextSource, tokenizer_hash: str, end_of_text_id: int | None) -> str:
    parts = {
        "format": _FORMAT,
        "piece_chars": text_documents.PIECE_CHARS,
        "files": source.sha256,
        "tokenizer": tokenizer_hash,
        "end_of_text_id": end_of_text_id,
        # The same tokenizer file can give other ids in another version of the code that runs it.
        "software": tokenizer_software(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_software() -> dict[str, str | None]:
    """Versions of the code that runs tokenizers."""
    return {name: _installed_version(name) for name in ("tokenizers", "transformers")}


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_token_file(path: Path) -> tuple[TokenArray, IntArray] | None:
    """Tokens and document starts of a cache file; None where it is missing or damaged.

    Raises:
        CorpusError: it is there but cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER.size)
            n_bytes = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cache_error(path, error) from error
    if len(head) == _HEADER.size:
        magic, n_tokens, n_documents, wanted = _HEADER.unpack(head)
        whole = n_bytes == _HEADER.size + 4 * n_tokens + 8 * n_documents
        if magic == _MAGIC and whole and n_tokens and n_documents:
            tokens = np.memmap(path, dtype="<u4", mode="r", offset=_HEADER.size, shape=(n_tokens,))
            starts = np.fromfile(path, dtype="<i8", offset=_HEADER.size + 4 * n_tokens)
            if _payload_sha256(tokens, starts) == wanted:
                return tokens, starts.astype(np.int64, copy=False)
    _LOG.warning("%s is damaged and is made again", path)
    return None


def _payload_sha256(tokens: TokenArray, starts: IntArray) -> bytes:
    digest = hashlib.sha256()
    for _, chunk in token_chunks(tokens):
        digest.update(np.ascontiguousarray(chunk).data)
    digest.update(starts.data)
    return digest.digest()


def _build(
    source: TextSource,
    tokenizer: Tokenizer,
    end_of_text_id: int | None,
    target: Path,
) -> None:
    """Write the cache file under a name of this process's own, then move it into place in one step."""
    partial = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as sink:
            writer = _TokenWriter(sink, end_of_text_id)
            _tokenise_all(source, tokenizer, writer)
            writer.finish()
        if not writer.n_tokens:
            raise CorpusError(f"{source.name} holds no text that gives tokens; point at text that is not empty")
        if not source.is_unchanged():
            raise CorpusError(f"{source.name} was changed while it was read; run again once nothing writes to it")
        os.replace(partial, target)
    except OSError as error:
        raise cache_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def cache_error(target: Path, error: OSError) -> CorpusError:
    """What to say where a file of the cache can be neither read nor written."""
    return CorpusError(
        f"cache folder {target.parent} cannot be used: {error.strerror or error}; "
        "check its permissions and free space, or choose another"
    )


class _TokenWriter:
    """Appends distinct documents to a cache file and keeps where they start; holds one piece in memory.

    A document whose tokens are those of an earlier one is taken back when it ends: a copy tells nothing new, so that it
    must not add to the number of tokens.
    """

    def __init__(self, sink: BinaryIO, end_of_text_id: int | None) -> None:
        self.n_tokens = 0
        self._sink = sink
        self._end_of_text_id = end_of_text_id
        self._starts = array("q")
        self._document: int | None = None
        self._seen: set[bytes] = set()
        self._content = hashlib.sha256()
        self._digest = self._digest_before = hashlib.sha256()
        sink.write(bytes(_HEADER.size))

    def add(self, document: int, ids: list[int]) -> None:
        """Append the tokens of a piece; a document begins with its first token."""
        if not ids:
            return
        if document != self._document:
            self._end_document()
            self._document = document
            self._starts.append(self.n_tokens)
            self._content, self._digest_before = hashlib.sha256(), self._digest.copy()
        self._write(ids)

    def _write(self, given: list[int]) -> None:
        try:
            ids = np.array(given, dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise CorpusError(f"the tokenizer gave something else than integer ids: {error}") from error
        if ids.min() < 0 or ids.max() >= 1 << 32:
            raise CorpusError(f"the tokenizer gave ids from {ids.min()} to {ids.max()}, not 32-bit unsigned integers")
        payload = ids.astype("<u4").tobytes()
        self._content.update(payload)
        self._digest.update(payload)
        self._sink.write(payload)
        self.n_tokens += ids.size

    def finish(self) -> None:
        """End the last document, then write the document starts and the header."""
        self._end_document()
        starts = np.array(self._starts, dtype="<i8").tobytes()
        self._digest.update(starts)
        self._sink.write(starts)
        self._sink.seek(0)
        self._sink.write(_HEADER.pack(_MAGIC, self.n_tokens, len(self._starts), self._digest.digest()))

    def _end_document(self) -> None:
        if self._document is None:
            return
        content = self._content.digest()
        if content in self._seen:
            self.n_tokens = self._starts.pop()
            self._digest = self._digest_before
            self._sink.seek(_HEADER.size + 4 * self.n_tokens)
            self._sink.truncate()
        else:
            self._seen.add(content)
            if self._end_of_text_id is not None:
                self._write([self._end_of_text_id])


def _tokenise_all(source: TextSource, tokenizer: Tokenizer, writer: _TokenWriter) -> None:
    with _progress(source.n_bytes) as progress:
        for batch in batches(source.pieces()):
            texts = [piece.text for piece in batch]
            all_ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for piece, ids in zip(batch, all_ids, strict=True):
                writer.add(piece.document, ids)
            progress.update(sum(len(text.encode()) for text in texts))


def batches(pieces: Iterator[TextPiece]) -> Iterator[list[TextPiece]]:
    """Lists of pieces with at most ``_BATCH_CHARS`` characters together, or a single longer piece."""
    batch: list[TextPiece] = []
    n_chars = 0
    for piece in pieces:
        piece_chars = len(piece.text) + _PIECE_OVERHEAD_CHARS
        if batch and n_chars + piece_chars > _BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
        batch.append(piece)
        n_chars += piece_chars
    if batch:
        yield batch


def _progress(n_bytes: int | None) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    shown = (n_bytes is None or n_bytes > _PROGRESS_FROM_BYTES) and sys.stderr.isatty()
    return tqdm(total=n_bytes, unit="B", unit_scale=True, desc="tokenising", file=sys.stderr, disable=not shown)
