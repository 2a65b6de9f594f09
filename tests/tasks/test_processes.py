"""Several processes score one run: the same numbers as one, every window once, and one's failure stops them all."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

import lm_bounds
from lm_bounds import passes, pipeline, processes, scoring
from lm_bounds.certificates import Observations, read_certificate
from lm_bounds.errors import CorpusError, ModelError, UsageError, WeightsError
from lm_bounds.pipeline import Session
from lm_bounds.processes import ONE_PROCESS, check_alike, from_leader, leader_first, processes_of, together
from lm_bounds.sampling import draw_windows, stream_seed
from lm_bounds.tasks import request as request_module
from lm_bounds.tasks.request import Observation, token_statistics
from lm_bounds.tasks.results import join
from lm_bounds.tasks.task import BoundTask

WAIT_SECONDS = 60.0
N_WINDOWS = 31
HERE = threading.local()  # its ``processes``: of the thread that asks


class Threads:
    """Processes that are threads of this one; what they exchange is pickled, as between processes."""

    def __init__(self, rank: int, world_size: int, slots: list[bytes], barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self._slots, self._barrier = rank, world_size, slots, barrier

    def exchange(self, value: Any) -> list[Any]:
        self._slots[self.rank] = pickle.dumps(value)
        self._barrier.wait()
        found = [pickle.loads(slot) for slot in self._slots]
        self._barrier.wait()
        return found


def in_threads(world_size: int, run: Callable[[Any], Any]) -> list[Any]:
    """What ``run(processes)`` returns or raises in each thread; one that waits for the others too long breaks down."""
    slots, barrier = [b""] * world_size, threading.Barrier(world_size, timeout=WAIT_SECONDS)

    def one(rank: int) -> Any:
        HERE.processes = Threads(rank, world_size, slots, barrier)
        try:
            return run(HERE.processes)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def lines(outcomes: list[Any]) -> set[str]:
    return {f"{type(outcome).__name__}: {outcome}" for outcome in outcomes}


def share_of(metric: str, metadata: dict[str, Any], rank: int = 0, world_size: int = 1) -> list[Any]:
    """The requests that lm-eval makes for one process."""
    task = BoundTask({"task": f"local_{metric}_bound", "corpus": "local", "metric": metric, "metadata": metadata})
    task.build_all_requests(rank=rank, world_size=world_size)
    return task.instances


@pytest.fixture
def scored(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """``scored(world_size, lms=None, metrics=("bpd",), **metadata)``: what each process gets back or raises.

    A function of the rank in place of a value of ``metadata`` gives each process its own.
    """
    monkeypatch.setattr(request_module, "processes_of", lambda lm: HERE.processes)

    def run(world_size: int, lms: Any = None, metrics: Any = ("bpd",), **changes: Any) -> list[Any]:
        models = lms or [tiny_lm("unigram", batch_size=1) for _ in range(world_size)]

        def one(own: Any) -> list[Observation]:
            values = {**metadata, "windows": N_WINDOWS, "pilot": 7, **changes}
            given = {name: value(own.rank) if callable(value) else value for name, value in values.items()}
            requests = [entry for metric in metrics for entry in share_of(metric, given, own.rank, own.world_size)]
            return token_statistics(models[own.rank], requests)

        return in_threads(world_size, one)

    return run


@pytest.fixture
def alone(scored: Callable[..., list[Any]]) -> Callable[..., list[Observation]]:
    """``alone(**metadata)``: the observations of the same run in one process."""
    return lambda **changes: scored(1, **changes)[0]


# One subprocess test for what only real processes show; the threads below stand for processes in all others.


class DataParallel(HFLM):
    """What the backend of the processes is called in their certificates."""


@pytest.mark.slow
def test_two_processes_write_the_certificates_of_one(
    evaluate: Callable[..., Any],
    metadata: dict[str, Any],
    tiny_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = str(tiny_checkpoint("unigram"))
    run = {**metadata, "windows": N_WINDOWS, "pilot": 13}
    request = tmp_path / "request.json"
    request.write_text(
        json.dumps({"checkpoint": checkpoint, "metadata": {**run, "certificates": str(out / "two")}, "out": str(out)})
    )
    stderr = torchrun(Path(__file__).parent / "share_a_run.py", str(request))
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))

    # every window was scored in one process: the padding that lm-eval adds to the shorter share was not
    assert first["whole"]["draws"] == list(range(0, N_WINDOWS, 2))
    assert second["whole"]["draws"] == list(range(1, N_WINDOWS, 2))
    assert first["whole"]["rows"] - second["whole"]["rows"] == 2  # 16 + 7 windows against 15 + 6
    assert first["samples"] == list(range(N_WINDOWS))

    evaluate(
        "local_bounds", DataParallel(pretrained=checkpoint, device="cpu", batch_size=1), **{**run, "certificates": out}
    )
    ours = sorted((out / "two").rglob("*.json"))
    assert [path.name for path in ours] == [f"local_{m}_bound.json" for m in ("bpd", "top100", "top10", "top1")]
    for path in ours:
        [theirs] = (out / "tiny-unigram").rglob(path.name)
        assert comparable(read_certificate(path)) == comparable(read_certificate(theirs))
        assert lm_bounds.verify(path).ok
        reported = first["whole"]["results"][path.stem]
        metric = path.stem.split("_")[1]
        assert reported[f"{metric}_bound,none"] == read_certificate(path)["claim"]["bound"]

    # rank 0 alone reports: four certificates, then those of two runs of one task
    assert second["whole"]["results"] is second["samples"] is None
    assert stderr.count("certificate: ") == 4 + 2
    assert stderr.count("scoring windows (1 of 2 shares)") > 0
    assert "scoring windows:" not in stderr

    [detected] = (out / "auto").rglob("*.json")
    assert read_certificate(detected)["model"]["batch_size"] == 3

    refused = {name: text for name, text in first.items() if isinstance(text, str)}
    assert refused == {name: text for name, text in second.items() if isinstance(text, str)}
    alike = "start all of them with the same model, corpus, settings and software"
    assert refused.pop("other weights").startswith("UsageError: processes 0 and 1 of 2 differ in code.")
    assert refused == {
        "fails while scoring": "LmBoundsError: process 1 of 2: RuntimeError: out of memory",
        "other settings": f"UsageError: processes 0 and 1 of 2 differ in settings.pilot (13 and 14): {alike}",
        "counted in each machine": "UsageError: DataParallel takes process 1 of 2 for process 0 of 2: it counts within "
        "one machine, so run all processes on one machine",
        "fewer windows": "UsageError: local_bpd_bound: each of 2 processes needs a window, and there are 1: raise "
        "windows (and --limit) to 2 or more, or start fewer processes",
        "hf on the CPU": "UsageError: 2 processes were started, and each takes itself for the only one: HFLM has no "
        "data parallelism on the CPU: run one process, without torchrun or accelerate launch and with WORLD_SIZE unset",
    }
    assert not list((out / "refused").rglob("*.json"))


def torchrun(*arguments: Any) -> str:
    """Runs a script in two processes and returns their standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    source = str(Path(lm_bounds.__file__).parents[1])
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def comparable(certificate: dict[str, Any]) -> dict[str, Any]:
    """All of a certificate but when, where and into which folder it was made."""
    kept = {name: value for name, value in certificate.items() if name not in ("created", "digest")}
    kept["model"] = {name: value for name, value in kept["model"].items() if name != "device"}
    kept["settings"] = {name: value for name, value in kept["settings"].items() if name != "certificates"}
    return kept


@pytest.mark.parametrize(("world_size", "pilot"), [(2, 7), (3, 7), (3, 2)])
def test_plan_and_observations_are_those_of_one_process(
    world_size: int, pilot: int, scored: Callable[..., list[Any]], alone: Callable[..., list[Observation]]
) -> None:
    """With a pilot of 2 windows the third process has none of it."""
    wanted_plan, wanted = join(alone(pilot=pilot))
    found = scored(world_size, pilot=pilot)
    assert [len(share) for share in found] == [len(range(rank, N_WINDOWS, world_size)) for rank in range(world_size)]
    plan, joined = join([entry for share in found for entry in share])
    own = {"created": wanted_plan.created, "code": dataclasses.replace(plan.code, seconds=wanted_plan.code.seconds)}
    assert dataclasses.replace(plan, **own) == wanted_plan
    assert plan.certify_seed_parts() == wanted_plan.certify_seed_parts()
    for name in ("token_index", "start", "stop"):
        np.testing.assert_array_equal(getattr(joined.windows, name), getattr(wanted.windows, name))
    for name, values in wanted.sums.items():
        np.testing.assert_array_equal(joined.sums[name], values)


def test_every_process_has_the_plan_of_the_first(scored: Callable[..., list[Any]]) -> None:
    plans = [share[0].plan for share in scored(3)]
    assert plans[0] == plans[1] == plans[2]


def test_processes_agree_where_batches_are_larger(
    scored: Callable[..., list[Any]], tiny_lm: Callable[..., Any]
) -> None:
    """Batches are of the windows of one process: the last digits may be others, the choices are the same everywhere."""
    lms = [tiny_lm("unigram", batch_size=size) for size in (5, 3)]
    found = scored(2, lms)
    plan, joined = join([entry for share in found for entry in share])
    assert plan.model.batch_size == 3  # what fits everywhere
    assert joined.n_windows == N_WINDOWS


@pytest.mark.parametrize("world_size", [2, 5])
def test_a_corpus_of_fewer_windows_than_processes_is_scored_whole(
    world_size: int, scored: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """Three windows: of five processes the last two have nothing to score, and answer all the same."""
    text = tmp_path / "short.txt"
    text.write_text("a short text, " * 12, encoding="utf-8")
    found = scored(world_size, corpus_path=str(text))
    assert [len(share) for share in found] == [len(range(rank, N_WINDOWS, world_size)) for rank in range(world_size)]
    assert [entry.is_surplus for share in found for entry in share].count(False) == 3
    plan, joined = join([entry for share in found for entry in share])
    assert plan.n_windows == joined.n_windows == 3
    assert int(joined.window_sizes.sum()) == plan.corpus.n_tokens
    [whole] = scored(1, corpus_path=str(text))
    assert sums_are_those_of_one(joined, join(whole)[1])


def sums_are_those_of_one(joined: Observations, wanted: Observations) -> bool:
    return all(np.allclose(joined.sums[name], wanted.sums[name], rtol=1e-6) for name in wanted.sums)


def test_padding_is_answered_and_not_scored_again(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval repeats the last request of a process that has fewer of them than another one."""
    monkeypatch.setattr(request_module, "processes_of", lambda lm: HERE.processes)
    observe, draws = Session.observe, {}

    def record(session: Session, numbers: Any, *others: Any) -> Any:
        draws[HERE.processes.rank] = list(numbers)
        return observe(session, numbers, *others)

    monkeypatch.setattr(Session, "observe", record)
    lms = [tiny_lm("unigram") for _ in range(2)]

    def one(own: Any) -> list[Observation]:
        requests = [
            entry for metric in ("bpd", "top1") for entry in share_of(metric, {**metadata, "windows": 5}, own.rank, 2)
        ]
        padded = requests + [requests[-1]] * (6 - len(requests))
        return token_statistics(lms[own.rank], padded)

    first, second = in_threads(2, one)
    assert draws == {0: [0, 2, 4], 1: [1, 3]}
    assert [entry.draw for entry in first] == [0, 2, 4] * 2
    assert [entry.draw for entry in second] == [1, 3, 1, 3, 3, 3]


def test_the_pilot_is_in_the_order_of_its_windows(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batches, and however many processes score it."""
    pilots: list[Any] = []
    choose = pipeline.choose_method
    monkeypatch.setattr(pipeline, "choose_method", lambda *given: pilots.append(given[2].at(None)) or choose(*given))
    [one] = token_statistics(tiny_lm("unigram", batch_size=5), share_of("bpd", metadata)[:1])
    session = pipeline.open_session(tiny_lm("unigram"), "local", one.plan.settings, 30, processes=ONE_PROCESS)
    seed = stream_seed("pilot", one.plan.settings.draw_seed, one.plan.corpus.sha256)
    windows = draw_windows(session.corpus, 12, one.plan.model.context, seed)
    sizes = windows.stop - windows.start
    assert sizes.tolist() != sorted(sizes.tolist(), reverse=True)
    first = 0
    for start, stop in zip(windows.start, windows.stop, strict=True):
        window = session.scorer.score_batch([session.corpus.read(int(start), int(stop))])
        part = slice(first, first := first + int(stop - start))
        np.testing.assert_allclose(pilots[0].log2_prob[part], window.log2_prob, atol=1e-4)
        np.testing.assert_array_equal(pilots[0].rank[part], window.rank)
    np.testing.assert_array_equal(pilots[0].window_sizes, sizes)


STEPS: dict[str, tuple[Any, str]] = {
    "the metadata": (request_module, "parse_settings"),
    "the settings": (pipeline, "check_settings"),
    "what is not measured": (pipeline, "check_unmeasured"),
    "the weights": (pipeline, "complexity"),
    "the corpus": (pipeline, "open_corpus"),
    "the plan": (pipeline, "settings_charges"),
    "the checks of the model": (scoring, "check_model"),
    "the pilot": (scoring.HFScorer, "score"),
    "the choices": (pipeline, "choose_method"),
    "the windows": (passes, "column_sums"),
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``failing(step, rank, error)``: one process raises the error in the step."""

    def install(step: str, rank: int, error: Exception) -> None:
        room, name = STEPS[step]
        original = getattr(room, name)

        def instead(*arguments: Any, **options: Any) -> Any:
            if HERE.processes.rank == rank:
                raise error
            return original(*arguments, **options)

        monkeypatch.setattr(room, name, instead)

    return install


@pytest.mark.parametrize(("step", "rank"), [*((step, step != "the choices") for step in STEPS), ("the corpus", 0)])
def test_a_failure_of_one_process_is_raised_by_all(
    step: str, rank: int, failing: Callable[..., None], scored: Callable[..., list[Any]]
) -> None:
    """The choices are made by rank 0 alone."""
    failing(step, int(rank), RuntimeError("the device is gone\n  at line 7"))
    assert lines(scored(2)) == {f"LmBoundsError: process {int(rank)} of 2: RuntimeError: the device is gone"}


def test_an_error_of_ours_keeps_its_class(failing: Callable[..., None], scored: Callable[..., list[Any]]) -> None:
    failing("the corpus", 2, CorpusError("a file is gone: look for it"))
    assert lines(scored(3)) == {"CorpusError: process 2 of 3: a file is gone: look for it"}


def test_what_is_wrong_everywhere_is_said_as_by_one_process(scored: Callable[..., list[Any]]) -> None:
    assert lines(scored(2, corpus_path="/nowhere")) == lines(scored(1, corpus_path="/nowhere"))


def test_a_metric_that_means_nothing_stops_all(scored: Callable[..., list[Any]], monkeypatch: Any) -> None:
    monkeypatch.setattr(pipeline, "offered_metrics", lambda metrics, vocab_size: ["top1"])
    assert lines(scored(2)) == {
        "UsageError: local_bpd_bound means nothing for a vocabulary of 257: run local_top1_bound"
    }


def test_weights_that_change_in_one_process_stop_all(
    scored: Callable[..., list[Any]], tiny_lm: Callable[..., Any]
) -> None:
    lms = [tiny_lm("unigram", batch_size=1) for _ in range(2)]
    call, calls = lms[1]._model_call, []

    def train_on(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(inputs)
        if len(calls) == 25:
            with torch.no_grad():
                next(lms[1].model.parameters()).view(-1)[0] += 1e-3
        return call(inputs)

    lms[1]._model_call = train_on
    [line] = lines(scored(2, lms))
    assert line.startswith("WeightsError: process 1 of 2: the model's weights changed while it was evaluated")


def differing(line: str) -> list[str]:
    """Names of the facts that a refusal says are different."""
    text = line.removeprefix("UsageError: processes 0 and 1 of 2 differ in ").partition(": start all of them")[0]
    return [part.split(" ")[0] for part in text.split(", ")]


def test_other_weights_in_one_process_are_refused(
    scored: Callable[..., list[Any]], tiny_lm: Callable[..., Any]
) -> None:
    lms = [tiny_lm("unigram", batch_size=1) for _ in range(2)]
    with torch.no_grad():
        next(lms[1].model.parameters()).view(-1)[0] += 1.0
    [line] = lines(scored(2, lms))
    assert "code.sha256" in differing(line)
    assert set(differing(line)) <= {"code.bits", "code.ledger", "code.sha256"}


def test_another_corpus_in_one_process_is_refused(
    scored: Callable[..., list[Any]], metadata: dict[str, Any], text_file: Path
) -> None:
    [line] = lines(scored(2, corpus_path=lambda rank: [metadata["corpus_path"], str(text_file)][rank]))
    assert {"settings.corpus_path", "corpus.sha256", "corpus.n_tokens"} <= set(differing(line))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"pilot": lambda rank: 7 + rank}, "settings.pilot (7 and 8)"),
        ({"draw_seed": lambda rank: rank}, "settings.draw_seed (0 and 1)"),
        ({"context": lambda rank: 64 - rank}, "settings.context (64 and 63), model.context (64 and 63)"),
        ({"certificates": lambda rank: "ab"[rank]}, "settings.certificates (a and b)"),
    ],
)
def test_other_settings_in_one_process_are_refused(
    changes: dict[str, Any], shown: str, scored: Callable[..., list[Any]], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    [line] = lines(scored(2, **changes))
    assert line.startswith(f"UsageError: processes 0 and 1 of 2 differ in {shown}")
    assert line.endswith(": start all of them with the same model, corpus, settings and software")


def test_another_number_of_runs_in_one_process_is_refused(
    metadata: dict[str, Any], tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "processes_of", lambda lm: HERE.processes)
    lm = tiny_lm("unigram")

    def one(own: Any) -> Any:
        contexts = (64, 32)[: own.rank + 1]
        return token_statistics(lm, [share_of("bpd", {**metadata, "context": length})[0] for length in contexts])

    [line] = lines(in_threads(2, one))
    assert line.startswith("UsageError: processes 0 and 1 of 2 differ in the number of runs (1 and 2): start")


def test_the_text_is_tokenised_by_the_first_process_alone(
    scored: Callable[..., list[Any]], documents_file: Path, lm_bounds_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_bounds.corpora import tokenised

    built: list[int] = []
    build = tokenised._build
    monkeypatch.setattr(tokenised, "_build", lambda *arguments: built.append(HERE.processes.rank) or build(*arguments))
    text = documents_file.with_name("read_once.jsonl")
    text.write_bytes(documents_file.read_bytes() + b'{"text": "one more"}\n')
    assert [len(share) for share in scored(2, corpus_path=str(text))] == [16, 15]
    assert built == [0]


def test_warnings_come_from_the_first_process_alone(
    scored: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[int] = []
    monkeypatch.setattr(request_module, "_warn_once", lambda message: warned.append(HERE.processes.rank))
    scored(2, windows=4, haystack_tokens=5)
    assert warned == [0, 0]


@pytest.mark.parametrize(("windows", "limit"), [(3, None), (10, 3), (3, 10)])
def test_fewer_windows_than_processes_are_refused_before_anything_is_scored(
    windows: int, limit: int | None, metadata: dict[str, Any]
) -> None:
    config = {"task": "mine", "corpus": "local", "metric": "bpd", "metadata": {**metadata, "windows": windows}}
    task = BoundTask(config)
    task.build_all_requests(limit=limit, rank=2, world_size=3)
    assert [request.doc["draw"] for request in task.instances] == [2]
    with pytest.raises(UsageError) as caught:
        task.build_all_requests(limit=limit, rank=0, world_size=4)
    assert str(caught.value) == (
        "mine: each of 4 processes needs a window, and there are 3: raise windows (and --limit) to 4 or more, or start "
        "fewer processes"
    )


# What the processes are made of.


def test_one_process_raises_what_the_step_raises() -> None:
    error = KeyError("as it is")

    def step() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        together(ONE_PROCESS, step)
    assert caught.value is error
    assert leader_first(ONE_PROCESS, lambda: 5) == from_leader(ONE_PROCESS, lambda: 5) == 5


def test_each_process_keeps_its_own_outcome_of_a_step() -> None:
    assert in_threads(3, lambda own: together(own, lambda: own.rank * 10)) == [0, 10, 20]


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        ({1: ModelError("no: stop")}, "ModelError: process 1 of 3: no: stop"),
        ({1: ModelError("one"), 2: WeightsError("two")}, "ModelError: process 1 of 3: one"),
        (dict.fromkeys(range(3), ModelError("no: stop")), "ModelError: no: stop"),
        ({0: ModelError("a"), 1: ModelError("b"), 2: ModelError("a")}, "ModelError: process 0 of 3: a"),
        ({2: KeyError("k")}, "LmBoundsError: process 2 of 3: KeyError: 'k'"),
        ({2: MemoryError()}, "LmBoundsError: process 2 of 3: MemoryError"),
    ],
)
def test_the_first_failure_is_raised_by_all(errors: dict[int, Exception], line: str) -> None:
    def run(own: Any) -> Any:
        def step() -> None:
            if own.rank in errors:
                raise errors[own.rank]

        return together(own, step)

    outcomes = in_threads(3, run)
    assert lines(outcomes) == {line}
    assert [outcome.__cause__ for outcome in outcomes] == [errors.get(rank) for rank in range(3)]


def test_the_leader_is_done_before_the_others_begin() -> None:
    order: list[int] = []

    def run(own: Any) -> int:
        return leader_first(own, lambda: order.append(own.rank) or own.rank)

    for _ in range(5):
        assert in_threads(3, run) == [0, 1, 2]
        assert order[0] == 0
        order.clear()


def test_what_the_leader_finds_is_what_all_have() -> None:
    taken: list[int] = []

    def run(own: Any) -> str:
        return from_leader(own, lambda: taken.append(own.rank) or f"made by {own.rank}")

    assert in_threads(3, run) == ["made by 0"] * 3
    assert taken == [0]


def test_facts_that_differ_are_named_and_values_shown_where_they_are_short() -> None:
    facts = [{"size": 3, "hash": "a" * 64, "same": [1]}, {"size": 4, "hash": "b" * 64, "same": [1]}]
    assert in_threads(2, lambda own: check_alike(own, facts[0])) == [None, None]
    assert lines(in_threads(2, lambda own: check_alike(own, facts[own.rank]))) == {
        "UsageError: processes 0 and 1 of 2 differ in size (3 and 4), hash: start all of them with the same model, "
        "corpus, settings and software"
    }


# Who the processes are.


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``connected(rank, beliefs)``: torch.distributed connects as many processes as there are (rank, world size)."""

    def install(rank: int, beliefs: list[Any]) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: len(beliefs))

        def gather(found: list[Any], value: Any) -> None:
            assert value == beliefs[rank]
            found[:] = beliefs

        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)

    return install


def backend(rank: int = 0, world_size: int = 1, device: str = "cuda:0") -> Any:
    return types.SimpleNamespace(rank=rank, world_size=world_size, device=torch.device(device))


@pytest.mark.parametrize("value", [None, "", "1", "many"])
def test_one_process_is_one_process(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if value is not None:
        monkeypatch.setenv("WORLD_SIZE", value)
    assert processes_of(backend()) is ONE_PROCESS


def test_processes_are_those_that_torch_connects(connected: Callable[..., None]) -> None:
    connected(1, [(0, 3), (1, 3), (2, 3)])
    found = processes_of(backend(1, 3))
    assert found == processes.TorchProcesses(1, 3)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("known_from", ["WORLD_SIZE", "torch.distributed"])
def test_processes_that_do_not_know_of_each_other_are_refused(
    device: str, known_from: str, monkeypatch: pytest.MonkeyPatch, connected: Callable[..., None]
) -> None:
    """Every one of them would write the certificates."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if known_from == "WORLD_SIZE":
        monkeypatch.setenv("WORLD_SIZE", "2")
    else:
        connected(1, [(0, 1), (0, 1)])
    where = "on the CPU" if device == "cpu" else "except for checkpoints that it loads onto several GPUs"
    with pytest.raises(UsageError, match=rf"^2 processes were started, .* has no data parallelism {where}.*: run one"):
        processes_of(backend(device=device))


@pytest.mark.parametrize(
    ("beliefs", "line"),
    [
        ([(0, 4), (1, 4), (0, 4), (1, 4)], "process 2 of 4 for process 0 of 4"),
        ([(0, 2), (1, 2), (0, 2), (1, 2)], "process 0 of 4 for process 0 of 2"),
    ],
    ids=["ranks of each machine", "sizes of each machine"],
)
@pytest.mark.parametrize("rank", [0, 3])
def test_processes_that_are_counted_in_each_machine_are_refused_by_all(
    rank: int, beliefs: list[Any], line: str, connected: Callable[..., None]
) -> None:
    connected(rank, beliefs)
    with pytest.raises(UsageError, match=f"takes {line}: it counts within one machine, so run all processes on one"):
        processes_of(backend(*beliefs[rank]))


def test_processes_that_torch_does_not_connect_are_refused() -> None:
    with pytest.raises(UsageError, match=r"counts 2 processes, which torch.distributed does not connect: use --model"):
        processes_of(backend(0, 2))


def test_a_task_refuses_processes_that_do_not_know_of_each_other(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, certificates: Callable[[], list[Path]]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"HFLM has no data parallelism on the CPU: run one process"):
        evaluate("local_bpd_bound")
    assert certificates() == []
