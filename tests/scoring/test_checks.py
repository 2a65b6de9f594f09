"""Causal models pass; whatever lets a prediction depend on what comes later is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lm_bounds.errors import ModelError
from lm_bounds.scoring import HFScorer, check_model, make_scorer

FAMILIES = ["gpt2", "llama", "gpt_neox"]
Make = Callable[..., HFScorer]
Window = Callable[..., np.ndarray]
Logits = Callable[[torch.Tensor], torch.Tensor]


def with_logits(scorer: HFScorer, change: Callable[[torch.Tensor, Logits], torch.Tensor]) -> HFScorer:
    """The scorer, its model's logits replaced by ``change(inputs, the model's own logits of inputs)``."""
    call = scorer.lm._model_call
    scorer.lm._model_call = lambda inputs: change(inputs, call)
    return scorer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 2, 3, 64])
def test_causal_models_pass(family: str, dtype: str, length: int, scorer: Make, random_window: Window) -> None:
    check_model(scorer(family, dtype=dtype), random_window(length))


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_pass_in_mixed_precision(family: str, scorer: Make, random_window: Window) -> None:
    check_model(scorer(family, mixed_precision_dtype="bfloat16"), random_window(64))


@pytest.mark.parametrize("moved", [slice(None), slice(3, 4)], ids=["all a little", "one of them"])
@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"dtype": "float32"}, False),
        ({"dtype": "bfloat16"}, True),
        ({"dtype": "float16"}, True),
        ({"mixed_precision_dtype": "bfloat16"}, True),
    ],
    ids=["fp32", "bf16", "fp16", "mixed"],
)
def test_what_rounding_moves_in_inputs_of_another_shape_passes_in_half_precision_alone(
    options: dict[str, Any], passes: bool, moved: slice, scorer: Make, random_window: Window
) -> None:
    def rounded(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs).float()
        if inputs.shape[1] < 64:
            own[:, moved] *= 1.01 if moved == slice(None) else 1.1
        return own

    made = with_logits(scorer(**options), rounded)
    if passes:
        check_model(made, random_window(64))
    else:
        with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
            check_model(made, random_window(64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_routed_experts_pass(dtype: str, byte_tokenizer: Any, random_window: Window) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        initializer_range=0.3,
    )
    model = MixtralForCausalLM(config).to(getattr(torch, dtype)).eval()
    lm = HFLM(pretrained=model, tokenizer=byte_tokenizer, max_length=64)
    check_model(make_scorer(lm, None), random_window(64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bidirectional_model_is_refused(dtype: str, byte_tokenizer: Any, random_window: Window) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=260, max_position_embeddings=64, is_decoder=False, initializer_range=0.3, **small)
    model = BertLMHeadModel(config).to(getattr(torch, dtype)).eval()
    lm = HFLM(pretrained=model, tokenizer=byte_tokenizer, backend="causal", max_length=64)
    with pytest.raises(ModelError, match=r"^the model is not strictly causal: .*tokens change from.*\(decoder-only\)"):
        check_model(make_scorer(lm, None), random_window(64))
    model.bert.config.is_decoder = model.config.is_decoder = True
    causal = BertLMHeadModel(model.config).to(getattr(torch, dtype)).eval()
    lm = HFLM(pretrained=causal, tokenizer=byte_tokenizer, backend="causal", max_length=64)
    check_model(make_scorer(lm, None), random_window(64))


def unsteady(logits: torch.Tensor) -> torch.Tensor:
    """As kernels are that sum in no fixed order: a little different at every call."""
    return logits + 1e-6 * torch.randn_like(logits)


def next_token(inputs: torch.Tensor, ahead: int = 1) -> torch.Tensor:
    """One-hot rows of the token that stands ``ahead`` places later in the inputs; zero at the end."""
    rows = torch.zeros(*inputs.shape, 260)
    rows[:, :-ahead] = torch.nn.functional.one_hot(inputs[:, ahead:], 260)
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 3, 64])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1.0), ("float32", 1e-2), ("float32", 1e-5), ("bfloat16", 1.0), ("float16", 1e-2)]
)
def test_a_leak_of_the_next_token_is_refused(
    dtype: str, scale: float, length: int, family: str, scorer: Make, random_window: Window
) -> None:
    def leaky(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs)
        return own + 10 * scale * next_token(inputs).to(own.dtype)

    made = scorer(family, dtype=dtype)
    check_model(made, random_window(length))
    with pytest.raises(ModelError, match=r"^the model is not strictly causal: its prediction of token \d+ "):
        check_model(with_logits(made, leaky), random_window(length))


@pytest.mark.parametrize("where", [slice(30, 40), slice(62, 63)], ids=["in the middle", "at the end"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("noise", [lambda logits: logits, unsteady], ids=["exact", "unsteady"])
def test_a_leak_at_some_positions_is_refused(
    noise: Callable[[torch.Tensor], torch.Tensor], dtype: str, where: slice, scorer: Make, random_window: Window
) -> None:
    def leaky(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs).float()
        own[:, where] += next_token(inputs)[:, where]
        return noise(own)

    with pytest.raises(ModelError, match=r"^the model is not strictly causal: .*tokens change from"):
        check_model(with_logits(scorer(dtype=dtype), leaky), random_window(64))


@pytest.mark.parametrize("ahead", [2, 7, 20])
def test_a_leak_of_a_far_token_is_refused(ahead: int, scorer: Make, random_window: Window) -> None:
    made = with_logits(scorer(), lambda inputs, logits: logits(inputs) + next_token(inputs, ahead))
    with pytest.raises(ModelError, match=r"^the model is not strictly causal: .*tokens change from token"):
        check_model(made, random_window(64))


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_pass_where_kernels_sum_in_no_fixed_order(
    family: str, scorer: Make, random_window: Window
) -> None:
    check_model(with_logits(scorer(family), lambda ids, logits: unsteady(logits(ids))), random_window(64))


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1.0), ("float32", 1e-2), ("bfloat16", 0.1)])
def test_a_leak_is_refused_where_kernels_sum_in_no_fixed_order(
    dtype: str, scale: float, scorer: Make, random_window: Window
) -> None:
    def leaky(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        return unsteady(logits(inputs).float() + 10 * scale * next_token(inputs))

    made = with_logits(scorer(dtype=dtype), leaky)
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(made, random_window(64))


def test_a_leak_through_the_entropy_alone_is_refused(scorer: Make) -> None:
    """Tokens that are no targets share their mass evenly or not, as the next token says; no target's share moves."""

    def leaky(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        rows = torch.zeros(*inputs.shape, 260)
        even = inputs[:, 1:, None] % 2 == 0
        rows[:, :-1, 20:140] = torch.where(even, 1.0, 1.9).log()
        rows[:, :-1, 140:] = torch.where(even, 1.0, 0.1).log()
        return unsteady(rows)

    made = with_logits(scorer(), leaky)
    window = np.tile([10, 11, 13, 12, 14, 15], 8)
    one, other = made.score_batch([window]), made.score_batch([window], [np.roll(window, 1)])
    np.testing.assert_allclose(one.log2_prob, other.log2_prob, atol=1e-4)
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(made, window)


def test_a_prefix_that_is_read_both_ways_is_refused(scorer: Make, random_window: Window) -> None:
    def leaky(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs).clone()
        own[:, :8] += torch.nn.functional.one_hot(inputs[:, :8], 260).float().mean(dim=1, keepdim=True)
        return own

    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(with_logits(scorer(), leaky), random_window(64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_that_depend_on_the_length_are_refused(
    dtype: str, family: str, scorer: Make, random_window: Window
) -> None:
    made = with_logits(scorer(family, dtype=dtype), lambda ids, logits: logits(ids) * (1 + ids.shape[1] / 100))
    with pytest.raises(ModelError, match=r"moves when the window ends at token \d+ \("):
        check_model(made, random_window(64))


def test_rotary_frequencies_that_depend_on_the_length_are_refused(
    tiny_model: Callable[..., Any], byte_tokenizer: Any, random_window: Window
) -> None:
    from lm_eval.models.huggingface import HFLM

    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = tiny_model("llama", max_position_embeddings=16, rope_parameters=scaling)
    lm = HFLM(pretrained=model, tokenizer=byte_tokenizer, max_length=64)
    check_model(make_scorer(lm, 16), random_window(16))
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(make_scorer(lm, 64), random_window(64))


def test_an_activation_scale_over_the_whole_window_is_refused(scorer: Make, random_window: Window) -> None:
    """Rounding logits to 8 bits with one scale for all positions: the largest logit may be a later one."""

    def rounded(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs)
        step = own.abs().max() / 127
        return (own / step).round() * step

    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(with_logits(scorer(), rounded), random_window(64))


def test_dropout_that_is_left_on_is_refused(scorer: Make, random_window: Window) -> None:
    made = scorer()
    made.lm.model.train()
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(made, random_window(64))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rows", [slice(None), slice(40, 41)], ids=["everywhere", "in one row"])
def test_logits_that_are_no_numbers_are_refused(rows: slice, value: float, scorer: Make, random_window: Window) -> None:
    def broken(inputs: torch.Tensor, logits: Logits) -> torch.Tensor:
        own = logits(inputs).clone()
        own[:, rows, 3] = value
        return own

    with pytest.raises(ModelError, match=r"^the model's next-token probabilities do not sum to one \(a sum of nan"):
        check_model(with_logits(scorer(), broken), random_window(64))


def test_a_window_of_one_token_has_no_future_to_leak(scorer: Make, random_window: Window) -> None:
    made = with_logits(scorer(), lambda inputs, logits: logits(inputs) + next_token(inputs, 1))
    check_model(made, random_window(1))


def test_rows_of_a_batch_that_see_each_other_are_refused(scorer: Make, random_window: Window) -> None:
    made = scorer("llama", batch_size=2)
    call = made.lm._model_call
    made.lm._model_call = lambda inputs: (logits := call(inputs)) + 1e-3 * logits.mean(dim=0, keepdim=True)
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        check_model(made, random_window(40))
