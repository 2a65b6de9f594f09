"""Evaluations by the processes that torchrun starts; ``test_processes.py`` runs it and reads what each of them wrote.

    python -m torch.distributed.run --standalone --nproc_per_node 2 share_a_run.py REQUEST.json

The request has the keys ``checkpoint``, ``metadata`` and ``out``; process r writes ``out/r.json``.
"""

from __future__ import annotations

import json
import sys
import unittest.mock
from pathlib import Path
from typing import Any

import torch.distributed
from accelerate import Accelerator
from lm_eval.models.huggingface import HFLM

from lm_bounds.doctor import tasks_path
from lm_bounds.errors import LmBoundsError
from lm_bounds.pipeline import Session

TASK = "local_bpd_bound"


class DataParallel(HFLM):
    """hf as it is where there are two GPUs, but on the CPU: accelerate counts the processes and connects them."""

    def __init__(self, **options: Any) -> None:
        Accelerator(cpu=True)
        with unittest.mock.patch("torch.cuda.device_count", return_value=2):
            super().__init__(device="cpu", **options)


class Runs:
    """Evaluations of one checkpoint on one corpus, the same in every process but for what a run is said to change."""

    def __init__(self, checkpoint: str, metadata: dict[str, Any], out: str) -> None:
        self.checkpoint, self.metadata, self.out = checkpoint, metadata, Path(out)
        self.rank = Accelerator(cpu=True).process_index

    def model(self, kind: type[HFLM] = DataParallel, **options: Any) -> HFLM:
        return kind(pretrained=self.checkpoint, **{"batch_size": 1, **options})

    def evaluate(self, lm: HFLM, tasks: str = TASK, **changes: Any) -> Any:
        import lm_eval
        from lm_eval.tasks import TaskManager

        metadata = {**self.metadata, **changes}
        manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
        return lm_eval.simple_evaluate(
            model=lm, tasks=[tasks], task_manager=manager, bootstrap_iters=0, log_samples=tasks == TASK
        )

    def error(self, lm: HFLM, **changes: Any) -> str:
        """The class and the message of what an evaluation raises."""
        try:
            self.evaluate(lm, certificates=str(self.out / "refused"), **changes)
        except LmBoundsError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing was raised"

    def whole(self) -> dict[str, Any]:
        """A run of all tasks: who scored what, and how many windows the model saw."""
        lm, rows, draws = self.model(), [], []
        call, observe = lm._model_call, Session.observe

        def seen(inputs: Any) -> Any:
            rows.append(len(inputs))
            return call(inputs)

        def observed(session: Session, numbers: Any, progress: Any) -> Any:
            draws.extend(numbers)
            return observe(session, numbers, progress)

        lm._model_call, Session.observe = seen, observed
        try:
            results = self.evaluate(lm, "local_bounds")
        finally:
            Session.observe = observe
        shares: list[Any] = [None, None]
        torch.distributed.all_gather_object(shares, draws)
        assert all(shares), "every process scores certifying windows"
        assert sorted([*shares[0], *shares[1]]) == list(range(self.metadata["windows"])), "each window is scored once"
        return {"draws": draws, "rows": sum(rows), "results": results and results["results"]}

    def samples(self) -> Any:
        """The draws of the samples that lm-eval logs."""
        results = self.evaluate(self.model(), certificates=str(self.out / "samples"))
        return results and sorted(sample["doc"]["draw"] for sample in results["samples"][TASK])

    def detected_batches(self) -> None:
        """A batch size that each process finds out: another one in each."""
        lm = self.model(batch_size="auto", max_batch_size=4 - self.rank)
        self.evaluate(lm, certificates=str(self.out / "auto"))

    def fails_while_scoring(self) -> str:
        """One process is out of memory while it scores its windows."""
        lm, calls = self.model(), []
        call = lm._model_call

        def fail(inputs: Any) -> Any:
            calls.append(inputs)
            if self.rank == 1 and len(calls) == 20:
                raise RuntimeError("out of memory\nwhile scoring")
            return call(inputs)

        lm._model_call = fail
        return self.error(lm)

    def other_weights(self) -> str:
        """One process has loaded other weights."""
        lm = self.model()
        if self.rank == 1:
            next(lm.model.parameters()).data.view(-1)[0] += 1.0
        return self.error(lm)

    def counted_in_each_machine(self) -> str:
        """Two machines of one process: both are the first of their machine."""
        lm = self.model()
        lm._rank = 0
        return self.error(lm)

    def run(self) -> dict[str, Any]:
        """All of them, by name."""
        return {
            "whole": self.whole(),
            "samples": self.samples(),
            "detected batches": self.detected_batches(),
            "fails while scoring": self.fails_while_scoring(),
            "other weights": self.other_weights(),
            "other settings": self.error(self.model(), pilot=13 + self.rank),
            "counted in each machine": self.counted_in_each_machine(),
            "fewer windows": self.error(self.model(), windows=1),
            "hf on the CPU": self.error(self.model(HFLM, device="cpu")),
        }


if __name__ == "__main__":
    runs = Runs(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    found = runs.run()
    (runs.out / f"{runs.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()
