"""Where this package keeps what it makes: the user's cache, or the folder that LM_BOUNDS_HOME names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lm_bounds.errors import UsageError


def home() -> Path:
    """``$LM_BOUNDS_HOME``, else ``~/.cache/lm_bounds``."""
    chosen = os.environ.get("LM_BOUNDS_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache" / "lm_bounds"


def certificate_root(chosen: str | None) -> Path:
    """Where certificates go: the folder that was chosen, else ``certificates`` in this package's home."""
    return Path(chosen).expanduser() if chosen else home() / "certificates"


def check_writable(folder: Path) -> None:
    """Makes a folder where it is missing and tries to write to it.

    Raises:
        UsageError: when that cannot be done.
    """
    if folder.is_file():
        raise UsageError(f"certificates cannot be written to {str(folder)!r}, a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"certificates cannot be written to {str(folder)!r} ({error.strerror}): pass another certificates=FOLDER, "
            "or set LM_BOUNDS_HOME"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, then renames it: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
