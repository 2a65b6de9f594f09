"""Non-vacuous generalization bounds for language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lm_bounds._version import __version__

if TYPE_CHECKING:
    from lm_bounds import bounds
    from lm_bounds.certificates import verify
    from lm_bounds.errors import LmBoundsError
    from lm_bounds.pipeline import code_length
    from lm_bounds.tasks.api import certify

__all__ = ["LmBoundsError", "__version__", "bounds", "certify", "code_length", "verify"]

# Loaded on first use (PEP 562), so that `import lm_bounds` stays cheap.
_HOME = {
    "LmBoundsError": "lm_bounds.errors",
    "certify": "lm_bounds.tasks.api",
    "code_length": "lm_bounds.pipeline",
    "verify": "lm_bounds.certificates",
}


def __getattr__(name: str) -> object:
    if name == "bounds":
        return importlib.import_module("lm_bounds.bounds")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
