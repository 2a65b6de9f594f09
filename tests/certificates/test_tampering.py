"""Someone changes a certificate: a digit, a field with its digest, or everything that follows from a field.

What survives is listed here, so that the list of what verification does not prove is itself a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.certificates import verify

Fields = dict[str, Any]
Change = Callable[[Fields], object]


def setting(*path: str | int, to: Any) -> Change:
    """The change of one field."""

    def change(fields: Any) -> None:
        for name in path[:-1]:
            fields = fields[name]
        fields[path[-1]] = to(fields[path[-1]]) if callable(to) else to

    return change


def both(*changes: Change) -> Change:
    """Several changes one after the other."""
    return lambda fields: [change(fields) for change in changes]


def test_every_changed_digit_is_noticed(run: Any, tmp_path: Path) -> None:
    path = run.path("bpd")
    text = path.read_text(encoding="utf-8")
    changed = tmp_path / path.name
    (tmp_path / "local-observations.npz").write_bytes((path.parent / "local-observations.npz").read_bytes())
    positions = [match.start() for match in re.finditer("[0-9]", text)]
    assert len(positions) > 900
    for position in positions:
        for step in range(1, 10):
            digit = (int(text[position]) + step) % 10
            changed.unlink(missing_ok=True)  # to overwrite a file would wait for the disk, thousands of times
            changed.write_text(f"{text[:position]}{digit}{text[position + 1 :]}", encoding="utf-8")
            verification = verify(changed)
            assert verification.failures, f"digit {position}: {text[position - 20 : position + 20]!r} became {digit}"
            assert verification.bound is None
            assert re.search("digest|JSON|schema", verification.failures[0])
    changed.write_text(text, encoding="utf-8")
    assert verify(changed).ok


LOWER = 1 - 1e-6
LIES = {
    "bound": (setting("claim", "bound", to=lambda x: x * LOWER), r"claim\.bound is .* was recomputed"),
    "bound and a term": (
        both(
            setting("terms", "sampling", to=lambda x: x - 0.01),
            lambda f: f["claim"].update(bound=sum(f["terms"].values())),
        ),
        r"terms\.sampling is .* was recomputed",
    ),
    "risk, made up by complexity": (
        both(setting("terms", "risk", to=lambda x: x - 0.5), setting("terms", "complexity", to=lambda x: x + 0.5)),
        r"terms\.risk is .* was recomputed",
    ),
    "terms that do not sum": (
        setting("terms", "sampling", to=lambda x: x * (1 + 1e-11)),
        "the terms do not sum to the bound",
    ),
    "no tensor": (lambda f: f["complexity"]["ledger"].pop(2), "items of the weights do not add up to code_bits"),
    "no length prefix": (lambda f: f["complexity"]["ledger"].pop(4), "length prefix and the settings"),
    "no selection": (lambda f: f["complexity"]["ledger"].pop(), "does not charge the method's choices"),
    "cheaper tensor": (setting("complexity", "ledger", 2, "bits", to=8000.0), "do not add up to code_bits"),
    "cheaper selection": (setting("complexity", "ledger", -1, "bits", to=0.0), "the method's choices"),
    "negative bits": (
        both(
            setting("complexity", "ledger", 0, "bits", to=-8000.0),
            setting("complexity", "ledger", 1, "bits", to=9100.0),
        ),
        "negative, infinite or no number",
    ),
    "a part that does not count": (setting("complexity", "ledger", 2, "part", to="free"), "a part that is none of"),
    "code_bits alone": (setting("complexity", "code_bits", to=9000.0), "do not add up to code_bits"),
    "bits alone": (setting("complexity", "bits", to=9000.0), "does not add up to the bits of the complexity"),
    "rate": (setting("rates", "complexity_rate", to=lambda x: x * LOWER), r"rates\.complexity_rate"),
    "delta_1": (setting("rates", "delta_1", to=lambda x: x * LOWER), r"rates\.delta_1"),
    "more tokens": (setting("corpus", "n_tokens", to=400_000), "drawn tokens are not those of the seed"),
    "failure_prob of the metric": (setting("claim", "failure_prob", to=0.05), r"claim\.failure_prob"),
    "failure_prob": (setting("settings", "failure_prob", to=0.1), "seed of the draws does not depend"),
    "certainty": (setting("settings", "failure_prob", to=1), "failure_prob"),
    "n_metrics": (setting("corpus", "n_metrics", to=1), "n_metrics is smaller than the number of metrics"),
    "family_wise": (setting("settings", "family_wise", to=False), "seed of the draws"),
    "more windows": (setting("sample", "windows", to=41), "41 windows are certified, the observations hold 40"),
    "fewer windows": (setting("sample", "windows", to=39), "39 windows are certified, the observations hold 40"),
    "windows of the settings": (setting("settings", "windows", to=39), "windows or pilot"),
    "scored_tokens": (setting("sample", "scored_tokens", to=lambda x: x + 1), "scored_tokens"),
    "draws_sha256": (setting("sample", "draws_sha256", to="0" * 64), "other? sha256|another sha256"),
    "pilot": (setting("sample", "pilot", to=63), "windows or pilot"),
    "unit": (setting("sample", "unit", to="token"), "unit"),
    "unit of the settings": (setting("settings", "unit", to="token"), "unit"),
    "a unit that there is not": (
        both(setting("settings", "unit", to="document"), setting("sample", "unit", to="document")),
        "unit or settings.smoothing is none of those",
    ),
    "replacement": (setting("sample", "replacement", to=True), "replacement is not that of the settings"),
    "replacement as a number": (setting("sample", "replacement", to=0), r"sample\.replacement is not true or false"),
    "upper": (setting("settings", "upper", to="hoeffding"), "upper=hoeffding is for draws with replacement"),
    "upper and replacement": (
        both(setting("settings", "upper", to="bernstein"), setting("sample", "replacement", to=True)),
        "seed of the draws",
    ),
    "an upper that there is not": (setting("settings", "upper", to="markov"), "unknown upper bound"),
    "smoothing of the settings": (setting("settings", "smoothing", to="entropy"), "another smoothing than was used"),
    "a smoothing that there is not": (setting("settings", "smoothing", to="local"), "none of those that there are"),
    "slope of the smoothing": (setting("method", "smoothing_slope_index", to=32), "grid indices stand for"),
    "temperature index": (setting("method", "temperature_index", to=lambda x: x - 1), "grid indices stand for"),
    "temperature": (setting("method", "temperature", to=1.0), "grid indices stand for"),
    "temperature index off the grid": (setting("method", "temperature_index", to=16), "not on its grids"),
    "a temperature that is not paid": (
        lambda f: [f["method"].pop(name) for name in ("temperature_index", "temperature")],
        "the choice of a temperature is not charged",
    ),
    "vocab_size": (setting("model", "vocab_size", to=250), "vocab_size is not the model's"),
    "n_choices": (setting("model", "n_choices", to=260), r"claim\.vacuous_at"),
    "n_choices above V": (setting("model", "n_choices", to=1000), "above model.vocab_size"),
    "draw_seed": (setting("settings", "draw_seed", to=1), "draw_seed"),
    "draw_seed of the sample": (setting("sample", "draw_seed", to=1), "draw_seed"),
    "shared_draws": (setting("settings", "shared_draws", to=2), "seed of the draws"),
    "own draws said to be shared": (setting("sample", "seed_parts", 0, to="shared"), "drawn tokens"),
    "t": (setting("method", "linearisation", to=lambda x: x + 0.1), "seed of the draws"),
    "t beyond floats": (setting("method", "linearisation", to=1e308), "linearisation"),
    "sampling ceiling": (setting("method", "sampling_ceiling", to=lambda x: x + 0.1), "seed of the draws"),
    "sampling ceiling too low": (setting("method", "sampling_ceiling", to=8.0), "sampling ceiling .* above z_max"),
    "index": (setting("method", "margin_index", to=lambda x: x + 1), "not those that its grid indices stand for"),
    "value of an index": (setting("method", "ceiling_offset", to=9.0), "not those that its grid indices stand for"),
    "index off the grid": (setting("method", "slope_index", to=256), "not on its grids"),
    "index between grid points": (setting("method", "slope_index", to=0.5), "not on its grids"),
    "smoothing": (setting("method", "smoothing", to=0.9), "not those that its grid indices stand for"),
    "smoothing index": (setting("method", "smoothing_index", to=lambda x: x + 1), "grid indices"),
    "another method": (setting("settings", "method", to="azuma"), "another method than was used"),
    "another metric": (setting("claim", "metric", to="top1"), "another metric than the claim"),
    "another metric's method": (setting("method", "metric", to="top1"), "for top1 are not on its grids"),
    "sentence": (setting("claim", "sentence", to=lambda x: x.replace("at most", "at least")), "sentence does not say"),
    "vacuous": (setting("claim", "vacuous", to=lambda x: not x), "claim.vacuous does not fit"),
    "vacuous_at": (setting("claim", "vacuous_at", to=lambda x: x * 1.1), r"claim\.vacuous_at"),
    "corpus of the claim": (setting("claim", "corpus", to="pile"), r"claim\.corpus is not the corpus"),
    "compressor": (setting("complexity", "compressor", "name", to="gzip"), "another compressor than was used"),
    "context": (setting("model", "context", to=32), "longer than the context"),
    "context of the settings": (setting("settings", "context", to=32), r"settings\.context"),
    "context_rule": (setting("model", "context_rule", to="everything before"), "context_rule"),
    "prefix token": (setting("model", "prefix_token_id", to=0), "context_rule"),
    "weights": (setting("complexity", "sha256", to="b" * 64), "seed of the draws does not depend on the weights"),
    "corpus hash": (setting("corpus", "sha256", to="b" * 64), "seed of the draws"),
    "corpus id": (setting("corpus", "id", to="pile"), r"claim\.corpus"),
    "declared tokens": (setting("corpus", "n_tokens_kind", to="declared"), "seed of the draws"),
    "unknown kind of tokens": (setting("corpus", "n_tokens_kind", to="guessed"), "guessed"),
    "training data": (setting("corpus", "is_training_data", to="perhaps"), "is_training_data"),
    "a name that is none": (setting("model", "name", to={"a": 1}), r"model\.name is not a text"),
    "half a token": (setting("corpus", "n_tokens", to=0.5), r"corpus\.n_tokens is not a whole number"),
    "truth as a number": (setting("model", "default_prefix", to=1), r"model\.default_prefix is not true or false"),
    "documents": (setting("corpus", "n_documents", to=10**9), "n_documents is above"),
    "source of the bits": (setting("complexity", "source", to="declared"), r"complexity\.source"),
    "reference machine": (lambda f: f["complexity"]["reference_machine"].pop(0), "does not list what is not charged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_field_that_was_changed_with_the_digest_is_named(run: Any, restated: Callable[..., Any], lie: str) -> None:
    change, words = LIES[lie]
    verification = restated(run, change)
    assert verification.bound is None
    assert verification.claim == ""
    assert any(re.search(words, failure) for failure in verification.failures), verification.failures


RESTATEMENTS = {
    "cheaper weights": setting("complexity", "ledger", 2, "bits", to=100.0),
    "no tensor": lambda f: f["complexity"]["ledger"].pop(2),
    "more tokens": setting("corpus", "n_tokens", to=400_000),
    "failure_prob": setting("settings", "failure_prob", to=0.5),
    "family_wise": setting("settings", "family_wise", to=False),
    "more metrics": setting("corpus", "n_metrics", to=5),
    "n_choices": setting("model", "n_choices", to=260),
    "prefix token": setting("model", "prefix_token_id", to=0),
    "default_prefix": setting("model", "default_prefix", to=False),
    "dtype": setting("model", "dtype", to="bfloat16"),
    "draw_seed": setting("settings", "draw_seed", to=7),
    "shared_draws": setting("settings", "shared_draws", to=2),
    "t": setting("method", "linearisation", to=lambda x: x - 1e-3),
    "sampling ceiling": setting("method", "sampling_ceiling", to=lambda x: x + 1e-3),
    "ceiling": setting("method", "margin_index", to=lambda x: x + 1),
    "slope": setting("method", "slope_index", to=lambda x: x + 1),
    "smoothing": setting("method", "smoothing_index", to=lambda x: x - 1),
    "temperature": setting("method", "temperature_index", to=lambda x: x - 1),
    "no temperature": lambda f: f["method"].pop("temperature_index"),
    "smoothing by entropy": both(
        setting("method", "smoothing_slope_index", to=32), setting("settings", "smoothing", to="entropy")
    ),
    "upper": setting("settings", "upper", to="hoeffding"),
    "compressor": setting("complexity", "compressor", "name", to="gzip"),
    "weights": setting("complexity", "sha256", to="b" * 64),
    "corpus hash": setting("corpus", "sha256", to="b" * 64),
    "corpus id": setting("corpus", "id", to="pile"),
    "kind of tokens": setting("corpus", "n_tokens_kind", to="lower_bound"),
}


@pytest.mark.parametrize("restatement", RESTATEMENTS)
def test_nothing_that_a_bound_depends_on_can_be_restated_consistently(
    run: Any, restated: Callable[..., Any], restatement: str
) -> None:
    verification = restated(run, RESTATEMENTS[restatement], consistently=True)
    assert "the drawn tokens are not those of the seed" in verification.failures


def test_the_adversary_is_right_when_nothing_was_changed(
    fabricated: Callable[..., Any], restated: Callable[..., Any]
) -> None:
    every: list[dict[str, Any]] = [
        {"method": name} for name in ("kl_inf", "freedman", "azuma", "azuma_lambda", "paper")
    ]
    every += [{"smoothing": "entropy"}, {"unit": "token"}, {"upper": "hoeffding"}, {"upper": "bernstein"}]
    for chosen in every:
        for metric in ("bpd", "top1"):
            run = fabricated(**chosen)
            verification = restated(run, lambda fields: None, metric, consistently=True)
            assert verification.failures == ()
            assert verification.bound == run.certificates[metric].bound


@pytest.mark.parametrize("failure_prob", [1, 1.05, 3.9])
def test_shared_draws_do_not_make_a_claim_of_no_probability_hold(
    fabricated: Callable[..., Any], restated: Callable[..., Any], failure_prob: float
) -> None:
    change = setting("settings", "failure_prob", to=failure_prob)
    failures = restated(fabricated(shared_draws=5), change, consistently=True).failures
    assert "settings.failure_prob is not between 0 and 1" in failures


# What a certificate only reports. No bound depends on it; whether it is true, a second run can tell.
REPORTED = {
    "created",
    "corpus.end_of_text_id",
    "corpus.n_documents",
    "corpus.revision",
    "corpus.source",
    "corpus.tokenizer_sha256",
    "model.backend",
    "model.batch_size",
    "model.device",
    "model.name",
    "model.revision",
    "settings.certificates",
    "settings.corpus_path",
    "settings.pilot",
    "settings.windows",
    "complexity.compressor.version",
    "complexity.n_parameters",
    "complexity.n_tensors",
    "complexity.stored_bytes",
    *(f"complexity.ledger.{row}.item" for row in range(4)),
}
HOSTILE = [None, True, -1, 0, 2**63, 1e308, 10**400, "x\ny\x1b[2J", [], {"a": 1}]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every field, and every object and list, with its path."""
    if path:
        yield path, value
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, name))


@pytest.mark.parametrize(("method", "consistently"), [("kl_inf", False), ("kl_inf", True), ("paper", True)])
def test_only_what_is_merely_reported_can_be_changed_at_all(
    fabricated: Callable[..., Any], restated: Callable[..., Any], method: str, consistently: bool
) -> None:
    run = fabricated(method=method)
    survived = set()
    for path, old in leaves(json.loads(run.path("bpd").read_bytes())):
        near = [old * (1 - 1e-4), old + 1, old - 1, old * 2] if type(old) in (int, float) else []
        for value in ("no", 7, *near) if consistently else (*HOSTILE, *near):
            if path == ("digest",) or (value == old and isinstance(value, bool) == isinstance(old, bool)):
                continue
            try:
                verification = restated(run, setting(*path, to=value), consistently=consistently)
            except Exception:  # nothing follows from this value: the adversary gives up
                assert consistently
                continue
            assert all(failure and failure.isprintable() for failure in verification.failures)
            if verification.ok and _field(verification.path, path) == value:
                assert verification.bound == run.certificates["bpd"].bound
                assert verification.claim.isprintable()
                survived.add(".".join(map(str, path)))
    survived = {name for name in survived if not name.startswith("software")}
    if consistently:
        assert survived == REPORTED
    else:
        assert survived < REPORTED


def _field(path: Path, names: tuple[Any, ...]) -> Any:
    value = json.loads(path.read_bytes())
    for name in names:
        value = value[name]
    return value


OF_THE_CORPUS = {
    "upper",
    "shared_draws",
    "failure_prob",
    "family_wise",
    "more tokens",
    "more metrics",
    "draw_seed",
    "corpus hash",
    "corpus id",
    "kind of tokens",
}


@pytest.mark.parametrize("restatement", RESTATEMENTS)
def test_shared_draws_vouch_for_the_corpus_alone(
    fabricated: Callable[..., Any], restated: Callable[..., Any], restatement: str
) -> None:
    # draws that several models share cannot depend on a model: what is said of it, only measuring it again can tell
    verification = restated(fabricated(shared_draws=5), RESTATEMENTS[restatement], consistently=True)
    if restatement in OF_THE_CORPUS:
        assert "the drawn tokens are not those of the seed" in verification.failures
    else:
        assert not any("draw" in failure or "seed" in failure for failure in verification.failures)
