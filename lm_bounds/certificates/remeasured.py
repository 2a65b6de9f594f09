"""What a certificate states beside what is measured again: weights, code, model, corpus, draws and scores.

Everything has to be the same to the last bit, except for the sums of windows that are scored again. Those come from a
network, and another batch, another processor or another version of its kernels rounds them otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm_bounds.bounds import Method, TokenStatistics, top_k
from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.certificates.evidence import CorpusFacts, ModelFacts, Observations, Plan
from lm_bounds.codelength import DECLARED, CodeLength
from lm_bounds.sampling import Windows, draws_sha256

_SHOWN_DIGITS = 12  # of a hash
_WEIGHTS = ("sha256", "n_parameters", "n_tensors", "stored_bytes")
_MODEL = ("architecture", "code", "dtype", "vocab_size", "n_choices", "context", "prefix_token_id", "default_prefix")
_COUNTED = ("n_tokens", "n_tokens_kind", "n_documents", "count")
_CORPUS = ("sha256", "identified_by", *_COUNTED, "end_of_text_id", "n_metrics", "reencoded_from")


@dataclass(frozen=True)
class Allowance:
    """How far the sums of a window may be from the stored ones when it is scored again.

    A column's mean over the tokens may move by so much, relative to one plus its size, both in the unit of the loss. A
    near-tie of two logits can turn an error of top-k into a hit: so many tokens, and one more, may do that, and every
    column of the metric may move by what they move it.

    Args:
        window: of the mean over one window.
        sample: of the mean over all windows that are scored again, where rounding errors cancel.
        window_flips: of the tokens of one window.
        sample_flips: of the tokens of all windows that are scored again.
    """

    window: float
    sample: float
    window_flips: float
    sample_flips: float


# By number format of the forward pass; ``window`` is the tolerance of scoring/checks.py. Another attention kernel in a
# small Llama moved windows and sample by 4e-8 and 6e-9 in float32, where no error turned, and by 8e-4 and 8e-4 in
# bfloat16, where 1.1% of the tokens of a window and 0.1% of those of the sample did; networks with experts move more.
ALLOWANCES: Mapping[str, Allowance] = {
    "float64": Allowance(1e-6, 1e-7, 0.005, 0.0005),
    "float32": Allowance(1e-3, 1e-4, 0.005, 0.0005),
}
HALF_PRECISION = Allowance(0.05, 0.01, 0.05, 0.01)


@dataclass(frozen=True)
class Check:
    """One thing that was measured again.

    Args:
        name: what it is, one word.
        ok: whether it agrees.
        detail: that it agrees, or what differs and how much, as the end of a sentence.
        values: the numbers in it, by name.
    """

    name: str
    ok: bool
    detail: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def check_weights(stated: CodeLength, found: CodeLength) -> Check:
    """Whether the weights and the configuration are the same, and as many."""
    same = f"the same {found.n_parameters:,} parameters (sha256 {found.sha256[:_SHOWN_DIGITS]})"
    values = {"n_parameters": found.n_parameters, "sha256": found.sha256}
    return _facts("weights", same, values, stated, found, _WEIGHTS)


def check_code(stated: CodeLength, found: CodeLength) -> Check:
    """Whether the same compressor gives a code of the same length."""
    values = {"code_bits": found.bits, "compressor": found.compressor, "version": found.version}
    if found.source == DECLARED:
        return Check("code", True, f"{found.bits:,.0f} bits are declared by the operator: nothing was measured", values)
    if found.artifact_sha256 != stated.artifact_sha256:
        return Check("code", False, "the artifact is not the file that was certified (other sha256)", values)
    if found.prior is not None and stated.prior is not None and found.prior.sha256 != stated.prior.sha256:
        return Check("code", False, f"the weights of {found.prior.name!r} are not those that were given", values)
    if found.bits == stated.bits and found.ledger != stated.ledger:
        return Check("code", False, f"the {found.bits:,.0f} bits are made up of other items than are stated", values)
    if found.bits == stated.bits:
        return Check("code", True, f"{found.bits:,.0f} bits again", values)
    versions = "" if found.version == stated.version else f" (version {found.version}, {stated.version} is stated)"
    detail = f"{found.bits:,.0f} bits by compressor {found.compressor}{versions}, {stated.bits:,.0f} bits are stated"
    return Check("code", False, detail, values)


def check_model(stated: ModelFacts, found: ModelFacts) -> Check:
    """Whether the forward pass is the same: number format, logits, context, prefix token."""
    same = f"{found.architecture} in {found.dtype}, {found.vocab_size:,} logits, {found.context_rule.partition(';')[0]}"
    values = {name: getattr(found, name) for name in _MODEL}
    return _facts("model", same, values, stated, found, _MODEL)


def check_tokenizer(stated: CorpusFacts, found: CorpusFacts) -> Check:
    """Whether the tokenizer is the same."""
    same = f"the same (sha256 {found.tokenizer_sha256[:_SHOWN_DIGITS]})"
    return _facts("tokenizer", same, {"sha256": found.tokenizer_sha256}, stated, found, ("tokenizer_sha256",))


def check_corpus(stated: CorpusFacts, found: CorpusFacts) -> Check:
    """Whether the tokens and documents are the same."""
    tokens = f"the same {found.n_tokens:,} tokens"
    if found.identified_by != "whole":
        tokens = f"as many tokens, {found.n_tokens:,}, and the same ones in the stretches that identify it,"
    same = f"{tokens} of {found.corpus_id} (sha256 {found.sha256[:_SHOWN_DIGITS]})"
    values = {"n_tokens": found.n_tokens, "sha256": found.sha256}
    if (stated.count is None) != (found.count is None):
        how = ("drawn by places of files", "tokenised as a whole, without copies")
        there, here = how if found.count is None else how[::-1]
        return Check("corpus", False, f"it was {there}, and is {here} where it is now: pass what was certified", values)
    return _facts("corpus", same, values, stated, found, _CORPUS)


def _facts(name: str, same: str, values: Mapping[str, Any], stated: Any, found: Any, names: tuple[str, ...]) -> Check:
    differences = []
    for each in names:
        one, other = getattr(found, each), getattr(stated, each)
        if one != other:
            is_long = isinstance(one, Mapping) or isinstance(other, Mapping)
            said = "is not what is stated" if is_long else f"is {_shown(one)}, {_shown(other)} is stated"
            differences.append(f"{each} {said}")
    return Check(name, not differences, "; ".join(differences) or same, values)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) < 64 else value[:_SHOWN_DIGITS]
    return f"{value:,}" if type(value) is int else str(value)


def check_draws(stored: Observations, redrawn: Windows) -> Check:
    """Whether the stored windows are those that the seed draws from the corpus, in their order."""
    n = stored.n_windows
    values = {"windows": n, "draws_sha256": draws_sha256(redrawn)}
    kept, again = stored.windows.arrays(), redrawn.arrays()
    if len(redrawn) != n:
        return Check("draws", False, f"the seed draws {len(redrawn)} windows, {n} are stored", values)
    if set(kept) != set(again):
        return Check("draws", False, "the corpus is drawn from in another way than is stored", values)
    other = np.any([kept[name] != again[name] for name in kept], axis=0)
    if not other.any():
        return Check("draws", True, f"all {n} windows are those of the seed", values)
    row = int(np.argmax(other))
    found, stated = (f"tokens {each.start[row]} to {each.stop[row] - 1}" for each in (redrawn, stored.windows))
    detail = f"{int(other.sum())} of {n} windows are not those of the seed: draw {row} is {found}, {stated} are stored"
    return Check("draws", False, detail, values)


def check_scores(plan: Plan, stored: Observations, found: Observations, n_windows: int) -> Check:
    """Whether windows that were scored again have the sums that are stored of them.

    Args:
        plan: with the method of each metric, and the number format.
        stored: of the windows that were scored again.
        found: of the same windows in the same order.
        n_windows: windows of the run.
    """
    allowance = ALLOWANCES.get(plan.model.dtype, HALF_PRECISION)
    columns = {
        name: numbers
        for metric, method in plan.methods.items()
        for name, numbers in _columns(metric, method, plan.model.vocab_size).items()
    }
    again = f"{stored.n_windows} of {n_windows} windows scored again"
    missing = [name for name in columns if name not in stored.sums]
    if missing:
        return Check("scores", False, f"{again}, no sums of {', '.join(missing)} are stored")
    compared = [_Column(name, stored, found, allowance, *numbers) for name, numbers in columns.items()]
    moved = max((float(column.moved.max()) for column in compared if column.jump == 0.0), default=0.0)
    counts = [column for column in compared if column.is_count]
    errors = max((float(column.difference.max()) for column in counts), default=0.0)
    allowed_errors = math.floor(1 + allowance.window_flips * float(stored.window_sizes.max()))
    values = {
        "windows": stored.n_windows,
        "of": n_windows,
        "largest_difference": moved,
        "allowed_difference": allowance.window,
        "largest_difference_of_errors": errors,
        "allowed_difference_of_errors": allowed_errors,
    }
    failures = [failure for column in compared for failure in column.failures()]
    if failures:
        n_others = int(np.any([column.is_other for column in compared], axis=0).sum())
        who = f"{n_others} are not as stored" if n_others else "together they are not as stored"
        more = "" if len(failures) == 1 else f"; and {len(failures) - 1} more of the kind"
        return Check("scores", False, f"{again}, {who}: {failures[0]}{more}", values)
    counted = f", of errors in a window {errors:.0f} (allowed {allowed_errors})" if counts else ""
    detail = f"{again}, largest difference {moved:.1e} per token (allowed {allowance.window:.0e}){counted}"
    return Check("scores", True, detail, values)


def _columns(metric: str, method: Method, vocab_size: int) -> dict[str, tuple[float, float]]:
    """(Unit, jump) of every column: what it moves the statistic Z by, at least 1; what an error moves it by at most."""
    entropies = np.unique(np.append(np.linspace(0.0, math.log2(vocab_size), 65), method.loss.kinks()))
    n, k = len(entropies), 1 if metric == "bpd" else top_k(metric)
    statistics = TokenStatistics(
        log2_prob=np.full(2 * n, -1.0),
        rank=np.repeat(np.array([1, k + 1], dtype=np.int64), n),  # hits, then errors
        entropy_bits=np.tile(entropies, 2),
        max_prob=np.full(2 * n, 0.5),
        window_sizes=np.array([2 * n]),
    )
    columns = method.columns(statistics)
    nothing = {name: np.zeros(1) for name in columns}
    found = {}
    for name, values in columns.items():
        slope = method.statistic({**nothing, name: np.ones(1)}, 0.0) - method.statistic(nothing, 0.0)
        jump = 0.0 if metric == "bpd" else float(np.abs(values[:n] - values[n:]).max())
        found[f"{metric}/{name}"] = (max(1.0, abs(float(slope[0]))), jump)
    return found


class _Column:
    """One column of sums, stored and found again.

    Args:
        name: ``metric/column``.
        stored, found: of the same windows.
        allowance: of the number format.
        unit: of the column, in that of the loss.
        jump: by how much one error moves the column.
    """

    def __init__(
        self, name: str, stored: Observations, found: Observations, allowance: Allowance, unit: float, jump: float
    ) -> None:
        self.name, self.jump, self.allowance = name, jump, allowance
        self.is_count = name.endswith("/loss") and jump > 0.0
        self.start, self.stop, self.sizes = stored.windows.start, stored.windows.stop, stored.window_sizes
        self.stored: FloatArray = np.asarray(stored.sums[name], dtype=np.float64)
        self.found: FloatArray = np.asarray(found.sums[name], dtype=np.float64)
        self.difference: FloatArray = np.abs(self.found - self.stored)
        self.scale: FloatArray = self.sizes / unit + np.abs(self.stored)
        self.moved: FloatArray = self.difference / self.scale
        self.allowed: FloatArray = allowance.window * self.scale + jump * (1 + allowance.window_flips * self.sizes)
        self.is_other = ~(self.difference <= self.allowed)

    def failures(self) -> Iterator[str]:
        """What is too far from the stored sums: the worst window, and the sample as a whole."""
        n_tokens = int(self.sizes.sum())
        if self.is_other.any():
            row = int(np.argmax(self.difference / self.allowed))
            where = f"{self.name} of tokens {self.start[row]} to {self.stop[row] - 1}"
            yield self._far(where, self.found[row], self.stored[row], float(self.allowed[row]), int(self.sizes[row]))
        flips = self.jump * (1 + self.allowance.sample_flips * n_tokens)
        allowed = self.allowance.sample * float(self.scale.sum()) + flips
        found, stored = float(self.found.sum()), float(self.stored.sum())
        if not abs(found - stored) <= allowed:
            yield self._far(f"{self.name} of all of them", found, stored, allowed, n_tokens)

    def _far(self, where: str, found: float, stored: float, allowed: float, n_tokens: int) -> str:
        per_token = f"{found / n_tokens:.6g} per token, {stored / n_tokens:.6g} is stored"
        return f"{where} is {per_token} (allowed difference {allowed / n_tokens:.1e})"
