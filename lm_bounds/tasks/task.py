"""The lm-eval task of one metric of one corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from lm_bounds.corpora import corpus_spec
from lm_bounds.errors import UsageError
from lm_bounds.settings import parse_settings
from lm_bounds.tasks.request import REQUEST_TYPE, Observation, attach, shared_run
from lm_bounds.tasks.results import MARKS, RESULT_KEYS, Conclusion, conclude, mark, window_values

attach()

_REFUSED = {
    "samples": "--samples chooses the windows by hand, which makes the sample biased",
    "cache_requests": "--cache_requests would reuse the requests of another run",
    "rewrite_requests_cache": "--cache_requests would reuse the requests of another run",
    "system_instruction": "--system_instruction changes every context",
    "apply_chat_template": "--apply_chat_template changes every context",
}


def _check_metric(corpus_id: str, metric: str) -> None:
    """Refuses a metric that a corpus does not offer.

    Raises:
        UsageError: naming those that it offers, or there is no such corpus.
    """
    offered = corpus_spec(corpus_id).metrics
    if metric not in offered:
        tasks = ",".join(f"local_{each}_bound" for each in offered)
        raise UsageError(f"corpus {corpus_id!r} has no bound of {metric}: run --tasks {tasks}")


class BoundTask(Task):
    """A generalization bound of one metric on one corpus, as an lm-eval task.

    Its documents are numbers of certifying draws; the windows, the tokenizer and the code length are resolved by the
    language model's ``token_statistics`` requests, which see all tasks of a run together.

    Args:
        config: of the YAML file: ``task``, ``corpus``, ``metric`` and the run's ``metadata``, whose ``corpus`` is the
            corpus of the tasks of ``local``.

    Raises:
        UsageError: for a setting that is not allowed, or a corpus that is not registered or has no such metric.
    """

    VERSION = 1.0
    OUTPUT_TYPE = REQUEST_TYPE

    def __init__(self, config: Mapping[str, Any]) -> None:
        # Task.__init__ would put the whole mapping into TaskConfig's first field
        self.metric = str(config["metric"])
        self.metadata = dict(config.get("metadata") or {})
        self.settings = parse_settings(self.metadata)
        self.corpus_id = self.settings.corpus_of(str(config["corpus"]))
        if self.settings.corpus == self.corpus_id:
            _check_metric(self.corpus_id, self.metric)
        self._config = TaskConfig(
            task=config["task"],
            metadata=self.metadata,
            output_type=REQUEST_TYPE,
            metric_list=[{"metric": key} for key in self._keys()],
        )
        self._training_docs = self._fewshot_docs = None
        self._instances: list[Instance] | None = None
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self.fewshot_rnd = None
        self._conclusion: Conclusion | None = None

    def has_training_docs(self) -> bool:
        """False: nothing is shown to the model before a window."""
        return False

    def has_validation_docs(self) -> bool:
        """False."""
        return False

    def has_test_docs(self) -> bool:
        """True: the certifying draws."""
        return True

    def test_docs(self) -> list[dict[str, int]]:
        """The numbers of the certifying draws."""
        return [{"draw": number} for number in range(self.settings.windows)]

    def doc_to_text(self, doc: Mapping[str, int]) -> str:
        """A name for the log; the window's text is not known before the model is."""
        return f"window {doc['draw']}"

    def doc_to_target(self, doc: Mapping[str, int]) -> str:
        """Every token of the window is a target."""
        return ""

    def build_all_requests(self, *, limit: int | None = None, rank: int = 0, world_size: int = 1, **flags: Any) -> None:
        """One request for each certifying draw.

        Raises:
            UsageError: for a flag that would falsify the bound, by name, a limit that leaves no window, or more
                processes than windows.
        """
        for name, reason in _REFUSED.items():
            if flags.get(name):
                raise UsageError(f"{self.config.task}: {reason}: run again without it")
        if self.config.num_fewshot:
            raise UsageError(
                f"{self.config.task}: --num_fewshot prepends other windows to every context: run again without it"
            )
        if limit is not None and limit < 1:
            raise UsageError(f"{self.config.task}: --limit must be positive, {limit} windows would be left")
        n_windows = self.settings.windows if limit is None else min(self.settings.windows, int(limit))
        if n_windows < world_size:
            raise UsageError(
                f"{self.config.task}: each of {world_size} processes needs a window, and there are {n_windows}: raise "
                f"windows (and --limit) to {world_size} or more, or start fewer processes"
            )
        self._conclusion = None
        documents = list(self.doc_iterator(rank=rank, limit=limit, world_size=world_size))
        shared = shared_run(self.corpus_id, self.metadata, n_windows)
        self._instances = [
            Instance(
                request_type=REQUEST_TYPE,
                doc=doc,
                arguments=(self.doc_to_text(doc), shared, self.metric),
                idx=0,
                metadata=(self.config.task, doc_id, 1),
            )
            for doc_id, doc in documents
        ]

    def construct_requests(self, doc: Any, ctx: Any, **kwargs: Any) -> list[Instance]:
        """Never called: ``build_all_requests`` makes the requests."""
        raise UsageError("requests of a bound task are made by build_all_requests")

    def override_metric(self, metric_name: str) -> None:
        """Refuses --predict_only, which leaves the metrics out.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.config.task}: --predict_only leaves the bound out: run again without it")

    def process_results(self, doc: Mapping[str, int], results: list[Observation]) -> dict[str, Any]:
        """The window's own numbers; the key of the bound carries the whole observation."""
        observation = results[0]
        values = dict(zip(self._keys(), (observation, *window_values(observation, self.metric)), strict=True))
        marked = mark(observation.plan)
        return values if marked is None else {**values, marked: 1.0}

    def aggregation(self) -> dict[str, Callable[[list[Any]], float]]:
        """Every key's function of its values: the first concludes the run, the others read what came of it."""
        first, *others = self._keys()
        return {
            first: self._conclude,
            **{key: self._reader(position) for position, key in enumerate(others, start=1)},
            **dict.fromkeys(MARKS, max),
        }

    def higher_is_better(self) -> dict[str, bool]:
        """False where low is good."""
        return {
            key: key == "nonvacuous" for key in self._keys() if key not in ("corpus_tokens", "scored_tokens", "windows")
        }

    def _keys(self) -> list[str]:
        return [key.format(metric=self.metric) for key in RESULT_KEYS]

    def _conclude(self, observations: list[Observation]) -> float:
        self._conclusion = conclude(observations, self.metric)
        certificate = self._conclusion.certificate
        print(f"certificate: {certificate.path}", file=sys.stderr)
        if certificate.vacuous:
            bits, n_tokens = certificate.fields["complexity"]["bits"], certificate.fields["corpus"]["n_tokens"]
            print(
                f"vacuous: {bits:,.0f} bits of model for {n_tokens:,} tokens; a longer corpus or a model of fewer bits "
                "would say more",
                file=sys.stderr,
            )
        return self._conclusion.values[0]

    def _reader(self, position: int) -> Callable[[list[Any]], float]:
        def read(values: list[Any]) -> float:
            assert self._conclusion is not None, "the key of the bound is aggregated first"
            return self._conclusion.values[position]

        return read
