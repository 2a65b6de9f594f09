"""Where this package keeps what it makes: the user's cache, or the folder that LM_BOUNDS_HOME names."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``$LM_BOUNDS_HOME``, else ``~/.cache/lm_bounds``."""
    chosen = os.environ.get("LM_BOUNDS_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache" / "lm_bounds"
