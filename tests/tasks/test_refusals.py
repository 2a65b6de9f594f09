"""Flags of lm-eval that would falsify a bound: each is refused by its name, before a window is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lm_bounds.errors import ModelError, UsageError
from lm_bounds.tasks.task import BoundTask

TASK = "local_bpd_bound"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"samples": {TASK: [0, 3]}}, "--samples chooses the windows by hand, which makes the sample biased"),
    ({"cache_requests": True}, "--cache_requests would reuse the requests of another run"),
    ({"rewrite_requests_cache": True}, "--cache_requests would reuse the requests of another run"),
    ({"num_fewshot": 2}, "--num_fewshot prepends other windows to every context"),
    ({"system_instruction": "Answer!"}, "--system_instruction changes every context"),
    ({"apply_chat_template": True}, "--apply_chat_template changes every context"),
    ({"apply_chat_template": "named"}, "--apply_chat_template changes every context"),
    ({"predict_only": True}, "--predict_only leaves the bound out"),
]


@pytest.fixture
def untouched(tiny_lm: Callable[..., Any]) -> Any:
    """A model that must not be asked for anything."""
    lm = tiny_lm("unigram")

    def refuse(inputs: Any) -> None:
        raise AssertionError("a window was scored")

    lm._model_call = refuse
    return lm


@pytest.mark.parametrize("tasks", [TASK, "local_bounds"])
@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: next(iter(value)) if value else "")
def test_the_flag_is_refused(
    flags: dict[str, Any], message: str, tasks: str, evaluate: Callable[..., Any], untouched: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(tasks, untouched, flags=flags)
    assert str(caught.value) == f"{TASK}: {message}: run again without it"


@pytest.mark.parametrize(
    "flags",
    [
        {"num_fewshot": 0},
        {"num_fewshot": None},
        {"fewshot_as_multiturn": False},
        {"samples": {"another_task": [1]}},
        {"delete_requests_cache": True},
        {"write_out": True},
        {"gen_kwargs": "temperature=0"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_flags_that_change_nothing_are_let_through(flags: dict[str, Any], evaluate: Callable[..., Any]) -> None:
    wanted = evaluate(TASK)["results"][TASK]["bpd_bound,none"]
    assert evaluate(TASK, flags=flags)["results"][TASK]["bpd_bound,none"] == wanted


def test_a_number_of_examples_in_the_configuration_is_refused(metadata: dict[str, Any]) -> None:
    task = BoundTask({"task": TASK, "corpus": "local", "metric": "bpd", "metadata": metadata})
    task.set_config("num_fewshot", 1)
    with pytest.raises(UsageError, match="--num_fewshot prepends"):
        task.build_all_requests()


def test_requests_are_made_by_one_function_alone(metadata: dict[str, Any]) -> None:
    task = BoundTask({"task": TASK, "corpus": "local", "metric": "bpd", "metadata": metadata})
    with pytest.raises(UsageError, match="made by build_all_requests"):
        task.construct_requests({"draw": 0}, "")


@pytest.mark.parametrize("limit", [0, -1, -0.5])
def test_a_limit_that_leaves_no_window_is_refused(limit: float, evaluate: Callable[..., Any], untouched: Any) -> None:
    with pytest.raises(UsageError, match="--limit must be positive"):
        evaluate(TASK, untouched, flags={"limit": limit})


def test_a_backend_that_adds_to_the_forward_pass_is_refused(
    evaluate: Callable[..., Any], tiny_checkpoint: Callable[[str], Any]
) -> None:
    from lm_eval.models.huggingface import HFLM

    class Steered(HFLM):
        def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
            return super()._model_call(inps) * 1.1

    lm = Steered(pretrained=str(tiny_checkpoint("unigram")), device="cpu")
    with pytest.raises(ModelError, match=r"^model backend Steered changes the forward pass"):
        evaluate(TASK, lm)
