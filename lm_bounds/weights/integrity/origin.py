"""Whether the files or the loaded module say what a language model is, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_bounds.errors import WeightsError
from lm_bounds.weights.checkpoint import CONFIG, INDEX, SINGLE, read_checkpoint, read_json, tensor_names
from lm_bounds.weights.config import quantisation_method
from lm_bounds.weights.integrity.fingerprint import fingerprint
from lm_bounds.weights.integrity.loaded import check_loaded, check_names
from lm_bounds.weights.module import read_module
from lm_bounds.weights.protocol import Weights


@dataclass(frozen=True)
class Origin:
    """The weights that are measured of a language model, and what tells later that it still is the same.

    Args:
        weights: of the files of a quantised checkpoint, else of the module.
        state: fingerprint of the module; None where its state dict says as much.
        compared: names of the layers whose function was compared with the files, for ``check_unmeasured``.
    """

    weights: Weights
    state: str | None = None
    compared: frozenset[str] = frozenset()


def weights_of(lm: Any, warm_up: Callable[[], object]) -> Origin:
    """The weights that say what a language model is, after checking that it holds them.

    Of a checkpoint that is stored quantised these are the tensors of its files, since loading may unpack, repack or
    round them, and the model is compared with them. Of every other model, dense or quantised while it was loaded, they
    are the tensors of the module, which of a checkpoint must all be in its files.

    Args:
        lm: an ``lm_eval.models.huggingface.HFLM``, loaded and not used yet.
        warm_up: runs a forward pass, by which a quantised model becomes what it stays.

    Raises:
        WeightsError: the model does not hold what its files do, or cannot be read.
    """
    model = lm.model
    pretrained = getattr(lm, "pretrained", None)
    directory = checkpoint_directory(pretrained, _revision(lm)) if isinstance(pretrained, str) else None
    adapted = bool(getattr(lm, "peft", None) or getattr(lm, "delta", None) or getattr(model, "peft_config", None))
    files = quantised_files(directory) if directory is not None else None
    if files is not None and adapted:
        raise WeightsError(
            f"an adapter on the quantised checkpoint {str(files)!r} cannot be measured: evaluate the checkpoint alone,"
            " or the adapter on the unquantised one"
        )
    if files is not None:
        weights = read_checkpoint(files)
        checked = check_loaded(weights, model, warm_up)
        return Origin(weights, fingerprint(model), frozenset(checked.layers))
    if directory is not None and not adapted and any((directory / name).is_file() for name in (SINGLE, INDEX)):
        check_names(str(directory), tensor_names(directory), model)
    weights = read_module(model)
    return Origin(weights, _settled(weights, model, warm_up) if _is_quantised(model) else None)


def _is_quantised(model: Any) -> bool:
    config = getattr(model, "config", None)
    declared = getattr(config, "quantization_config", None) or getattr(model, "hf_quantizer", None)
    return declared is not None or bool(getattr(model, "hqq_quantized", False))


def _settled(weights: Weights, model: Any, warm_up: Callable[[], object]) -> str:
    """The fingerprint of a model after a forward pass, which must leave the tensors that are measured as they are."""
    before = weights.sha256()
    warm_up()
    again = Weights(
        weights.source, tuple(replace(tensor) for tensor in weights.tensors), weights.aliases, weights.config
    )
    if again.sha256() != before:
        raise WeightsError(
            "the first forward pass changes the tensors of this quantised model: save it, and evaluate its directory"
        )
    return fingerprint(model)


def unchanged(model: Any, sha256: str, state: str | None) -> bool:
    """Whether a module still is what it was.

    Args:
        model: the module.
        sha256: of the weights that were measured.
        state: as in ``Origin``.
    """
    if state is not None:
        return fingerprint(model) == state
    return read_module(model).sha256() == sha256


def checkpoint_directory(pretrained: str, revision: str | None) -> Path | None:
    """The directory of a checkpoint: itself, or where the Hub's snapshot is kept; None where there is none.

    Args:
        pretrained: a directory or a Hub id.
        revision: of the Hub.
    """
    if Path(pretrained).is_dir():
        return Path(pretrained)
    from transformers.utils import cached_file

    try:
        found = cached_file(pretrained, CONFIG, revision=revision, local_files_only=True)
    except OSError:  # what transformers raises where nothing is there; it may also have been loaded without a cache
        return None
    return None if found is None else Path(found).parent


def quantised_files(directory: Path) -> Path | None:
    """What of a directory is a quantised checkpoint: all of it, a single .gguf file, or nothing (None).

    Raises:
        WeightsError: there are .gguf files, and which one is meant is not to be seen.
    """
    config = directory / CONFIG
    if config.is_file():
        return directory if quantisation_method(read_json(config)) is not None else None
    found = sorted(directory.glob("*.gguf"))
    if len(found) > 1:
        raise WeightsError(
            f"{directory} holds {len(found)} .gguf files: put the one that is evaluated into a directory of its own"
        )
    return found[0] if found else None


def _revision(lm: Any) -> str | None:
    """The commit that was loaded, where transformers recorded it; else the one that was asked for."""
    return getattr(lm.model.config, "_commit_hash", None) or getattr(lm, "revision", None)
