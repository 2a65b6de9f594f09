"""Certificates of an invented model on an invented corpus, and an adversary who restates them consistently.

No network is run: the statistics of every token of the corpus are one table, as a model that never changes would give.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import (
    METRICS,
    TEMPERATURE_GRID,
    UNIT_TEMPERATURE,
    Pilot,
    Problem,
    TokenCount,
    TokenStatistics,
    choose_method,
    method_from_dict,
    vacuous_at,
)
from lm_bounds.certificates import (
    Certificate,
    ModelFacts,
    Observations,
    Plan,
    Verification,
    verify,
    write_certificates,
)
from lm_bounds.certificates.claim import claim_sentence
from lm_bounds.certificates.evidence import Levels, MeasuredCode, certify_seed_parts, context_rule
from lm_bounds.certificates.files import digest, sha256_file
from lm_bounds.certificates.verify import read_observations
from lm_bounds.codelength import CodeLength, EvaluationSettings, LedgerItem, length_prefix, settings_ledger
from lm_bounds.corpora import TokenCorpus
from lm_bounds.corpora.slots import SlotCorpus
from lm_bounds.passes import certifying_windows, column_sums, sample_size
from lm_bounds.pipeline import corpus_facts
from lm_bounds.sampling import Windows, draw_windows, draws_sha256, ending_with_token, stream_seed
from lm_bounds.settings import Settings

VOCABULARY, TOKENS, CONTEXT, WINDOWS = 260, 200_000, 64, 40
WEIGHTS = ("config.json", 800.0), ("schema", 300.0), ("wte.weight", 9000.0), ("coder termination", 2.0)
MODEL = ModelFacts(
    name="invented/model",
    revision="main",
    architecture="InventedForCausalLM",
    dtype="float32",
    backend="HFLM",
    vocab_size=VOCABULARY,
    n_choices=257,
    context=CONTEXT,
    prefix_token_id=256,
    default_prefix=True,
    batch_size=8,
    device="cpu",
)


@dataclass(frozen=True)
class Run:
    """What a run leaves behind."""

    plan: Plan
    observations: Observations
    directory: Path
    certificates: Mapping[str, Certificate]

    def path(self, metric: str) -> Path:
        return self.certificates[metric].path


@functools.cache
def _table(n_tokens: int = TOKENS) -> tuple[TokenCorpus, dict[str, np.ndarray]]:
    """The first tokens of the corpus, and the statistics of all of them."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, 400, TOKENS)
    starts = np.cumsum(lengths) - lengths
    tokens = random.integers(0, VOCABULARY - 4, TOKENS).astype(np.uint16)
    starts = starts[starts < n_tokens].astype(np.int64)
    corpus = TokenCorpus("local", "book.txt", tokens[:n_tokens], starts, "e" * 64, 256)
    surprise = random.exponential(2.0, TOKENS)
    statistics = {
        "log2_prob": -surprise,
        "rank": np.minimum(VOCABULARY, 1 + (2.0**surprise).astype(np.int64) // 2),
        "entropy_bits": np.clip(surprise + random.normal(0.0, 1.0, TOKENS), 0.0, 8.0),
        "max_prob": random.uniform(0.1, 1.0, TOKENS),
    }
    return corpus, statistics


def _score(windows: Windows, temperature: float, unit: str) -> TokenStatistics:
    """The invented model is least surprised at T = 1.19."""
    _, table = _table()
    rows = np.concatenate([np.arange(a, b) for a, b in zip(windows.start, windows.stop, strict=True)])
    found = {name: values[rows] for name, values in table.items()}
    found["log2_prob"] = found["log2_prob"] * (0.9 + 4 * np.log2(temperature / 1.19) ** 2)
    found["entropy_bits"] = np.clip(found["entropy_bits"] * temperature, 0.0, 8.0)
    statistics = TokenStatistics(**found, window_sizes=windows.stop - windows.start)
    return statistics.last_tokens() if unit == "token" else statistics


def _unchosen_plan(settings: Settings, corpus: TokenCorpus | SlotCorpus, model: ModelFacts, n_windows: int) -> Plan:
    ledger = tuple(LedgerItem(*entry) for entry in WEIGHTS)
    bits = sum(entry.bits for entry in ledger)
    code = CodeLength(settings.compressor, "adaptive 1", bits, ledger, 1500, 2, 6000, "a" * 64, 0.5, True)
    facts = corpus_facts(corpus, settings)
    charged = EvaluationSettings(settings.compressor, model.context, model.default_prefix, model.vocab_size)
    created = "2026-01-02T03:04:05.678901Z"
    return Plan(settings, facts, model, code, settings_ledger(charged), {}, n_windows, created)


def _run(
    directory: Path,
    model: ModelFacts = MODEL,
    n_windows: int = WINDOWS,
    n_tokens: int = TOKENS,
    corpus: SlotCorpus | None = None,
    **chosen: Any,
) -> Run:
    corpus = corpus or _table(n_tokens)[0]
    settings = Settings(**{"corpus_path": "book.txt", "windows": n_windows, **chosen})
    plan = _unchosen_plan(settings, corpus, model, sample_size(settings, corpus, CONTEXT, n_windows))
    windows = draw_windows(corpus, settings.n_pilot, CONTEXT, stream_seed("pilot", settings.draw_seed, "corpus"))
    windows = ending_with_token(windows) if settings.unit == "token" else windows
    offered = [UNIT_TEMPERATURE] if settings.method == "paper" else range(len(TEMPERATURE_GRID))
    pilot = Pilot({index: _score(windows, TEMPERATURE_GRID[index], settings.unit) for index in offered})
    methods = {name: choose_method(settings.method, plan.problem(name), pilot, settings.smoothing) for name in METRICS}
    plan = replace(plan, methods=methods)
    windows = certifying_windows(plan, corpus)
    seen = {method.temperature: _score(windows, method.temperature, settings.unit) for method in methods.values()}
    sums = column_sums(plan, seen)
    observations = Observations(windows, sums, settings.unit)
    certificates = write_certificates(plan, observations, list(methods), directory)
    return Run(plan, observations, directory, {entry.metric: entry for entry in certificates})


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``fabricated(**settings)``: a run on the invented corpus, certificates of all metrics; read it, do not write."""

    @functools.cache
    def make(**chosen: Any) -> Run:
        return _run(tmp_path_factory.mktemp("run"), **chosen)

    return make


@pytest.fixture(scope="session")
def slot_corpora(invented_slots: Callable[..., SlotCorpus]) -> dict[str, SlotCorpus]:
    """Corpora of as many slots as the table has rows: of ``documents``, and of ``rows`` and ``declared`` rows."""
    random = np.random.default_rng(11)
    sizes = random.integers(1, 400, 5000)
    sizes = sizes[np.cumsum(sizes) < TOKENS]
    rows = random.integers(120, 220, 5000)
    rows = rows[np.cumsum(rows) < TOKENS]
    tokens = np.where(random.random(len(rows)) < 0.15, -1, 40)
    row = {"sizes": rows.tolist(), "tokens": tokens.tolist(), "per_token": 2, "row_tokens": 40}
    return {
        "documents": invented_slots(sizes.tolist(), (sizes // random.integers(2, 6, len(sizes))).tolist()),
        "rows": invented_slots(**row),
        "declared": invented_slots(**row, declared=40 * len(rows)),
    }


@pytest.fixture(scope="session")
def run(fabricated: Callable[..., Run]) -> Run:
    """With kl_inf and draws of the model's own."""
    return fabricated()


Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def restated(tmp_path: Path) -> Callable[..., Verification]:
    """Verification of a copy in which ``change`` was made, the digest recomputed.

    With ``consistently``, everything that follows from the other fields and the observations is recomputed first: seed,
    ledger, terms, claim, sentence. ``arrays`` changes the observations, whose sha256 is then always stated correctly.
    """

    def restate(
        run: Run,
        change: Change,
        metric: str = "bpd",
        *,
        consistently: bool = False,
        arrays: Callable[[dict[str, np.ndarray]], object] | None = None,
    ) -> Verification:
        fields = json.loads(run.path(metric).read_bytes())
        observations = tmp_path / fields["sample"]["observations"]
        observations.unlink(missing_ok=True)
        shutil.copyfile(run.directory / observations.name, observations)
        if arrays is not None:
            _change_arrays(observations, arrays)
            fields["sample"]["observations_sha256"] = sha256_file(observations)
        change(fields)
        if consistently:
            with np.errstate(all="ignore"):
                _settle(fields, observations)
        fields["digest"] = digest(fields)
        path = tmp_path / run.path(metric).name
        path.unlink(missing_ok=True)  # to overwrite a file would wait for the disk, thousands of times
        path.write_text(json.dumps(fields), encoding="utf-8")
        return verify(path)

    return restate


def _change_arrays(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def _settle(fields: dict[str, Any], observations_path: Path) -> None:
    """What an adversary does who knows this package: every field that follows from others is recomputed."""
    claim, complexity, corpus, model, settings, sample = (
        fields[name] for name in ("claim", "complexity", "corpus", "model", "settings", "sample")
    )
    sample["unit"] = settings["unit"]
    metric, observations = claim["metric"], read_observations(observations_path, sample["unit"])
    fields["method"] = method_from_dict(fields["method"]).to_dict()
    method = method_from_dict(fields["method"])
    code_bits = complexity["code_bits"] = sum(e["bits"] for e in complexity["ledger"] if e["part"] == "weights")
    name = settings["compressor"] = complexity["compressor"]["name"]
    charged = EvaluationSettings(name, model["context"], model["default_prefix"], model["vocab_size"])
    description = (length_prefix(method.name, code_bits), *settings_ledger(charged))
    complexity["ledger"] = [
        *(entry for entry in complexity["ledger"] if entry["part"] == "weights"),
        *({"part": "description", "item": entry.item, "bits": entry.bits} for entry in description),
        *({"part": "selection", "item": item, "bits": bits} for item, bits in method.selection()),
    ]
    complexity["bits"] = sum(entry["bits"] for entry in complexity["ledger"])
    choices = {**_choices(sample["seed_parts"]), metric: fields["method"]}
    code = MeasuredCode(complexity["sha256"], name, code_bits)
    levels = Levels.of(settings, corpus["n_metrics"], corpus.get("count"))
    if corpus.get("count") is not None:
        corpus["n_tokens"] = TokenCount(**corpus["count"]).at_least(levels.count)
    settings["method"] = method.name
    sample.update(windows=observations.n_windows, scored_tokens=int(observations.window_sizes.sum()))
    sample["seed_parts"] = certify_seed_parts(settings, corpus, model, code, choices, observations.n_windows)
    sample["draws_sha256"] = draws_sha256(observations.windows)
    stated = Settings(**settings)
    sample.update(
        draw_seed=stated.draw_seed, pilot=stated.n_pilot, replacement=stated.replacement or bool(corpus.get("count"))
    )
    model["context_rule"] = context_rule(model["prefix_token_id"], model["context"])
    problem = Problem(
        metric,
        model["vocab_size"],
        corpus["n_tokens"],
        observations.n_windows,
        code_bits + sum(entry.bits for entry in description),
        levels.rest,
        settings["shared_draws"],
        sample["replacement"],
        settings["upper"],
    )
    bound = observations.bound(metric, method, problem)
    level = vacuous_at(metric, model["n_choices"])
    fields["terms"] = {"risk": bound.risk, "complexity": bound.complexity, "sampling": bound.sampling}
    delta_1, delta_2 = method.failure_probs(problem)
    fields["rates"] = {"complexity_rate": bound.rate, "delta_1": delta_1, "delta_2": delta_2}
    claim.update(bound=bound.value, vacuous_at=level, vacuous=bound.value >= level, corpus=corpus["id"])
    if corpus.get("count") is not None:
        fields["rates"]["delta_3"] = levels.count
    claim["failure_prob"] = levels.total
    claim["sentence"] = claim_sentence(fields)


def _choices(seed_parts: list[Any]) -> dict[str, Any]:
    return dict(seed_parts[2]) if seed_parts[0] == "own" else {}
