"""A base and its adapter: files and loaded models agree bit for bit, or are refused by name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from lm_bounds.compressors import measure, measure_given  # noqa: E402
from lm_bounds.errors import WeightsError  # noqa: E402
from lm_bounds.weights import Weights, check_unmeasured, read_checkpoint, read_module, read_source, relative, restore  # noqa: E402

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 32},
    "mixtral": {**SMALL, "num_local_experts": 3},
}
lora = functools.partial(peft.LoraConfig, r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")

Pair = tuple[Path, Path]


def base_model(family: str = "llama", tied: bool = True, dtype: Any = torch.float32) -> Any:
    config = transformers.AutoConfig.for_model(family, tie_word_embeddings=tied, **FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def saved(folder: Path, adapter: Any, **base: Any) -> Pair:
    """A base, and an adapter whose tensors are random where training would have changed them."""
    base_model(**base).save_pretrained(folder / "base")
    model = peft.get_peft_model(loaded_base(folder / "base"), adapter)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def loaded_base(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def with_peft(pair: Pair) -> Any:
    """As lm-eval's HFLM loads ``pretrained=BASE,peft=ADAPTER``."""
    base, adapter = pair
    return peft.PeftModel.from_pretrained(loaded_base(base), str(adapter), revision="main")


def with_transformers(pair: Pair) -> Any:
    base, adapter = pair
    model = loaded_base(base)
    model.load_adapter(str(adapter))
    return model


def from_files(pair: Pair) -> Weights:
    return read_source(f"{pair[0]},peft={pair[1]}")


def assert_same(one: Weights, other: Weights) -> None:
    assert one.tensors == other.tensors
    assert one.aliases == other.aliases
    assert one.config == other.config
    assert one.sha256() == other.sha256()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return saved(tmp_path, lora())


ADAPTERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (lora, {}),
    "without a task": (lambda: lora(task_type=None), {}),
    "untied": (lora, {"tied": False}),
    "of every layer": (lambda: lora(target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 3}), {}),
    "with a module": (lambda: lora(modules_to_save=["lm_head"]), {"tied": False}),
    "with a tied module": (lambda: lora(modules_to_save=["lm_head"]), {}),
    "of embeddings": (lambda: lora(target_modules=["embed_tokens", "q_proj"]), {}),
    "of untied embeddings": (lambda: lora(target_modules=["embed_tokens", "lm_head"]), {"tied": False}),
    "gpt2": (lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True), {"family": "gpt2"}),
    "with biases": (lambda: lora(target_modules=["c_attn"], lora_bias=True), {"family": "gpt2"}),
    "experts that are fused": (lora, {"family": "mixtral"}),
    "IA3": (
        lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
        {},
    ),
    "LoHa": (lambda: peft.LoHaConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM"), {}),
    "LoKr": (lambda: peft.LoKrConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM"), {}),
}
# transformers itself leaves the magnitudes of DoRA at their start, and keeps adapters in the dtype of the base.
WITH_PEFT_ONLY: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "DoRA": (lambda: lora(use_dora=True), {}),
    "of 16 bits": (lora, {"dtype": torch.bfloat16}),
    "with a module of 16 bits": (lambda: lora(modules_to_save=["lm_head"]), {"tied": False, "dtype": torch.bfloat16}),
    "with a tied module of 16 bits": (lambda: lora(modules_to_save=["lm_head"]), {"dtype": torch.float16}),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [*ADAPTERS, *WITH_PEFT_ONLY])
def test_files_and_loaded_models_agree(tmp_path: Path, name: str) -> None:
    make, base = {**ADAPTERS, **WITH_PEFT_ONLY}[name]
    pair = saved(tmp_path, make(), **base)
    files = from_files(pair)
    assert_same(files, read_module(with_peft(pair)))
    if name in ADAPTERS:
        assert_same(files, read_module(with_transformers(pair)))
    kept = {tensor.name for tensor in read_checkpoint(pair[0]).tensors}
    assert kept <= {tensor.name for tensor in files.tensors} | {name for name, _ in files.aliases}
    assert sum(tensor.name.startswith("adapter:") for tensor in files.tensors) >= 2


def test_bits_and_names_are_those_of_the_files(pair: Pair) -> None:
    files, module = from_files(pair), read_module(with_peft(pair))
    assert files.source == f"{pair[0]},peft={pair[1]}"
    for name in ("arithmetic", "gzip"):
        assert measure(files, name).ledger == measure(module, name).ledger
    described = json.loads(files.config)
    assert set(described) == {"adapter", "base"}
    assert described["base"] == json.loads(read_checkpoint(pair[0]).config)
    assert described["adapter"]["target_modules"] == ["q_proj", "v_proj"]
    own = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"}
    assert not own & set(described["adapter"])
    first = "adapter:base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert first in {tensor.name for tensor in files.tensors}


def test_the_name_of_the_adapter_does_not_matter(pair: Pair) -> None:
    model = peft.PeftModel.from_pretrained(loaded_base(pair[0]), str(pair[1]), adapter_name="layers")
    assert_same(read_module(model), from_files(pair))


def test_given_the_base_the_adapter_alone_counts(pair: Pair) -> None:
    base, own = read_checkpoint(pair[0]), from_files(pair)
    described = relative(own, base)
    assert (described.n_identical, described.n_differ, described.n_new) == (len(base.tensors), 0, 8)
    assert restore(base, described).sha256() == own.sha256()
    assert json.loads(described.rest.config)["config"]["prior_as"] == ["base"]
    n_adapter_bits = 8 * sum(tensor.n_bytes for tensor in described.rest.tensors)
    length = measure_given(own, base, "gzip")
    assert n_adapter_bits / 2 < length.bits < n_adapter_bits + 10_000 < measure(own, "gzip").bits


def test_one_changed_bit_of_the_adapter_changes_the_hash(pair: Pair) -> None:
    model = with_peft(pair)
    before = read_module(model).sha256()
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.view(torch.int32)[0, 0] ^= 1
    assert read_module(model).sha256() != before


def test_a_merged_and_unloaded_model_is_a_plain_one(pair: Pair) -> None:
    model = with_peft(pair).merge_and_unload()
    weights = read_module(model)
    assert json.loads(weights.config) == json.loads(read_checkpoint(pair[0]).config)
    assert [tensor.name for tensor in weights.tensors] == [tensor.name for tensor in read_checkpoint(pair[0]).tensors]


def _second(model: Any) -> None:
    model.add_adapter("other", lora(r=3))


def _disabled(model: Any) -> None:
    model.base_model.disable_adapter_layers()


def _merged(model: Any) -> None:
    model.merge_adapter()


def _scaled(model: Any) -> None:
    model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] *= 2


def _unused(model: Any) -> None:
    model.base_model.model.model.layers[0].self_attn.q_proj._active_adapter = []


def _extended(model: Any) -> None:
    model.base_model.model.model.layers[0].register_parameter("gain", torch.nn.Parameter(torch.ones(3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_second, r"the model has 2 adapters \(default, other\): load the model with one adapter"),
        (_disabled, r"adapter 'default' is not in use in '.*q_proj'"),
        (_merged, r"the adapter is merged into the weights of '.*q_proj'"),
        (_scaled, r"acts on 'model\.layers\.0\.self_attn\.q_proj' otherwise than its configuration says"),
        (_unused, r"adapter 'default' is not in use in '.*q_proj'"),
        (_extended, r"tensor 'model\.layers\.0\.gain' is either in the model or in a new base of its class"),
    ],
)
def test_adapters_in_another_state_are_refused(pair: Pair, change: Callable[[Any], None], message: str) -> None:
    model = with_peft(pair)
    change(model)
    with pytest.raises(WeightsError, match=message) as caught:
        read_module(model)
    assert "\n" not in str(caught.value)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "PROMPT_TUNING": (
        lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "adapters of the kind PROMPT_TUNING are not supported; IA3, LOHA, LOKR, LORA are",
    ),
    "tokens": (lambda: lora(trainable_token_indices=[1, 2]), "adapters with trainable_token_indices are not supported"),
    "pissa": (lambda: lora(init_lora_weights="pissa"), "init_lora_weights='pissa' changes the base's weights"),
    "bias": (
        lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True, bias="lora_only"),
        "the adapter changes biases of its base",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_adapters_of_other_kinds_are_refused_in_files_and_loaded(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    pair = saved(tmp_path, make(), family="gpt2" if name == "bias" else "llama")
    with pytest.raises(WeightsError, match=message):
        from_files(pair)
    with pytest.raises(WeightsError, match=message):
        read_module(with_peft(pair))


def rewrite(pair: Pair, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the tensors of the adapter's file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(pair[1] / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, pair[1] / "adapter_model.safetensors")


def test_an_adapter_that_replaces_a_tensor_of_its_base_is_refused(pair: Pair) -> None:
    rewrite(pair, lambda tensors: tensors.update({"base_model.model.model.norm.weight": torch.zeros(16)}))
    with pytest.raises(WeightsError, match=r"replaces tensor 'model\.norm\.weight' of the base: merge the adapter"):
        from_files(pair)


def test_an_adapter_that_would_be_rounded_is_refused(tmp_path: Path) -> None:
    pair = saved(tmp_path, lora(modules_to_save=["lm_head"]), tied=False, dtype=torch.bfloat16)
    name = "base_model.model.lm_head.weight"
    rewrite(pair, lambda tensors: tensors.update({name: tensors[name].float()}))
    with pytest.raises(WeightsError, match=r"in F32, which its base has in BF16: peft would change it"):
        from_files(pair)
    rewrite(pair, lambda tensors: tensors.update({key: value.double() for key, value in tensors.items()}))
    with pytest.raises(WeightsError, match=r"in F64"):
        from_files(pair)


def test_a_base_with_names_of_an_adapter_is_refused(pair: Pair) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(pair[0] / "model.safetensors")
    stolen = "adapter:base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**tensors, stolen: torch.ones(2)}, pair[0] / "model.safetensors")
    with pytest.raises(WeightsError, match=f"two tensors are called '{stolen}'"):
        from_files(pair)


def test_half_an_adapter_is_refused_in_one_line(pair: Pair, tmp_path: Path) -> None:
    base, adapter = pair
    with pytest.raises(WeightsError, match="is an adapter: give its base too, as BASE,peft="):
        read_source(adapter)
    with pytest.raises(WeightsError, match=r"no checkpoint at .*gone: give the directory of an adapter"):
        read_source(f"{base},peft={tmp_path}/gone")
    with pytest.raises(WeightsError, match=r"holds no adapter_config\.json: give the directory of an adapter"):
        read_source(f"{base},peft={base}")
    settings = adapter / "adapter_config.json"
    for text in ("{", "[]", "{}", '{"peft_type": "NEW"}', '{"peft_type": "LORA", "r": "two", "init_lora_weights": 7}'):
        settings.write_text(text)
        with pytest.raises(WeightsError) as caught:
            from_files(pair)
        assert "\n" not in str(caught.value)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no adapter_model\.safetensors: load the adapter with peft"):
        from_files(pair)


def test_base_and_adapter_come_from_the_hub(hub: Any, pair: Pair) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    (pair[1] / "optimizer.pt").write_bytes(b"not measured")
    hub.publish("org/base", pair[0])
    hub.publish("org/adapter", pair[1])
    weights = read_source("org/base,peft=org/adapter@main")
    assert weights.source == f"org/base@{commit},peft=org/adapter@{commit}"
    assert weights.sha256() == from_files(pair).sha256()
    assert hub.sent == ["config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    assert read_source(f"{pair[0]},peft=org/adapter").sha256() == weights.sha256()
    with pytest.raises(WeightsError, match=r"org/base@\w+ has no adapter_config\.json: it is no adapter"):
        read_source("org/base,peft=org/base")


def test_lm_eval_loads_what_was_measured(tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path) -> None:
    """Its vocabulary is the tokenizer's: HFLM gives a base of another size new embeddings before the adapter."""
    from lm_eval.models.huggingface import HFLM

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = tiny_model("llama", vocab_size=len(byte_tokenizer))
    model.save_pretrained(base)
    byte_tokenizer.save_pretrained(base)
    peft.get_peft_model(model, lora()).save_pretrained(adapter)
    lm = HFLM(pretrained=str(base), peft=str(adapter), device="cpu")
    check_unmeasured(lm.model)
    assert_same(read_module(lm.model), from_files((base, adapter)))


def test_the_order_of_patterns_is_part_of_the_description(pair: Pair) -> None:
    """peft takes the first pattern that fits a layer."""
    patterns = {r".*layers\.0\..*": 8, ".*q_proj": 64}
    hashes = []
    file = pair[1] / "adapter_config.json"
    for names in (list(patterns), list(reversed(patterns))):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": {n: patterns[n] for n in names}}))
        assert_same(from_files(pair), read_module(with_peft(pair)))
        hashes.append(from_files(pair).sha256())
    assert hashes[0] != hashes[1]
