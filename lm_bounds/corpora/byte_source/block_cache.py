"""What was read from afar, kept on disk in blocks, so that it is not fetched twice.

Blocks are kept under the identity of their file (its URL with its ETag or object id, and its size): a file that changes
has other blocks. The folder grows by one file of ``BLOCK_BYTES`` for each block that is read, and by nothing else:
about 32 MB for 1,000 draws from a corpus of short documents, and the length of its document for a draw from a longer
one. Nothing is removed; the folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lm_bounds.errors import CorpusError
from lm_bounds.home import write_atomically

BLOCK_BYTES = 1 << 15
_DIGEST_BYTES = 16


class BlockCache:
    """Blocks by the key of their file and their number.

    Args:
        folder: that holds them, made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, key: str, number: int) -> Path:
        return self._folder / key[:2] / key / f"{number:x}"

    def has(self, key: str, number: int, n_bytes: int) -> bool:
        """Whether a block of that size is there; it may still be damaged."""
        try:
            return self._path(key, number).stat().st_size == _DIGEST_BYTES + n_bytes
        except OSError:
            return False

    def get(self, key: str, number: int) -> bytes | None:
        """A block; None where it is missing or damaged."""
        try:
            stored = self._path(key, number).read_bytes()
        except OSError:
            return None
        content = stored[_DIGEST_BYTES:]
        return content if stored[:_DIGEST_BYTES] == _digest(content) else None

    def put(self, key: str, number: int, content: bytes) -> None:
        """Keeps a block.

        Raises:
            CorpusError: the folder cannot be written to.
        """
        self.write(self._path(key, number), _digest(content) + content)

    def write(self, target: Path, content: bytes) -> None:
        """Writes a file, which is there whole or not at all.

        Raises:
            CorpusError: the folder cannot be written to.
        """
        try:
            write_atomically(target, content)
        except OSError as error:
            raise CorpusError(
                f"cache folder {self._folder} cannot be used: {error.strerror or error}; check its permissions and "
                "free space, or set LM_BOUNDS_HOME"
            ) from error


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
