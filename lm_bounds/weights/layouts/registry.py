"""Which layout a configuration names, and what it makes of the tensors of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lm_bounds.weights.layouts.aqlm import Aqlm
from lm_bounds.weights.layouts.awq import Awq
from lm_bounds.weights.layouts.bitnet import BitNet
from lm_bounds.weights.layouts.bitsandbytes import BitsAndBytes
from lm_bounds.weights.layouts.compressed_tensors import CompressedTensors
from lm_bounds.weights.layouts.fp8 import Fp8
from lm_bounds.weights.layouts.gguf import Gguf
from lm_bounds.weights.layouts.gptq import Gptq, ZeroPoints
from lm_bounds.weights.layouts.hqq import Hqq
from lm_bounds.weights.layouts.protocol import Layout, Misfit, Tensors, split
from lm_bounds.weights.layouts.quip import Quip
from lm_bounds.weights.layouts.torchao import TorchAo
from lm_bounds.weights.layouts.unknown import Unknown
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected, Tensor, Weights

#: Where the metadata of safetensors files stand in a configuration, for layouts that need them.
METADATA = "safetensors_metadata"

#: Where a configuration describes a quantisation, at any depth.
_SECTIONS = ("quantization_config", "compression_config")
_QUIP = "quip_params"
#: Where ``gguf_config`` puts the keys of a GGUF file.
_GGUF = "gguf"
#: The configuration of a base and its adapter; the adapter is never quantised.
_WITH_ADAPTER = {"adapter", "base"}

#: Names of tensors that only quantised layers have.
_SIGNS = frozenset({"qweight", "W_q", "Qidxs", "weight_packed", "_weight_qdata", "SCB", "codebooks"})

_Settings = Mapping[str, Any]


def _gptq(settings: _Settings, _: _Settings) -> Layout | None:
    written = {"gptq": ZeroPoints.LESS_ONE, "gptq_v2": ZeroPoints.EXACT}
    form = settings.get("checkpoint_format", settings.get("format")) or "gptq"
    known = written.get(form) if isinstance(form, str) else None
    return Gptq.from_settings("gptq", settings, known) if known is not None else None


def _auto_round(settings: _Settings, _: _Settings) -> Layout | None:
    form = settings.get("packing_format", "auto_round:auto_gptq")
    if form == "auto_round:auto_awq":
        return Awq("auto-round")
    written = {
        "auto_round:auto_gptq": ZeroPoints.LESS_ONE_WIDE,
        "auto_round:gptq": ZeroPoints.LESS_ONE_WIDE,
        "auto_round": ZeroPoints.EXACT,
        "auto_round:gptqmodel": ZeroPoints.EXACT,
    }
    known = written.get(form) if isinstance(form, str) else None
    return Gptq.from_settings("auto-round", settings, known) if known is not None else None


#: The layouts by the name of their method; each is made of its settings and of the whole configuration.
LAYOUTS: Mapping[str, Callable[[_Settings, _Settings], Layout | None]] = MappingProxyType(
    {
        "aqlm": lambda settings, config: Aqlm(),
        "auto-round": _auto_round,
        "awq": lambda settings, config: Awq.from_settings(settings),
        "bitnet": lambda settings, config: BitNet.from_settings(settings),
        "bitsandbytes": lambda settings, config: BitsAndBytes(),
        "compressed-tensors": lambda settings, config: CompressedTensors.from_settings(settings),
        "fbgemm_fp8": lambda settings, config: Fp8.from_settings("fbgemm_fp8", settings),
        "fp8": lambda settings, config: Fp8.from_settings("fp8", settings),
        "gptq": _gptq,
        "hqq": lambda settings, config: Hqq(),
        "quip#": lambda settings, config: Quip.from_settings(settings),
        "torchao": lambda settings, config: TorchAo(_mapping(config.get(METADATA))),
    }
)


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """The layout that a configuration names.

    Args:
        config: as ``Weights.config`` has it.

    Returns:
        None where it names none; a layout called ``unknown: METHOD, measured as plain bytes`` where it names one that
        is not known here.

    >>> layout_of({"quantization_config": {"quant_method": "gptq", "bits": 4}}).name
    'gptq'
    >>> layout_of({"hidden_size": 64}) is None
    True
    """
    if set(config) == _WITH_ADAPTER and isinstance(config["base"], Mapping):
        return layout_of(config["base"])
    if _GGUF in config:
        return Gguf()
    settings = _settings(config)
    if settings is None:
        quip = config.get(_QUIP)
        return Quip.from_settings(quip) if isinstance(quip, Mapping) else None
    method = settings.get("quant_method", settings.get("method", "without a method"))
    make = LAYOUTS.get(method) if isinstance(method, str) else None
    return (make(settings, config) if make is not None else None) or Unknown(_described(method, settings))


def needs_metadata(config: Mapping[str, Any]) -> bool:
    """Whether the metadata of the files may belong to the description of the model, and not only their tensors."""
    return isinstance(layout_of(config), (TorchAo, Unknown))


def packings(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Packing]:
    """How the tensors of a checkpoint pack their codes, by name; those that do not fit their layout are not there.

    Args:
        tensors: by name; an alias gives the tensor that it repeats. Bytes of small tensors beside the codes are read.
        config: as ``Weights.config`` has it.
    """
    layout = layout_of(config)
    if layout is None:
        return {}
    found = {name: packing_of(layout, tensors, name) for name in tensors}
    return {name: packing for name, packing in found.items() if packing is not None}


def packing_of(layout: Layout, tensors: Tensors, name: str) -> Packing | None:
    """How one tensor packs its codes; None where it packs none, or does not fit its layout.

    Of other tensors only the names, dtypes and shapes are looked at, and the bytes of those that the packing names as
    its ``sources``.
    """
    try:
        packing = layout.packing(tensors, name)
        for source in packing.sources if packing is not None else ():
            # What codes are given by has to come first: it packs nothing that is given by something else.
            inner = layout.packing(tensors, source) if source != name else packing
            if inner is not None and inner.sources:
                return None
    except Misfit:
        return None
    return packing


def with_layout(weights: Weights) -> Weights:
    """The same weights, whose tensors know how they pack codes and what their bytes are expected to be.

    ``Weights.layout`` says which layout it is, and how many of its layers do not fit it; or that tensors look quantised
    while no configuration says how.
    """
    config = json.loads(weights.config)
    layout = layout_of(config) if isinstance(config, dict) else None
    named = weights.by_name()
    if layout is None:
        sign = next((name for name in named if split(name)[1] in _SIGNS), None)
        return weights if sign is None else replace(weights, layout=_undescribed(sign))
    tensors = tuple(_described_tensor(layout, named, tensor) for tensor in weights.tensors)
    return replace(weights, tensors=tensors, layout=_found(layout, named))


def _described_tensor(layout: Layout, tensors: Tensors, tensor: Tensor) -> Tensor:
    packing: Packing | None = packing_of(layout, tensors, tensor.name)
    expected: Expected | None = layout.expected(tensors, tensor.name)
    return tensor if packing is None and expected is None else tensor.described(packing, expected)


def _undescribed(name: str) -> str:
    return Unknown(f"{name} and no configuration that tells how it is quantised").name


def _found(layout: Layout, tensors: Tensors) -> str:
    """The name of the layout, with what of it was not found."""
    if isinstance(layout, Unknown):
        return layout.name
    modules = layout.modules(tensors)
    if not modules:
        return Unknown(f"{layout.name} without its tensors").name
    plain = sum(
        any(_is_plain(layout, tensors, name) for name in layout.coded(module) if name in tensors) for module in modules
    )
    return layout.name if not plain else f"{layout.name}, {plain} of {len(modules)} layers measured as plain bytes"


def _is_plain(layout: Layout, tensors: Tensors, name: str) -> bool:
    """Whether a tensor ought to pack codes and does not fit."""
    try:
        return layout.packing(tensors, name) is not None and packing_of(layout, tensors, name) is None
    except Misfit:
        return True


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The description of the quantisation that is nearest to the top."""
    level: list[Mapping[str, Any]] = [config]
    while level:
        for entries in level:
            for key in _SECTIONS:
                if entries.get(key) is not None:
                    section = entries[key]
                    return section if isinstance(section, Mapping) else {"quant_method": "without a method"}
        level = [value for entries in level for value in entries.values() if isinstance(value, Mapping)]
    return None


def _described(method: object, settings: Mapping[str, Any]) -> str:
    form = settings.get("checkpoint_format") or settings.get("packing_format") or settings.get("version")
    known = isinstance(method, str) and method in LAYOUTS
    text = f"{method} ({form})" if known and isinstance(form, str) else str(method)
    return " ".join(text.split())[:80]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
