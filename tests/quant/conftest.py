"""Small random models, quantised and saved by the real libraries on the CPU; each is made once.

The tests of this folder are collected where these libraries are: `make test-quant` installs them.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before the libraries read them. AQLM's kernel for CPUs adds to one number from several threads, and so loses terms.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

collect_ignore_glob = [] if importlib.util.find_spec("gptqmodel") else ["test_*.py"]

VOCABULARY = 512
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Elsewhere, since some libraries write logs to where they are; they warn of much that is theirs to mend."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def dense(tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("dense") / "llama"
    tiny_model("llama", **SHAPE).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quantised(dense: Path, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``quantised(kind)``: a directory, or for GGUF a file in one of its own; read it, do not write.

    The kinds are the keys of ``MAKERS``, with settings after a colon.
    """

    @functools.cache
    def make(kind: str) -> Path:
        method, _, settings = kind.partition(":")
        folder = tmp_path_factory.mktemp(method) / "model"
        made = MAKERS[method](dense, folder, settings) or folder
        if not (made / "tokenizer_config.json").exists():
            byte_tokenizer.save_pretrained(made)
        return made

    return make


@pytest.fixture
def in_memory(dense: Path) -> Callable[[str], Any]:
    """``in_memory(kind)``: a model that was quantised while it was loaded, or afterwards, and not saved."""

    def make(kind: str) -> Any:
        method, _, settings = kind.partition(":")
        if method == "hqq":
            return hqq_model(dense, int(settings))
        config = {"bitsandbytes": bitsandbytes_config, "torchao": torchao_config}[method](settings)
        return load_dense(dense, quantization_config=config)

    return make


def load_dense(dense: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(dense, **options).eval()


def bitsandbytes_config(settings: str) -> Any:
    from transformers import BitsAndBytesConfig

    if settings.startswith("int8"):
        # Where an input exceeds the threshold its column is multiplied in half precision, for all tokens.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0 if settings == "int8-outliers" else 0.0)
    kind, _, nested = settings.partition("-")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=bool(nested))


def torchao_config(settings: str) -> Any:
    import torch
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup
    from transformers import TorchAoConfig

    made = {
        "int8": Int8WeightOnlyConfig,
        "int4": lambda: IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
        "int2": lambda: IntxWeightOnlyConfig(weight_dtype=torch.int2, granularity=PerAxis(0)),
        "fp8": Float8WeightOnlyConfig,
    }
    return TorchAoConfig(made[settings]())


def _bitsandbytes(dense: Path, folder: Path, settings: str) -> None:
    load_dense(dense, quantization_config=bitsandbytes_config(settings)).save_pretrained(folder)


def _torchao(dense: Path, folder: Path, settings: str) -> None:
    load_dense(dense, quantization_config=torchao_config(settings)).save_pretrained(folder)


def _compressed_tensors(dense: Path, folder: Path, settings: str) -> None:
    """Weights rounded to nearest; the library packs them and writes the configuration."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization import apply_quantization_config as apply
    from compressed_tensors.quantization.utils import calculate_qparams

    form, bits, strategy, kind = {
        "pack4": ("pack-quantized", 4, {"strategy": "group", "group_size": 32}, "int"),
        "pack3": ("pack-quantized", 3, {"strategy": "channel"}, "int"),
        "pack8": ("pack-quantized", 8, {"strategy": "channel"}, "int"),
        "int8": ("int-quantized", 8, {"strategy": "channel"}, "int"),
        "fp8": ("float-quantized", 8, {"strategy": "channel"}, "float"),
    }[settings]
    arguments = QuantizationArgs(num_bits=bits, type=kind, **strategy)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    model = load_dense(dense)
    apply(model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"], format=form))
    for layer in model.modules():
        if getattr(layer, "quantization_scheme", None) is not None:
            weight = layer.weight.detach()
            groups = weight.reshape(len(weight), -1, arguments.group_size or weight.shape[1])
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
            layer.weight_scale.data = scale.to(layer.weight_scale.dtype)
    compressor = ModelCompressor.from_pretrained_model(model, form)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def _gptq(dense: Path, folder: Path, settings: str) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    changes: dict[str, Any] = {
        "4": {},
        "2-act-order": {"bits": 2, "desc_act": True},
        "3": {"bits": 3},
        "8": {"bits": 8},
        "asymmetric": {"sym": False, "group_size": 64},
        "v2": {"format": "gptq_v2", "sym": False},
    }[settings]
    half = folder.parent / "half"
    load_dense(dense, dtype="float16").save_pretrained(half)
    _copy_tokenizer(dense, half)
    model = GPTQModel.load(str(half), QuantizeConfig(**{"bits": 4, "group_size": 32, **changes}), device="cpu")
    model.quantize(_calibration(dense), batch_size=2)
    model.save(str(folder))


def _calibration(dense: Path) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer

    tokenizer, words = AutoTokenizer.from_pretrained(dense), random.Random(0)
    texts = ["".join(words.choices("the a of bound token window model ", k=300)) for _ in range(8)]
    return [{name: tokenizer(text)[name] for name in ("input_ids", "attention_mask")} for text in texts]


def _copy_tokenizer(dense: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(dense).save_pretrained(folder)


def _auto_round(dense: Path, folder: Path, settings: str) -> Path:
    """Rounding to nearest in the layout of one of three libraries: ``auto_round``, ``auto_gptq``, ``auto_awq``."""
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    rounding = AutoRound(
        load_dense(dense),
        AutoTokenizer.from_pretrained(dense),
        scheme="W4A16",
        group_size=32,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
    )
    rounding.quantize_and_save(str(folder), format=settings)
    [config] = folder.rglob("config.json")
    return config.parent


def _bitnet(dense: Path, folder: Path, settings: str) -> None:
    """Ternary weights, packed by transformers' own function."""
    from transformers.integrations.bitnet import pack_weights

    def pack(weight: Any) -> dict[str, Any]:
        scale = 1 / weight.abs().mean()
        return {"weight": pack_weights((weight * scale).round().clamp(-1, 1)), "weight_scale": scale.reshape(1)}

    _save(dense, folder, pack, {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]})


def _aqlm(dense: Path, folder: Path, settings: str) -> None:
    """Random codes and codebooks in the layer of the library."""
    import torch
    from aqlm import QuantizedLinear

    generator = torch.Generator().manual_seed(1)

    def random_layer(weight: Any) -> dict[str, Any]:
        n_outputs, n_inputs = weight.shape
        layer = QuantizedLinear(n_inputs, n_outputs, 8, 1, 2, 8, bias=False, dtype=torch.float32)
        codes = torch.randint(-128, 128, layer.codes.shape, generator=generator, dtype=layer.codes.dtype)
        return {
            "codes": codes,
            "codebooks": 0.05 * torch.randn(layer.codebooks.shape, generator=generator),
            "scales": 0.5 + torch.rand(layer.scales.shape, generator=generator),
        }

    settings_of_all = {"in_group_size": 8, "out_group_size": 1, "num_codebooks": 2, "nbits_per_codebook": 8}
    names = {"linear_weights_not_to_quantize": ["lm_head"]}
    _save(dense, folder, random_layer, {"quant_method": "aqlm", **settings_of_all, **names})


def _gguf(dense: Path, folder: Path, settings: str) -> Path:
    """A file of llama.cpp's naming, written by the gguf library; q and k have their rows in its order."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    model, kind = load_dense(dense), GGMLQuantizationType[settings]
    config, folder = model.config, folder.parent
    path = folder / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for name, value in model.state_dict().items():
        weight = np.ascontiguousarray(value.numpy())
        if "q_proj" in name or "k_proj" in name:
            heads = weight.reshape(config.num_attention_heads, 2, -1, weight.shape[1])
            weight = np.ascontiguousarray(heads.swapaxes(1, 2).reshape(weight.shape))
        if weight.ndim == 1:
            writer.add_tensor(_gguf_name(name), weight)
        else:
            writer.add_tensor(_gguf_name(name), quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def _gguf_name(name: str) -> str:
    changes = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "_proj": "",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }
    for old, new in changes.items():
        name = name.replace(old, new)
    return name


def _hqq(dense: Path, folder: Path, settings: str) -> None:
    """The state dict of the library's layers as safetensors, which transformers does not know how to load."""
    from safetensors.torch import save_file

    model = hqq_model(dense, int(settings))
    folder.mkdir()
    model.config.save_pretrained(folder)
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def hqq_model(dense: Path, n_bits: int) -> Any:
    """A model that HQQ quantised in memory."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel

    model = load_dense(dense)
    config = BaseQuantizeConfig(nbits=n_bits, group_size=64)
    AutoHQQHFModel.quantize_model(model, quant_config=config, compute_dtype=torch.float32, device="cpu")
    return model.eval()


def _save(dense: Path, folder: Path, pack: Callable[[Any], dict[str, Any]], quantization: dict[str, Any]) -> None:
    """A checkpoint whose layers, but for the last one, are what ``pack`` makes of their weights."""
    import torch
    from safetensors.torch import save_file

    model, tensors = load_dense(dense), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            tensors |= {f"{name}.{part}": value.contiguous() for part, value in pack(module.weight.data).items()}
        else:
            tensors |= {f"{name}.{part}": value.data for part, value in module.named_parameters(recurse=False)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((dense / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "quantization_config": quantization})
    (folder / "config.json").write_text(text, encoding="utf-8")


MAKERS: dict[str, Callable[[Path, Path, str], Path | None]] = {
    "aqlm": _aqlm,
    "auto_round": _auto_round,
    "bitnet": _bitnet,
    "bitsandbytes": _bitsandbytes,
    "compressed_tensors": _compressed_tensors,
    "gguf": _gguf,
    "gptq": _gptq,
    "hqq": _hqq,
    "torchao": _torchao,
}
