"""The arrows in order: the file to read first.

    corpus -> sample -> token statistics -> risk \\
                                                   > bound -> certificate
    model  -> weights -> compressor -> code length /

``open_session`` does everything that comes before the certifying draws: it measures the weights, opens the corpus,
scores the pilot and fixes every choice. ``Session.observe`` draws and scores certifying windows; certificates/
turns what they showed into bounds and writes them down. Several processes split the windows of the pilot and of the
certifying draws among them; every choice is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.bounds import Method, Pilot, check_method, choose_method, top_k
from lm_bounds.bounds.statistics import IntArray
from lm_bounds.certificates.evidence import CorpusFacts, Levels, ModelFacts, Observations, Plan, settings_charges
from lm_bounds.codelength import CodeLength
from lm_bounds.complexity import check_size_settings, complexity
from lm_bounds.compressors import measure
from lm_bounds.compressors.container import read_model
from lm_bounds.corpora import Corpus, check_source, corpus_spec, open_corpus
from lm_bounds.errors import CorpusError, UsageError, WeightsError
from lm_bounds.home import certificate_root, check_writable, home
from lm_bounds.models import IN_MEMORY, display_name
from lm_bounds.passes import Progress, no_progress, sample_size, score_certifying, score_pilot, stream_windows
from lm_bounds.processes import ONE_PROCESS, Processes, check_alike, from_leader, leader_first, together
from lm_bounds.settings import Settings
from lm_bounds.weights import check_unmeasured, code_of, unchanged, weights_of

_CALIBRATION_WINDOWS = 64
_OWN_FACTS = ("created", "model.device", "code.seconds")  # of a plan: those of each process of a run


def code_length(path: str | Path, compressor: str = "arithmetic") -> CodeLength:
    """The measured size of a checkpoint's weights in bits.

    Args:
        path: directory of a checkpoint, one .safetensors, .gguf or packed .lmb file, a Hub id, ``BASE,peft=ADAPTER``,
            or the name of a model that comes with the package.
        compressor: its name.

    Raises:
        WeightsError: when the weights cannot be read.
        UsageError: for an unknown compressor, or an argument of another form.
    """
    return measure(read_model(path), compressor)


def check_settings(settings: Settings, corpus_id: str) -> None:
    """Refuses what can be known to be wrong before a model is loaded: names, and a corpus that is not there.

    Raises:
        UsageError: for an unknown method, compressor or corpus, a missing corpus_path or artifact, or certificates that
            cannot be written.
        CorpusError: for a path that does not exist.
    """
    spec = corpus_spec(corpus_id)
    check_size_settings(settings)
    check_method(settings.method, settings.smoothing)
    check_source(spec, settings.corpus_path)
    check_writable(certificate_root(settings.certificates))


def offered_metrics(metrics: Sequence[str], vocab_size: int) -> list[str]:
    """The metrics that mean something for a vocabulary: no top-k where k >= V/1.2.

    >>> offered_metrics(["bpd", "top1", "top10"], 12)
    ['bpd', 'top1']
    """
    return [metric for metric in metrics if metric == "bpd" or top_k(metric) < vocab_size / 1.2]


@dataclass(frozen=True)
class Session:
    """A plan with the live objects that it is carried out with.

    Args:
        plan: what is fixed.
        corpus: the token stream.
        scorer: of the language model.
        processes: that carry it out.
        state: what the loaded model has to stay, where the weights were measured from files: see ``weights.Origin``.
    """

    plan: Plan
    corpus: Corpus
    scorer: Any
    processes: Processes = ONE_PROCESS
    state: str | None = None

    def observe(self, draws: Sequence[int], progress: Progress = no_progress) -> Observations:
        """Scores the certifying windows of some draw numbers, each in [0, n_windows); a process has its own ones.

        Raises:
            WeightsError: when the weights are no longer those that were measured.
            LmBoundsError: when another process fails.
        """
        return together(self.processes, lambda: self._observe(np.asarray(draws, dtype=np.int64), progress))

    def _observe(self, numbers: IntArray, progress: Progress) -> Observations:
        observations = score_certifying(self.plan, self.scorer, self.corpus, numbers, progress)
        if self.corpus.sha256() != self.plan.corpus.sha256:
            raise CorpusError(f"{self.corpus.source} was changed while a model was evaluated on it: run again")
        if not unchanged(self.scorer.lm.model, self.plan.code.sha256, self.state):
            raise WeightsError(
                "the model's weights changed while it was evaluated: they are not the measured ones; load it again"
            )
        return observations


def open_session(
    lm: Any,
    corpus_id: str,
    settings: Settings,
    n_windows: int,
    progress: Progress = no_progress,
    processes: Processes = ONE_PROCESS,
) -> Session:
    """Measures the weights, opens the corpus, scores the pilot and fixes every choice.

    Of several processes each does so, except that they split the pilot; what one of them measures otherwise than rank 0
    stops all of them, and the plan is that of rank 0.

    Args:
        lm: an HFLM, loaded and not used yet.
        corpus_id: of the registry.
        settings: the user's.
        n_windows: certifying windows that are asked for; all windows where the corpus has fewer.
        progress: is told how far the scoring of the pilot is.
        processes: that score the windows of the run.

    Raises:
        LmBoundsError: one line that says what to do, for anything that cannot be certified; the same in all processes.
    """
    scorer, code, state = together(processes, lambda: _measured(lm, corpus_id, settings))
    scorer = replace(scorer, batch_size=min(processes.exchange(scorer.batch_size)))
    corpus = leader_first(processes, lambda: opened_corpus(lm, corpus_id, settings.corpus_path, scorer.vocab_size))
    own = together(processes, lambda: _unchosen_plan(lm, scorer, corpus, code, settings, n_windows))
    check_alike(processes, _shared_facts(own))
    plan = from_leader(processes, lambda: own)
    together(processes, lambda: check_causal(plan, scorer, corpus))
    pilot = score_pilot(plan, scorer, corpus, progress, processes)
    methods = from_leader(processes, lambda: _chosen_methods(plan, pilot))
    return Session(replace(plan, methods=methods), corpus, scorer, processes, state)


def _measured(lm: Any, corpus_id: str, settings: Settings) -> tuple[Any, CodeLength, str | None]:
    """The scorer of the language model, the size of its weights, and the state of the model that has them."""
    from lm_bounds.scoring import check_backend, make_scorer

    check_settings(settings, corpus_id)
    check_backend(lm)
    scorer = cache(lambda: make_scorer(lm, settings.context))  # finding its batch size may already run the model
    origin = weights_of(lm, lambda: scorer().vocab_size)
    check_unmeasured(lm.model, origin.compared)
    return scorer(), complexity(origin.weights, settings), origin.state


def opened_corpus(lm: Any, corpus_id: str, corpus_path: str | None, n_logits: int) -> Corpus:
    """A corpus as the tokens of a language model.

    Args:
        lm: an HFLM.
        corpus_id: of the registry.
        corpus_path: as in ``Settings``.
        n_logits: V.

    Raises:
        LmBoundsError: as ``open_corpus``.
    """
    return open_corpus(
        corpus_spec(corpus_id),
        corpus_path,
        lm.tokenizer,
        end_of_text_id=lm.eot_token_id,
        n_logits=n_logits,
        cache_dir=home() / "tokens",
    )


def _shared_facts(plan: Plan) -> dict[str, Any]:
    """What has to be the same in every process, by name."""
    facts: dict[str, Any] = {}
    for part, value in asdict(plan).items():
        facts.update(
            {f"{part}.{name}": entry for name, entry in value.items()} if isinstance(value, dict) else {part: value}
        )
    return {name: value for name, value in facts.items() if name not in _OWN_FACTS}


def _chosen_methods(plan: Plan, pilot: Pilot) -> dict[str, Method]:
    metrics, settings = offered_metrics(corpus_spec(plan.corpus.corpus_id).metrics, plan.model.n_choices), plan.settings
    return {name: choose_method(settings.method, plan.problem(name), pilot, settings.smoothing) for name in metrics}


def check_causal(plan: Plan, scorer: Any, corpus: Corpus) -> None:
    """Refuses a model whose predictions move with later tokens, tried on a window of the corpus.

    Raises:
        ModelError: naming what moved.
    """
    from lm_bounds.scoring import check_model

    check_model(scorer, _probe(plan, corpus))


def _probe(plan: Plan, corpus: Corpus) -> IntArray:
    """The longest calibration window, repeated up to the largest length that can come up."""
    windows = stream_windows(plan, corpus, "calibration", _CALIBRATION_WINDOWS)
    longest = int(np.argmax(windows.stop - windows.start))
    tokens = corpus.read(int(windows.start[longest]), int(windows.stop[longest]))
    return np.resize(tokens, plan.model.context)


def _unchosen_plan(lm: Any, scorer: Any, corpus: Corpus, code: CodeLength, settings: Settings, n_windows: int) -> Plan:
    model = model_facts(lm, scorer)
    n_observed = sample_size(settings, corpus, model.context, n_windows)
    facts, charges = corpus_facts(corpus, settings), settings_charges(settings, model)
    return Plan(settings, facts, model, code, charges, {}, n_observed, utc_now())


def utc_now() -> str:
    """The UTC time, ISO 8601."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def corpus_facts(corpus: Corpus, settings: Settings) -> CorpusFacts:
    """What identifies an open corpus; how many tokens it has at least may depend on the failure probability.

    Raises:
        UsageError: that is so small that it may have none.
    """
    count = None if corpus.count is None else corpus.count.to_dict()
    n_metrics = len(corpus_spec(corpus.corpus_id).metrics)
    if corpus.count is None:
        n_tokens = corpus.n_tokens
    else:
        n_tokens = corpus.count.at_least(Levels.of(settings.to_dict(), n_metrics, count).count)
        if not n_tokens:
            raise UsageError(
                f"at failure_prob={settings.failure_prob} nothing is known of how many tokens {corpus.source} has: "
                "raise it"
            )
    return CorpusFacts(
        corpus_id=corpus.corpus_id,
        source=corpus.source,
        n_tokens=n_tokens,
        n_tokens_kind=corpus.n_tokens_kind,
        n_documents=corpus.n_documents,
        sha256=corpus.sha256(),
        tokenizer_sha256=corpus.tokenizer_sha256,
        end_of_text_id=corpus.end_of_text_id,
        n_metrics=n_metrics,
        identified_by=corpus.identified_by,
        count=count,
        reencoded_from=corpus.reencoded_from,
    )


def model_facts(lm: Any, scorer: Any) -> ModelFacts:
    """What identifies a loaded model with its scorer."""
    tokenizer, config = lm.tokenizer, lm.model.config
    own_prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    given = getattr(lm, "pretrained", None)
    name = display_name(given if isinstance(given, str) else config._name_or_path or "nothing")
    name = name if isinstance(given, str) else f"{IN_MEMORY} (made from {name})"
    from_hub = isinstance(given, str) and not Path(given).exists()
    added = "".join(f",{kind}={value}" for kind in ("peft", "delta") if (value := getattr(lm, kind, None)))
    return ModelFacts(
        name=name + added,
        revision=(getattr(config, "_commit_hash", None) or getattr(lm, "revision", None)) if from_hub else None,
        architecture=type(lm.model).__name__,
        dtype=str(scorer.dtype).removeprefix("torch."),
        backend=type(lm).__name__,
        vocab_size=scorer.vocab_size,
        n_choices=min(scorer.vocab_size, len(tokenizer)),
        context=scorer.context,
        prefix_token_id=scorer.prefix_token_id,
        default_prefix=scorer.prefix_token_id == own_prefix,
        batch_size=scorer.batch_size,
        device=str(lm.device),
        code=code_of(lm.model),
    )
