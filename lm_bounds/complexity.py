"""Where the size of a model comes from: a compressor, a file that holds the model, or a declaration."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lm_bounds.codelength import ARTIFACT, DECLARED, CodeLength, LedgerItem
from lm_bounds.compressors import get_compressor, measure, measure_given
from lm_bounds.compressors.container import read_model
from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.settings import Settings
from lm_bounds.weights import Tensor, Weights
from lm_bounds.weights.safetensors_file import read_bytes

_BYTE_BITS = 8


def check_size_settings(settings: Settings) -> None:
    """Refuses settings of which no size can come.

    Raises:
        UsageError: for an unknown compressor or one that estimates, a missing artifact, or two sizes at once.
    """
    sizes = [name for name in ("code_bits", "artifact", "given") if getattr(settings, name) is not None]
    if len(sizes) > 1:
        raise UsageError(f"{sizes[0]} and {sizes[1]} were both given, and each says what the size is: pass one of them")
    if not get_compressor(settings.compressor).exact:
        raise UsageError(f"compressor {settings.compressor!r} estimates: use one whose size a decoder can read")
    if settings.artifact is not None and not Path(settings.artifact).expanduser().is_file():
        raise UsageError(f"no artifact at {settings.artifact!r}: give a file that exists")


def complexity(weights: Weights, settings: Settings) -> CodeLength:
    """The size of a model, as the settings say.

    Args:
        weights: of the model that is evaluated; their hash is part of every size.
        settings: ``code_bits`` for a declared size, ``artifact`` for that of a file, else ``compressor``, relative to
            the model ``given`` where there is one.

    Raises:
        LmBoundsError: the weights or the artifact cannot be read, or the settings are refused.
    """
    check_size_settings(settings)
    if settings.code_bits is not None:
        return _unmeasured(weights, DECLARED, settings.code_bits, "upper bound declared by the operator")
    if settings.artifact is not None:
        size, sha256 = _hashed(Path(settings.artifact).expanduser())
        return _unmeasured(weights, ARTIFACT, float(_BYTE_BITS * size), "file that holds the model", sha256)
    if settings.given is not None:
        return measure_given(weights, read_model(settings.given), settings.compressor)
    return measure(weights, settings.compressor)


def _unmeasured(weights: Weights, source: str, bits: float, item: str, artifact: str | None = None) -> CodeLength:
    """A size that no compressor gives."""
    return CodeLength(
        compressor=source,
        version="",
        bits=bits,
        ledger=(LedgerItem(item, bits),),
        n_parameters=weights.n_parameters,
        n_tensors=len(weights.tensors),
        stored_bytes=weights.stored_bytes,
        sha256=weights.sha256(),
        seconds=0.0,
        exact=source != DECLARED,
        source=source,
        artifact_sha256=artifact,
    )


def _hashed(path: Path) -> tuple[int, str]:
    """Bytes of a file, and their SHA-256."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"cannot read the artifact {path}: {error.strerror or error}") from error
    return size, Tensor("artifact", "U8", (size,), partial(read_bytes, path, 0)).digest.hex()
