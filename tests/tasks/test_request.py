"""The request type: one pass for the tasks that share a run, one observation for each request, in their order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from lm_bounds.errors import UsageError
from lm_bounds.pipeline import Session
from lm_bounds.processes import TorchProcesses
from lm_bounds.tasks import request as request_module
from lm_bounds.tasks.request import REQUEST_TYPE, Observation, progress_bar, shared_run, token_statistics
from lm_bounds.tasks.task import BoundTask


def requests_of(metric: str, metadata: dict[str, Any]) -> list[Instance]:
    config = {"task": f"local_{metric}_bound", "corpus": "local", "metric": metric, "metadata": metadata}
    task = BoundTask(config)
    task.build_all_requests()
    return task.instances


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The draws of every call of ``Session.observe``."""
    calls: list[list[int]] = []
    observe = Session.observe

    def record(self: Session, draws: Any, *others: Any) -> Any:
        calls.append(list(draws))
        return observe(self, draws, *others)

    monkeypatch.setattr(Session, "observe", record)
    return calls


def test_every_language_model_has_the_method() -> None:
    from lm_eval.models.dummy import DummyLM
    from lm_eval.models.huggingface import HFLM

    assert getattr(LM, REQUEST_TYPE) is token_statistics
    assert getattr(HFLM, REQUEST_TYPE) is getattr(DummyLM, REQUEST_TYPE) is token_statistics


def test_a_request_names_its_draw_and_its_run(metadata: dict[str, Any]) -> None:
    requests = requests_of("bpd", metadata)
    assert [request.doc for request in requests] == [{"draw": number} for number in range(30)]
    assert {request.request_type for request in requests} == {"token_statistics"}
    assert {request.repeats for request in requests} == {1}
    assert requests[3].args[0] == "window 3"
    assert {request.args[1] for request in requests} == {requests[0].args[1]}
    assert json.loads(requests[0].args[1]) == {"corpus": "local", "metadata": metadata, "windows": 30}


def test_tasks_of_one_run_share_it_whatever_file_they_come_from() -> None:
    one = shared_run("local", {"windows": 5, "pilot": 3, "version": 1.0, "config_source": "a.yaml"}, 5)
    other = shared_run("local", {"pilot": 3, "windows": 5, "version": 2.0, "config_source": "b.yaml"}, 5)
    assert one == other
    assert len({one, shared_run("oas", {"windows": 5, "pilot": 3}, 5), shared_run("local", {"pilot": 3}, 5)}) == 3
    assert shared_run("local", {"windows": 5, "pilot": 3}, 4) != one


def test_each_draw_is_scored_once_and_every_request_is_answered_in_its_place(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], observed: list[list[int]]
) -> None:
    requests = [*requests_of("bpd", metadata), *requests_of("top1", metadata)]
    mixed = [*requests[::-2], *requests[::2], requests[4], requests[4]]
    found = token_statistics(tiny_lm("unigram"), mixed)
    assert observed == [list(range(30))]
    assert [entry.draw for entry in found] == [request.doc["draw"] for request in mixed]
    by_draw = {entry.draw: entry for entry in found}
    assert all(entry is by_draw[entry.draw] for entry in found)
    assert {name.partition("/")[0] for name in found[0].sums} == {"bpd", "top1", "top10", "top100"}


def test_some_draws_of_a_run_are_those_of_the_whole_run(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], observed: list[list[int]]
) -> None:
    requests = requests_of("bpd", metadata)
    whole = token_statistics(tiny_lm("unigram"), requests)
    [one] = token_statistics(tiny_lm("unigram"), [requests[17]])
    assert observed[1] == [17]
    assert one.drawn == whole[17].drawn
    assert one.sums == pytest.approx(whole[17].sums, rel=1e-5)


def test_runs_with_other_settings_are_apart(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], observed: list[list[int]]
) -> None:
    requests = [*requests_of("bpd", metadata), *requests_of("bpd", {**metadata, "windows": 4})]
    found = token_statistics(tiny_lm("unigram"), requests)
    assert observed == [list(range(30)), list(range(4))]
    assert len({id(entry.plan) for entry in found}) == 2
    assert [entry.plan.n_windows for entry in found] == [30] * 30 + [4] * 4


def test_an_observation_shows_itself_in_one_short_line(metadata: dict[str, Any], tiny_lm: Callable[..., Any]) -> None:
    entry = token_statistics(tiny_lm("unigram"), requests_of("bpd", metadata)[:1])[0]
    assert isinstance(entry, Observation)
    assert str(entry) == repr(entry) == f"draw 0: tokens {entry.drawn['start']} to {entry.drawn['stop'] - 1}"
    assert entry.n_tokens == entry.drawn["stop"] - entry.drawn["start"]
    assert entry.drawn["start"] <= entry.drawn["token_index"] < entry.drawn["stop"]


def test_a_backend_without_logits_is_refused(metadata: dict[str, Any]) -> None:
    from lm_eval.models.dummy import DummyLM

    with pytest.raises(Exception, match=r"^model backend DummyLM gives no logits of whole windows: use --model hf$"):
        token_statistics(DummyLM(), requests_of("bpd", metadata))


def test_a_misspelt_key_is_refused_before_the_model_is_measured(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "open_session", lambda *arguments: pytest.fail("the session was opened"))
    with pytest.raises(UsageError, match="did you mean 'failure_prob'"):
        token_statistics(tiny_lm("unigram"), requests_of("bpd", {**metadata, "failureprob": 0.1}))


def test_rank_0_alone_reports_progress_on_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    progress_bar()("scoring windows", 8, 8)
    progress_bar(TorchProcesses(0, 2))("scoring windows", 4, 4)
    progress_bar(TorchProcesses(1, 2))("scoring windows", 4, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "scoring windows: 8 of 8 windows",
        "scoring windows (1 of 2 shares): 4 of 4 windows",
    ]
