"""What comes back from a backend is counted, sorted and written down under the model's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

import lm_bounds
from lm_bounds.errors import UsageError
from lm_bounds.tasks.request import Observation, token_statistics
from lm_bounds.tasks.results import RESULT_KEYS, certificate_directory, conclude, join, window_values
from lm_bounds.tasks.task import BoundTask

TASK = "local_bpd_bound"
Reorder = Callable[[list[Observation]], list[Observation]]


@pytest.fixture
def observations(metadata: dict[str, Any], tiny_lm: Callable[..., Any]) -> list[Observation]:
    task = BoundTask({"task": TASK, "corpus": "local", "metric": "bpd", "metadata": {**metadata, "windows": 10}})
    task.build_all_requests()
    return token_statistics(tiny_lm("unigram"), task.instances)


class Meddling(HFLM):
    """A backend that gives the responses of a run back in another way."""

    meddle: Reorder

    def token_statistics(self, requests: list[Any]) -> list[Observation]:
        return type(self).meddle(super().token_statistics(requests))


def reversed_order(entries: list[Observation]) -> list[Observation]:
    return entries[::-1]


def shuffled(entries: list[Observation]) -> list[Observation]:
    return [entries[number] for number in np.random.default_rng(0).permutation(len(entries))]


def one_twice(entries: list[Observation]) -> list[Observation]:
    return [entries[1], *entries[1:]]


def all_the_same(entries: list[Observation]) -> list[Observation]:
    return [entries[0]] * len(entries)


@pytest.mark.parametrize("order", [reversed_order, shuffled])
def test_responses_in_another_order_give_the_same_numbers(
    order: Reorder, evaluate: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Meddling, "meddle", staticmethod(order), raising=False)
    lm = Meddling(pretrained=str(tiny_checkpoint("unigram")), device="cpu", batch_size=8)
    plain, meddled = evaluate(TASK)["results"][TASK], evaluate(TASK, lm)["results"][TASK]
    assert meddled == plain


@pytest.mark.parametrize("change", [one_twice, all_the_same])
def test_responses_that_come_twice_are_refused(
    change: Reorder, evaluate: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Meddling, "meddle", staticmethod(change), raising=False)
    lm = Meddling(pretrained=str(tiny_checkpoint("unigram")), device="cpu", batch_size=8)
    with pytest.raises(UsageError, match="every window has to be scored exactly once"):
        evaluate(TASK, lm)


def test_join_sorts_by_draw(observations: list[Observation]) -> None:
    plan, joined = join(shuffled(observations))
    assert plan is observations[0].plan
    assert joined.windows.token_index.tolist() == [entry.drawn["token_index"] for entry in observations]
    assert joined.windows.start.tolist() == [entry.drawn["start"] for entry in observations]
    assert joined.windows.stop.tolist() == [entry.drawn["stop"] for entry in observations]
    for name, values in joined.sums.items():
        assert values.tolist() == [entry.sums[name] for entry in observations]


@pytest.mark.parametrize(
    ("chosen", "n_found"),
    [(range(9), 9), ([0, *range(10)], 11), ([0, *range(9)], 10), (range(1, 10), 9)],
    ids=["one missing", "one too many", "one twice and one missing", "the first missing"],
)
def test_join_refuses_draws_that_are_missing_or_counted_twice(
    chosen: Sequence[int], n_found: int, observations: list[Observation]
) -> None:
    with pytest.raises(UsageError, match=rf"^10 certifying windows were drawn, {n_found} observations came back"):
        join([observations[number] for number in chosen])


def test_join_refuses_observations_of_two_runs(observations: list[Observation]) -> None:
    foreign = replace(observations[3], plan=replace(observations[3].plan, created="2020-01-01T00:00:00.000000Z"))
    with pytest.raises(UsageError, match="of more than one run"):
        join([*observations[:3], foreign, *observations[4:]])


def test_conclusions_are_the_certificates(observations: list[Observation]) -> None:
    found = conclude(shuffled(observations), "bpd")
    assert lm_bounds.verify(found.certificate.path).ok
    assert found.values[0] == found.certificate.bound
    assert len(found.values) == len(RESULT_KEYS)
    assert {type(value) for value in found.values} == {float}


def test_a_windows_own_numbers_stand_under_the_keys_of_the_results(observations: list[Observation]) -> None:
    entry, plan = observations[4], observations[4].plan
    values = dict(zip(RESULT_KEYS[1:], window_values(entry, "top1"), strict=True))
    assert values["{metric}_risk"] == entry.sums["top1/loss"] / entry.n_tokens
    assert values["compressed_bits"] == plan.charged_bits("top1") > values["code_bits"] == plan.code.bits
    assert values["bits_per_parameter"] == plan.code.bits / plan.code.n_parameters
    assert values["corpus_tokens"] == plan.corpus.n_tokens
    assert (values["scored_tokens"], values["windows"]) == (entry.n_tokens, 1.0)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-70m", "pythia-70m"),
        ("/data/models/mine/", "mine"),
        ("./a model: v2", "a_model_v2"),
        ("..", "model"),
        (".", "model"),
        ("/", "model"),
        ("日本", "_"),
    ],
)
def test_certificates_lie_in_a_folder_named_after_the_model(
    name: str, folder: str, observations: list[Observation]
) -> None:
    plan = observations[0].plan
    plan = replace(plan, model=replace(plan.model, name=name), settings=replace(plan.settings, certificates="out"))
    found = certificate_directory(plan)
    assert found.parts[:-1] == ("out", folder)
    assert found.name == plan.created.replace(":", "-")


def test_a_home_of_the_users_is_found(
    observations: list[Observation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    plan = observations[0].plan
    plan = replace(plan, settings=replace(plan.settings, certificates="~/certificates"))
    assert certificate_directory(plan).parent.parent == tmp_path / "certificates"
