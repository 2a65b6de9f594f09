"""From model and corpus to a plan and its observations: what is fixed, what the draws depend on, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm_bounds.certificates import Observations, verify, write_certificates
from lm_bounds.errors import CorpusError, ModelError, UsageError, WeightsError
from lm_bounds.passes import certifying_windows, column_sums
from lm_bounds.pipeline import Session, check_settings, code_length, offered_metrics, open_session
from lm_bounds.scoring.logits import tempered_statistics
from lm_bounds.settings import Settings
from lm_bounds.weights import read_module

Open = Callable[..., Session]
N_WINDOWS = 24


@pytest.fixture
def opened(tiny_lm: Callable[..., Any], many_documents_file: Path, shared_tokens: Path) -> Open:
    """``opened(lm=None, n_windows=24, **settings)``: a session on documents that are mostly shorter than a window."""

    def open_it(lm: Any = None, n_windows: int = N_WINDOWS, **settings: Any) -> Session:
        chosen = Settings(**{"corpus_path": str(many_documents_file), "pilot": 12, "windows": n_windows, **settings})
        return open_session(tiny_lm("unigram") if lm is None else lm, "local", chosen, n_windows)

    return open_it


def draws(session: Session) -> list[int]:
    return certifying_windows(session.plan, session.corpus).token_index.tolist()


def sums_of(session: Session, windows: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The sums of the columns of some windows, each metric's from statistics at its own temperature."""
    by_temperature = {
        method.temperature: tempered_statistics(*session.scorer._predicted(windows, windows), [method.temperature])[0]
        for method in session.plan.methods.values()
    }
    return column_sums(session.plan, by_temperature)


def same_observations(one: Observations, other: Observations) -> bool:
    columns = [
        (one.windows.token_index, other.windows.token_index),
        (one.windows.start, other.windows.start),
        (one.windows.stop, other.windows.stop),
    ]
    columns += [(one.sums[name], other.sums[name]) for name in one.sums]
    return one.sums.keys() == other.sums.keys() and all(np.array_equal(*pair) for pair in columns)


@pytest.mark.parametrize(
    ("vocab_size", "offered"),
    [
        (100, ["bpd", "top1", "top10"]),
        (120, ["bpd", "top1", "top10"]),
        (121, ["bpd", "top1", "top10", "top100"]),
        (12, ["bpd", "top1"]),
        (13, ["bpd", "top1", "top10"]),
        (2, ["bpd", "top1"]),
    ],
)
def test_a_top_k_that_covers_most_of_the_vocabulary_is_not_offered(vocab_size: int, offered: list[str]) -> None:
    assert offered_metrics(["bpd", "top1", "top10", "top100"], vocab_size) == offered


@pytest.mark.parametrize(
    ("changes", "corpus_id", "error", "message"),
    [
        ({"method": "kl_imf"}, "local", UsageError, "unknown method 'kl_imf': did you mean 'kl_inf'?"),
        ({"compressor": "gzp"}, "local", UsageError, "no compressor is called 'gzp': did you mean 'gzip'?"),
        ({"corpus_path": None}, "local", UsageError, "corpus 'local' needs its place: pass --corpus_path"),
        ({"corpus_path": "/nowhere/text.txt"}, "local", CorpusError, "/nowhere/text.txt does not exist"),
        ({}, "lokal", UsageError, "'local'"),
    ],
)
def test_what_is_wrong_is_refused_before_the_model_is_touched(
    changes: dict[str, Any], corpus_id: str, error: type[Exception], message: str, text_file: Path
) -> None:
    settings = Settings(**{"corpus_path": str(text_file), **changes})
    with pytest.raises(error) as caught:
        check_settings(settings, corpus_id)
    assert message in str(caught.value)
    with pytest.raises(error):
        open_session(object(), corpus_id, settings, 10)


def test_the_plan_says_what_was_evaluated(opened: Open, tiny_checkpoint: Callable[[str], Path]) -> None:
    session = opened()
    plan, model = session.plan, session.plan.model
    assert (model.name, model.revision) == (str(tiny_checkpoint("unigram")), None)
    assert (model.architecture, model.backend, model.dtype) == ("GPT2LMHeadModel", "HFLM", "float32")
    assert (model.vocab_size, model.n_choices, model.context) == (260, 257, 64)
    assert (model.prefix_token_id, model.default_prefix) == (256, True)
    assert (model.batch_size, model.device) == (8, "cpu")
    assert (plan.corpus.corpus_id, plan.corpus.n_tokens_kind, plan.corpus.end_of_text_id) == ("local", "exact", 256)
    corpus = session.corpus
    assert (plan.corpus.n_tokens, plan.corpus.n_documents) == (corpus.n_tokens, corpus.n_documents)
    assert list(plan.methods) == ["bpd", "top1", "top10", "top100"]
    assert plan.code.bits == code_length(tiny_checkpoint("unigram")).bits
    assert plan.code.sha256 == read_module(session.scorer.lm.model).sha256()


def test_a_model_in_memory_is_said_to_be_one(
    opened: Open, tiny_checkpoint: Callable[[str], Path], byte_tokenizer: Any
) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("unigram"))
    facts = opened(HFLM(pretrained=model, tokenizer=byte_tokenizer)).plan.model
    assert facts.name == f"a model in memory (made from {tiny_checkpoint('unigram')})"
    assert facts.revision is None


def test_an_adapter_is_part_of_the_name(opened: Open, tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm("unigram")
    lm.delta = "other/weights"
    assert opened(lm).plan.model.name.endswith(",delta=other/weights")


def test_a_prefix_token_of_the_users_is_charged(opened: Open, tiny_lm: Callable[..., Any]) -> None:
    own, chosen = opened().plan, opened(tiny_lm("unigram", prefix_token_id=3)).plan
    assert (chosen.model.prefix_token_id, chosen.model.default_prefix) == (3, False)
    extra = {item.item: item.bits for item in chosen.overhead()}
    assert extra["prefix token"] == 10.0  # a flag and one of 260
    assert sum(extra.values()) == sum(item.bits for item in own.overhead()) + 9.0


def test_the_number_format_is_that_of_the_forward_pass(opened: Open, tiny_lm: Callable[..., Any]) -> None:
    assert opened(tiny_lm("unigram", dtype="bfloat16")).plan.model.dtype == "bfloat16"
    assert opened(tiny_lm("unigram", mixed_precision_dtype="bfloat16")).plan.model.dtype == "bfloat16"


def test_observations_are_in_the_order_of_the_draws(opened: Open) -> None:
    session = opened()
    found = session.observe(range(N_WINDOWS))
    assert found.windows.token_index.tolist() == draws(session)
    sizes = found.windows.stop - found.windows.start
    assert len(set(sizes.tolist())) > 5  # so that another order would show
    for row in range(N_WINDOWS):
        window = session.corpus.tokens[found.windows.start[row] : found.windows.stop[row]].astype(np.int64)
        alone = sums_of(session, [window])
        for name, values in found.sums.items():
            np.testing.assert_allclose(values[row], alone[name], rtol=1e-4, atol=1e-4)


def test_sums_are_those_of_the_columns(opened: Open) -> None:
    session = opened()
    windows = [np.arange(5), np.arange(64), np.arange(1)]
    sums = sums_of(session, windows)
    for metric, method in session.plan.methods.items():
        [statistics] = tempered_statistics(*session.scorer._predicted(windows, windows), [method.temperature])
        for name, values in method.columns(statistics).items():
            parts = np.split(values, [5, 69])
            np.testing.assert_allclose(sums[f"{metric}/{name}"], [part.sum() for part in parts], rtol=1e-12)


def test_some_of_the_draws_can_be_observed(opened: Open) -> None:
    session = opened()
    all_of_them, some = session.observe(range(N_WINDOWS)), session.observe([7, 2, 2, 19])
    assert some.windows.token_index.tolist() == all_of_them.windows.token_index[[7, 2, 2, 19]].tolist()
    np.testing.assert_allclose(some.sums["bpd/loss"], all_of_them.sums["bpd/loss"][[7, 2, 2, 19]], rtol=1e-5)


def test_the_same_run_twice_is_the_same(opened: Open) -> None:
    one, other = opened(), opened()
    assert one.plan.certify_seed_parts() == other.plan.certify_seed_parts()
    assert dataclasses.replace(one.plan, created="", code=other.plan.code) == dataclasses.replace(
        other.plan, created=""
    )
    assert same_observations(one.observe(range(N_WINDOWS)), other.observe(range(N_WINDOWS)))


def test_progress_counts_windows(tiny_lm: Callable[..., Any], documents_file: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = Settings(corpus_path=str(documents_file), pilot=12)
    session = open_session(tiny_lm("unigram"), "local", settings, 20, lambda *step: seen.append(step))
    session.observe(range(20), lambda *step: seen.append(step))
    assert seen == [
        ("scoring the pilot", 0, 12),
        ("scoring the pilot", 8, 12),
        ("scoring the pilot", 12, 12),
        ("scoring windows", 0, 20),
        ("scoring windows", 8, 20),
        ("scoring windows", 16, 20),
        ("scoring windows", 20, 20),
    ]


def changed_weights(lm: Any) -> Any:
    with torch.no_grad():
        next(lm.model.parameters()).view(-1)[0] += 1e-3
    return lm


CHANGES: dict[str, dict[str, Any]] = {
    "draw_seed": {"draw_seed": 1235},
    "context": {"context": 63},
    "failure_prob": {"failure_prob": 0.049},
    "family_wise": {"family_wise": False},
    "method": {"method": "azuma"},
    "compressor": {"compressor": "gzip"},
    "pilot": {"pilot": 13},
    "smoothing": {"smoothing": "entropy"},
    "unit": {"unit": "token"},
    "upper": {"upper": "hoeffding"},
    "another upper": {"upper": "bernstein"},
    "best": {"method": "best", "smoothing": "entropy"},
}
OWN_DRAWS = (
    "draw_seed",
    "context",
    "unit",
    "upper",
    "another upper",
    "failure_prob",
    "family_wise",
)  # whatever shares them


@pytest.mark.parametrize("method", ["kl_inf", "azuma", "azuma_lambda", "freedman", "paper"])
def test_the_draws_depend_on_every_choice(method: str, opened: Open, tiny_lm: Callable[..., Any]) -> None:
    found = {"as it is": draws(opened(method=method)), "weights": draws(opened(changed_weights(tiny_lm("unigram"))))}
    found["prefix token"] = draws(opened(tiny_lm("unigram", prefix_token_id=3), method=method))
    found["number format"] = draws(opened(tiny_lm("unigram", mixed_precision_dtype="bfloat16"), method=method))
    for name, change in CHANGES.items():
        if name == "smoothing" and method in ("azuma", "paper"):
            continue
        if name != "pilot" or method != "paper":  # the paper's grid is coarse: another pilot may choose the same
            found[name] = draws(opened(**{"method": method, **({"method": "paper"} if name == "method" else change)}))
    if method == "paper":
        del found["method"]
    assert len({tuple(numbers) for numbers in found.values()}) == len(found)


def test_the_draws_depend_on_the_weights_even_where_their_code_is_as_long(opened: Open) -> None:
    plan = opened().plan
    for change in ({"sha256": "0" * 64}, {"bits": plan.code.bits + 1}, {"compressor": "gzip"}):
        other = dataclasses.replace(plan, code=dataclasses.replace(plan.code, **change))
        assert other.certify_seed() != plan.certify_seed()


@pytest.mark.parametrize("shared_draws", [1, 2])
def test_the_draws_depend_on_the_text(shared_draws: int, opened: Open, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        text = tmp_path / f"{name}.txt"
        text.write_text(f"chapter {name}\n" + "the same words\n" * 500, encoding="utf-8")
        session = opened(corpus_path=str(text), shared_draws=shared_draws, method="paper")
        found.append((session.corpus.n_tokens, draws(session)))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_the_draws_depend_on_what_was_chosen_for_any_metric(opened: Open) -> None:
    session = opened()
    seeds = {session.plan.certify_seed()}
    for metric, method in session.plan.methods.items():
        other = dataclasses.replace(method, margin_index=(method.margin_index + 1) % (1 << 16))
        changed = dataclasses.replace(session.plan, methods={**session.plan.methods, metric: other})
        seeds.add(changed.certify_seed())
    bpd = session.plan.methods["bpd"]
    others = [
        dataclasses.replace(bpd, smoothing_index=(bpd.smoothing_index + 1) % 256),
        dataclasses.replace(bpd, temperature_index=(bpd.temperature_index + 1) % 16),
        dataclasses.replace(bpd, temperature_index=None),
        dataclasses.replace(bpd, smoothing_slope_index=32),
        dataclasses.replace(bpd, sampling_ceiling=np.nextafter(bpd.sampling_ceiling, np.inf)),
        dataclasses.replace(bpd, linearisation=np.nextafter(bpd.linearisation, np.inf)),
    ]
    for other in others:
        changed = dataclasses.replace(session.plan, methods={**session.plan.methods, "bpd": other})
        seeds.add(changed.certify_seed())
    assert len(seeds) == 5 + len(others)


def test_shared_draws_are_the_same_for_all_models_and_choices(opened: Open, tiny_lm: Callable[..., Any]) -> None:
    shared = opened(shared_draws=2)
    others = {
        "weights": opened(changed_weights(tiny_lm("unigram")), shared_draws=2),
        "another model": opened(tiny_lm("llama"), shared_draws=2),
        "prefix token": opened(tiny_lm("unigram", prefix_token_id=3), shared_draws=2),
        **{name: opened(shared_draws=2, **change) for name, change in CHANGES.items() if name not in OWN_DRAWS},
    }
    assert {name for name, session in others.items() if draws(session) != draws(shared)} == set()
    apart = [opened(), opened(shared_draws=3)]
    apart += [opened(shared_draws=2, **CHANGES[name]) for name in OWN_DRAWS]
    assert all(draws(session) != draws(shared) for session in apart)
    assert len({tuple(draws(session)) for session in apart}) == len(apart)


def test_shared_draws_are_paid_in_delta_2(opened: Open) -> None:
    one, two = opened().plan, opened(shared_draws=2).plan
    for metric in one.methods:
        delta_1, delta_2 = one.methods[metric].failure_probs(one.problem(metric))
        assert two.methods[metric].failure_probs(two.problem(metric)) == (delta_1, delta_2 / 2)


def test_fewer_shared_draws_are_the_first_of_more(opened: Open) -> None:
    few, many = opened(n_windows=10, shared_draws=2), opened(n_windows=20, shared_draws=2)
    assert draws(few) == draws(many)[:10]


@pytest.mark.parametrize("upper", ["hoeffding", "bernstein"])
def test_a_bound_for_one_number_of_windows_has_draws_of_its_own_for_every_number(upper: str, opened: Open) -> None:
    few, many = opened(n_windows=10, upper=upper), opened(n_windows=20, upper=upper)
    assert draws(few) != draws(many)[:10]


def certified(session: Session, directory: Path) -> list[Any]:
    """The certificates of a session's bounds, each of which holds."""
    observations = session.observe(range(session.plan.n_windows))
    found = write_certificates(session.plan, observations, list(session.plan.methods), directory)
    assert [verify(certificate.path).failures for certificate in found] == [()] * len(found)
    return found


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"upper": "hoeffding"},
        {"upper": "bernstein"},
        {"method": "best"},
        {"method": "paper"},
        {"method": "azuma_lambda", "smoothing": "entropy"},
        {"method": "freedman", "smoothing": "entropy", "unit": "token"},
        {"unit": "token"},
        {"unit": "token", "upper": "bernstein", "shared_draws": 3},
        {"method": "paper", "unit": "token"},
    ],
    ids=lambda chosen: ",".join(chosen.values() if "shared_draws" not in chosen else chosen) or "-",
)
def test_certificates_of_every_kind_of_run_hold(chosen: dict[str, Any], opened: Open, tmp_path: Path) -> None:
    session = opened(**chosen)
    for certificate in certified(session, tmp_path):
        assert certificate.fields["sample"]["unit"] == chosen.get("unit", "window")
        terms = certificate.fields["terms"]
        assert certificate.bound == terms["risk"] + terms["complexity"] + terms["sampling"]
        assert terms["risk"] < certificate.bound


def test_draws_without_replacement_never_come_twice(opened: Open) -> None:
    found = opened(n_windows=400).observe(range(400))
    assert len(set(found.windows.start.tolist())) == 400
    again = opened(n_windows=400, upper="hoeffding").observe(range(400))
    assert len(set(again.windows.start.tolist())) < 400


@pytest.mark.parametrize("unit", ["window", "token"])
def test_a_corpus_with_fewer_windows_than_are_asked_for_is_scored_whole(
    unit: str, opened: Open, tmp_path: Path
) -> None:
    text = tmp_path / "small.txt"
    text.write_text("a small text. " * 40, encoding="utf-8")
    session = opened(corpus_path=str(text), n_windows=2000, unit=unit)
    plan, corpus = session.plan, session.corpus
    n_windows = -(-corpus.n_tokens // 64)  # one document
    assert plan.n_windows == (corpus.n_tokens if unit == "token" else n_windows)
    found = session.observe(range(plan.n_windows))
    assert found.windows.token_index.tolist() == list(range(0, corpus.n_tokens, 1 if unit == "token" else 64))
    every = [corpus.tokens[start : start + 64].astype(np.int64) for start in range(0, corpus.n_tokens, 64)]
    for name, values in sums_of(session, every).items():
        np.testing.assert_allclose(found.sums[name].sum(), values.sum(), rtol=1e-5)
    for certificate in certified(session, tmp_path):
        assert abs(certificate.fields["terms"]["sampling"]) < 1e-11
        assert certificate.fields["sample"]["windows"] == plan.n_windows
        assert certificate.fields["sample"]["scored_tokens"] == corpus.n_tokens
    asked = opened(corpus_path=str(text), n_windows=plan.n_windows, unit=unit)
    assert asked.plan.n_windows == plan.n_windows
    replaced = opened(corpus_path=str(text), n_windows=2000, unit=unit, upper="hoeffding")
    assert replaced.plan.n_windows == 2000


@pytest.mark.parametrize("upper", ["kl_inf", "hoeffding"])
def test_a_drawn_token_is_observed_in_its_window_alone(upper: str, opened: Open) -> None:
    """As the last one of what was scored: its context is what it is in its window."""
    session = opened(unit="token", upper=upper)
    found = session.observe(range(N_WINDOWS))
    assert found.window_sizes.tolist() == [1] * N_WINDOWS
    assert found.windows.stop.tolist() == (found.windows.token_index + 1).tolist()
    document_start, document_stop = session.corpus.document_bounds(found.windows.token_index)
    starts = document_start + (found.windows.token_index - document_start) // 64 * 64
    assert found.windows.start.tolist() == starts.tolist()
    for row in range(N_WINDOWS):
        stop = min(int(starts[row]) + 64, int(document_stop[row]))
        window = session.corpus.tokens[starts[row] : stop].astype(np.int64)
        place = int(found.windows.token_index[row] - starts[row])
        for metric, method in session.plan.methods.items():
            [statistics] = tempered_statistics(*session.scorer._predicted([window], [window]), [method.temperature])
            for name, values in method.columns(statistics).items():
                assert found.sums[f"{metric}/{name}"][row] == pytest.approx(values[place], rel=1e-4, abs=1e-4)


def test_every_metric_is_bounded_at_its_own_temperature(opened: Open, tiny_lm: Callable[..., Any]) -> None:
    """An overconfident model: bits per dimension at a T above 1, errors at T = 1."""
    lm = tiny_lm("unigram")
    with torch.no_grad():
        for norm in (lm.model.transformer.ln_f,):
            norm.weight *= 4.0
            norm.bias *= 4.0
    session = opened(lm)
    methods = session.plan.methods
    assert methods["bpd"].temperature > 1.5
    assert {methods[metric].temperature for metric in ("top1", "top10", "top100")} == {1.0}
    found = session.observe([5])
    window = session.corpus.tokens[found.windows.start[0] : found.windows.stop[0]].astype(np.int64)
    for metric, method in methods.items():
        [statistics] = tempered_statistics(*session.scorer._predicted([window], [window]), [method.temperature])
        for name, values in method.columns(statistics).items():
            np.testing.assert_allclose(found.sums[f"{metric}/{name}"][0], values.sum(), rtol=1e-4)


def test_family_wise_divides_by_the_metrics_that_the_corpus_offers(opened: Open) -> None:
    assert opened().plan.levels.total == 0.05 / 4
    assert opened(family_wise=False).plan.levels.total == 0.05


@pytest.mark.parametrize("what", ["a parameter", "a saved buffer"])
def test_weights_that_change_after_they_were_measured_are_refused(
    what: str, opened: Open, tiny_lm: Callable[..., Any]
) -> None:
    lm = tiny_lm("unigram")
    if what == "a saved buffer":
        lm.model.transformer.register_buffer("steps", torch.zeros(2))
    session = opened(lm)
    session.observe([0, 1])
    if what == "a saved buffer":
        lm.model.transformer.steps += 1
    else:
        changed_weights(lm)
    with pytest.raises(WeightsError, match=r"^the model's weights changed while it was evaluated: .* load it again$"):
        session.observe([0, 1])


def test_weights_that_change_while_windows_are_scored_are_refused(opened: Open) -> None:
    session = opened()
    call = session.scorer.lm._model_call

    def train_on(inputs: torch.Tensor) -> torch.Tensor:
        changed_weights(session.scorer.lm)
        return call(inputs)

    session.scorer.lm._model_call = train_on
    with pytest.raises(WeightsError):
        session.observe([0, 1])


def test_a_model_that_is_not_causal_is_refused_whatever_the_length_of_the_documents(
    opened: Open, tiny_lm: Callable[..., Any], tmp_path: Path
) -> None:
    """Documents of one token leave nothing to leak, but the check is made at the length that a window may have."""
    letters = tmp_path / "letters.jsonl"
    letters.write_text("".join(f'{{"text": "{chr(33 + i)}"}}\n' for i in range(50) if chr(33 + i) not in '"\\'))
    assert opened(corpus_path=str(letters)).corpus.n_tokens == 98
    lm = tiny_lm("unigram")
    call = lm._model_call
    lm._model_call = lambda inputs: call(inputs) * (1 + 0.01 * (inputs.shape[1] > 32))
    with pytest.raises(ModelError, match=r"^the model is not strictly causal"):
        opened(lm, corpus_path=str(letters))


def test_a_token_of_the_text_that_the_model_does_not_know_is_refused(
    opened: Open, tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    text = tmp_path / "text.txt"
    text.write_text("🙂" * 200, encoding="utf-8")
    small = tiny_model("gpt2", vocab_size=128, bos_token_id=5, eos_token_id=5)
    lm = HFLM(pretrained=small, tokenizer=byte_tokenizer, prefix_token_id=5)
    lm.tokenizer.eos_token, before = None, lm.tokenizer.eos_token
    try:
        with pytest.raises(CorpusError, match=r"ids must be below 128; use the model's own tokenizer"):
            opened(lm, corpus_path=str(text))
    finally:
        lm.tokenizer.eos_token = before


def test_code_length_refuses_an_unknown_compressor(tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="no compressor is called 'zip'"):
        code_length(tiny_checkpoint("unigram"), "zip")


def test_a_corpus_that_changes_meanwhile_is_noticed(tiny_lm: Callable[..., Any], tmp_path: Path) -> None:
    """A small token file is mapped into memory, where whoever writes to it changes what is read."""
    path = tmp_path / "ids.bin"
    ids = np.random.default_rng(0).integers(0, 250, 20_000).astype("<u2")
    ids.tofile(path)
    settings = Settings(corpus_path=str(path), windows=4, pilot=4, context=16)
    session = open_session(tiny_lm("unigram"), "local", settings, 4)
    changed = np.memmap(path, "<u2", "r+")
    changed[-1] = (ids[-1] + 1) % 250
    changed.flush()
    with pytest.raises(CorpusError, match="was changed while a model was evaluated on it: run again"):
        session.observe(range(4))
