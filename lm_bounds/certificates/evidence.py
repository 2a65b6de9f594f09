"""What a certificate is made from: the plan that was fixed before the certifying draws, and what they showed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lm_bounds.bounds import Bound, Method, Problem, certify
from lm_bounds.bounds.statistics import FloatArray, IntArray
from lm_bounds.codelength import CodeLength, EvaluationSettings, LedgerItem, Prior, length_prefix, settings_ledger
from lm_bounds.errors import UsageError
from lm_bounds.sampling import Windows, chosen_windows, stream_seed
from lm_bounds.settings import Settings


@dataclass(frozen=True)
class CorpusFacts:
    """What identifies a corpus and its scored tokens.

    Args:
        corpus_id: its id in the registry.
        source: what the user pointed at.
        n_tokens: m.
        n_tokens_kind: ``exact``, ``declared`` or ``lower_bound``.
        n_documents: documents that hold these tokens, None where they were not counted.
        sha256: of the token stream and the document starts.
        tokenizer_sha256: of the tokenizer that made them.
        end_of_text_id: the token that ends a document, None where there is none.
        n_metrics: metrics that the corpus offers; a family-wise failure probability is divided by it.
        identified_by: whether ``sha256`` covers the ``whole`` corpus, or ``probes``, stretches at fixed places.
        count: the fields of the ``TokenCount`` that ``n_tokens`` follows from; None where the tokens were counted.
        reencoded_from: hash of the tokenizer that the corpus is stored in, where another one made these tokens.
    """

    corpus_id: str
    source: str
    n_tokens: int
    n_tokens_kind: str
    n_documents: int | None
    sha256: str
    tokenizer_sha256: str
    end_of_text_id: int | None
    n_metrics: int
    identified_by: str = "whole"
    count: Mapping[str, Any] | None = None
    reencoded_from: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What identifies the model that was evaluated.

    Args:
        name: as the user gave it.
        revision: of the repository it came from, None where that means nothing.
        architecture: class of the network.
        dtype: number format of the forward pass.
        backend: class of the language-model backend.
        vocab_size: V, the number of logits.
        n_choices: the smaller of V and the tokenizer's size; a uniform guess is over so many tokens.
        context: scored tokens of a full window.
        prefix_token_id: the token before every window.
        default_prefix: whether that token is the tokenizer's own.
        batch_size: windows of one forward pass.
        device: where it ran.
        code: whose code the network is: ``transformers``, or ``custom`` with its modules and a hash of their sources.
    """

    name: str
    revision: str | None
    architecture: str
    dtype: str
    backend: str
    vocab_size: int
    n_choices: int
    context: int
    prefix_token_id: int
    default_prefix: bool
    batch_size: int
    device: str
    code: str = "transformers"

    @property
    def context_rule(self) -> str:
        """The context of every scored token, in words."""
        return context_rule(self.prefix_token_id, self.context)


def context_rule(prefix_token_id: int, context: int) -> str:
    """The context of every scored token, in words."""
    return (
        f"one prefix token (id {prefix_token_id}) and the earlier tokens of the window; windows are the "
        f"consecutive runs of {context} tokens of a document, the last one shorter"
    )


def settings_charges(settings: Settings, model: ModelFacts) -> tuple[LedgerItem, ...]:
    """Bits of the settings of an evaluation, whichever they are."""
    charged = EvaluationSettings(settings.coder, model.context, model.default_prefix, model.vocab_size)
    return settings_ledger(charged)


@dataclass(frozen=True)
class Levels:
    """The failure probabilities of one metric.

    Args:
        total: delta.
        count: delta_3, that of the number of tokens; 0 where they were counted.
    """

    total: float
    count: float

    @classmethod
    def of(cls, settings: Mapping[str, Any], n_metrics: int, count: Mapping[str, Any] | None) -> Levels:
        """Those of all settings by name: delta is divided by the metrics of the corpus, and delta_3 = delta/100."""
        total = settings["failure_prob"] / (n_metrics if settings["family_wise"] else 1)
        return cls(total, 0.0 if count is None else total / 100)

    @property
    def rest(self) -> float:
        """delta - delta_3, which delta_1 and delta_2 share."""
        return self.total - self.count


@dataclass(frozen=True)
class Plan:
    """Everything that was fixed before the certifying windows were drawn.

    Args:
        settings: the user's.
        corpus: facts of the corpus.
        model: facts of the model.
        code: the measured weights.
        settings_ledger: bits of the settings.
        methods: the method of each metric, parameters fixed on the pilot.
        n_windows: certifying windows.
        created: UTC time, ISO 8601.
    """

    settings: Settings
    corpus: CorpusFacts
    model: ModelFacts
    code: CodeLength
    settings_ledger: tuple[LedgerItem, ...]
    methods: Mapping[str, Method]
    n_windows: int
    created: str

    @property
    def levels(self) -> Levels:
        """delta and delta_3 of one metric."""
        return Levels.of(self.settings.to_dict(), self.corpus.n_metrics, self.corpus.count)

    @property
    def replacement(self) -> bool:
        """Whether a window can be drawn twice: also where nobody knows how many tokens there are to be drawn from."""
        return self.settings.replacement or self.corpus.count is not None

    def overhead(self) -> tuple[LedgerItem, ...]:
        """What the description costs besides the weights and the method's choices."""
        return (length_prefix(self.settings.method, self.code.bits), *self.settings_ledger)

    def problem(self, metric: str) -> Problem:
        """The numbers that the bound of a metric depends on."""
        return Problem(
            metric=metric,
            vocab_size=self.model.vocab_size,
            n_tokens=self.corpus.n_tokens,
            n_windows=self.n_windows,
            description_bits=self.code.bits + sum(entry.bits for entry in self.overhead()),
            failure_prob=self.levels.rest,
            shared_draws=self.settings.shared_draws,
            replacement=self.replacement,
            upper=self.settings.upper,
        )

    def charged_bits(self, metric: str) -> float:
        """K / ln 2: everything charged, selection bits inside."""
        selection = self.methods[metric].selection()
        return self.problem(metric).description_bits + sum(bits for _, bits in selection)

    def certify_seed_parts(self) -> list[Any]:
        """What the certifying draws depend on."""
        choices = {metric: method.to_dict() for metric, method in sorted(self.methods.items())}
        corpus = {"id": self.corpus.corpus_id, **asdict(self.corpus)}
        settings, model = self.settings.to_dict(), asdict(self.model)
        return certify_seed_parts(settings, corpus, model, self.code, choices, self.n_windows)

    def certify_seed(self) -> int:
        """Seed of the certifying draws."""
        return stream_seed("certify", *self.certify_seed_parts())


# What a bound, or its comparison with a uniform guess, depends on.
_CORPUS_FACTS = ("id", "sha256", "n_tokens_kind", "n_metrics")
_MODEL_FACTS = ("architecture", "code", "vocab_size", "n_choices", "prefix_token_id", "default_prefix", "dtype")


def certify_seed_parts(
    settings: Mapping[str, Any],
    corpus: Mapping[str, Any],
    model: Mapping[str, Any],
    code: CodeLength | MeasuredCode,
    choices: Mapping[str, Any],
    n_windows: int,
) -> list[Any]:
    """What the certifying draws depend on: the weights, every choice, the corpus and the draw seed.

    Re-running with any other choice redraws, and none of them can be restated later: the draws would not be those of
    the certificate. The corpus is one of them as far as its hash covers it: where that is stretches of it alone,
    whoever supplies the corpus has to have fixed the rest before. With ``shared_draws`` G above one the weights and the
    choices are left out, G and the failure probability are not, and delta_2 is divided by G: that is valid for any G
    models and choices that were fixed before the first of them was scored.

    Args:
        settings: all settings by name.
        corpus: all facts of the corpus by name, its id as ``id``.
        model: all facts of the model by name.
        code: the measured weights.
        choices: every metric's method with its parameters.
        n_windows: certifying windows; the draws of more windows begin with those of fewer, except where the upper
            confidence bound would not hold for whichever number of windows turned out best: ``hoeffding`` (that of the
            method ``paper`` as well) and ``bernstein``.
    """
    common = [settings["draw_seed"], {name: corpus[name] for name in _CORPUS_FACTS}, model["context"]]
    common += [settings["unit"], settings["upper"]]
    if corpus.get("identified_by", "whole") != "whole":
        common.append({"identified_by": corpus["identified_by"]})
    if corpus.get("count") is not None:
        common.append({"count": corpus["count"], "reencoded_from": corpus["reencoded_from"]})
    if settings["method"] == "paper" or settings["upper"] != "kl_inf":
        common.append(n_windows)
    levels = [settings["failure_prob"], settings["family_wise"]]
    if settings["shared_draws"] > 1:
        return ["shared", settings["shared_draws"], *levels, *common]
    return [
        "own",
        code.sha256,
        choices,
        *levels,
        {name: model[name] for name in _MODEL_FACTS},
        code.compressor,
        code.bits,
        *common,
        *([] if code.prior is None else [{"prior": code.prior.sha256}]),
    ]


@dataclass(frozen=True)
class MeasuredCode:
    """The part of a code length that the draws depend on, as a certificate states it."""

    sha256: str
    compressor: str
    bits: float
    prior: Prior | None = None


@dataclass(frozen=True)
class Observations:
    """What the certifying windows showed, one row per draw, in the order of the draws.

    Args:
        windows: the drawn tokens and their windows.
        sums: per-window sums of every column, by ``metric/column``, float64.
        unit: ``window``, or ``token`` where the drawn token alone was observed, the last one of its window.
    """

    windows: Windows
    sums: Mapping[str, FloatArray]  # each of shape: (windows,)
    unit: str = "window"

    @property
    def window_sizes(self) -> IntArray:
        """Observed tokens of every window."""
        sizes = self.windows.stop - self.windows.start
        return sizes if self.unit == "window" else np.ones_like(sizes)

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.windows)

    def rows(self, rows: IntArray) -> Observations:
        """Those of some draws."""
        sums = {name: values[rows] for name, values in self.sums.items()}
        return Observations(chosen_windows(self.windows, rows), sums, self.unit)

    def means(self, metric: str) -> dict[str, FloatArray]:
        """Window means of the columns of a metric.

        Raises:
            UsageError: when the metric has no columns here.
        """
        prefix = metric + "/"
        found = {
            name.removeprefix(prefix): np.asarray(values, dtype=np.float64) / self.window_sizes
            for name, values in self.sums.items()
            if name.startswith(prefix)
        }
        if "loss" not in found:
            raise UsageError(f"the observations have no column {prefix}loss")
        return found

    def bound(self, metric: str, method: Method, problem: Problem) -> Bound:
        """The bound that these observations certify."""
        means = self.means(metric)
        if not all(math.isfinite(float(values.sum())) for values in means.values()):
            raise UsageError(f"the observations of {metric} are not finite")
        return certify(method, problem, means, self.window_sizes)
