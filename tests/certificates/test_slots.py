"""Certificates on corpora whose tokens are found by slots: their number is a bound, what was passed over is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm_bounds.certificates import Verification, verify
from lm_bounds.certificates.remeasured import check_corpus, check_draws
from lm_bounds.certificates.restore import restore_plan
from lm_bounds.corpora.slots import SlotCorpus
from lm_bounds.passes import certifying_windows
from lm_bounds.sampling import chosen_windows, uniform_indices

KINDS = ("documents", "rows", "declared")


@pytest.fixture(params=KINDS)
def slot_run(request: pytest.FixtureRequest, fabricated: Callable[..., Any], slot_corpora: dict[str, Any]) -> Any:
    return fabricated(corpus=slot_corpora[request.param])


@pytest.fixture(scope="session")
def rows_run(fabricated: Callable[..., Any], slot_corpora: dict[str, Any]) -> Any:
    return fabricated(corpus=slot_corpora["rows"])


def test_they_hold_and_say_how_many_tokens_there_are_at_least(slot_run: Any) -> None:
    for certificate in slot_run.certificates.values():
        found = verify(certificate.path)
        assert found.ok, found.failures
        corpus, rates = certificate.fields["corpus"], certificate.fields["rates"]
        # a fourth of 0.05 for each metric, a hundredth of it for the number of tokens, one of the rest for the corpus
        assert rates["delta_3"] == 0.05 / 4 / 100
        assert rates["delta_1"] == (0.05 / 4 - rates["delta_3"]) / 100
        assert rates["delta_1"] + rates["delta_2"] + rates["delta_3"] == pytest.approx(0.05 / 4, rel=1e-12)
        assert certificate.fields["claim"]["failure_prob"] == 0.05 / 4
        assert f"{corpus['n_tokens']:,} tokens" in found.claim
        assert certificate.fields["sample"]["replacement"] is True


def test_the_claim_says_how_the_number_is_known(fabricated: Callable[..., Any], slot_corpora: dict[str, Any]) -> None:
    claims = {kind: fabricated(corpus=slot_corpora[kind]).certificates["bpd"].claim for kind in KINDS}
    assert "tokens, as estimated from 1,024 places)" in claims["documents"]
    assert "Malformed rows" not in claims["documents"]
    assert "at least " in claims["rows"]
    assert "Malformed rows, on which " in claims["rows"]
    declared = slot_corpora["declared"].count.declared
    assert f" tokens, of {declared:,} that are declared, as estimated from 4,096 places)" in claims["declared"]


def test_the_restored_plan_draws_the_same_windows(slot_run: Any, request: pytest.FixtureRequest) -> None:
    plan = restore_plan([certificate.fields for certificate in slot_run.certificates.values()])
    assert plan.corpus == slot_run.plan.corpus
    corpus = request.getfixturevalue("slot_corpora")[request.node.callspec.params["slot_run"]]
    assert check_draws(slot_run.observations, certifying_windows(plan, corpus)).ok
    assert check_corpus(plan.corpus, slot_run.plan.corpus).ok


def test_draws_are_those_of_uniform_slots(slot_run: Any, request: pytest.FixtureRequest) -> None:
    """An independent walk over the stream, slot by slot."""
    plan, windows = slot_run.plan, slot_run.observations.windows
    corpus: SlotCorpus = request.getfixturevalue("slot_corpora")[request.node.callspec.params["slot_run"]]
    edges, tokens, per_token = corpus.cells.edges, corpus.reader.tokens, corpus.reader.per_token
    found, n_void = [], 0
    for number, slot in enumerate(uniform_indices(5000, corpus.number, plan.certify_seed()).tolist()):
        cell = int(np.searchsorted(edges, slot, side="right")) - 1
        within, n = slot - int(edges[cell]), tokens[cell]
        if n < 0:
            n_void += 1
        elif within < per_token * n:
            found.append((number, n_void, int(edges[cell]) + within % n))
    found = found[: len(windows)]
    assert [entry[0] for entry in found] == windows.attempt.tolist()
    assert [entry[1] for entry in found] == windows.voided.tolist()
    assert [entry[2] for entry in found] == windows.token_index.tolist()


def _later(arrays: dict[str, Any]) -> None:
    arrays["attempt"][-1] += 1


def _another_token(arrays: dict[str, Any]) -> None:
    row = int(np.argmax(arrays["stop"] - arrays["start"]))
    arrays["token_index"][row] = arrays["start"][row] + (arrays["token_index"][row] == arrays["start"][row])


def _skipped(arrays: dict[str, Any]) -> None:
    """The first draw is passed over, as one that did not please."""
    for name in list(arrays):
        arrays[name] = np.concatenate([arrays[name][1:], arrays[name][-1:]])


def _fewer_void(arrays: dict[str, Any]) -> None:
    arrays["voided"][:] = 0


def _all_found(arrays: dict[str, Any]) -> None:
    del arrays["attempt"], arrays["voided"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_later, "not in the order of the stream"),
        (_another_token, "not those of the seed"),
        (_skipped, "not in the order of the stream"),
        (_fewer_void, "do not add up to sample.void"),
        (_all_found, "do not say which slots"),
    ],
)
def test_other_draws_are_caught(
    rows_run: Any, restated: Callable[..., Verification], change: Callable[..., object], said: str
) -> None:
    found = restated(rows_run, lambda fields: None, consistently=True, arrays=change)
    assert any(said in failure for failure in found.failures), found.failures


def _state(part: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    def change(fields: dict[str, Any]) -> None:
        fields[part].update(values)

    return change


def _share(fields: dict[str, Any]) -> None:
    """All slots are said to have been tokens'."""
    count = fields["corpus"]["count"]
    count["shares"] = {"1024": count["drawn"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_state("corpus", count=None), "tokens were passed over"),
        (_share, "do not fit what was found"),
        (_state("sample", attempts=10**12), "do not fit what was found"),
        (_state("corpus", n_tokens_kind="exact"), "n_tokens_kind"),
        (_state("corpus", reencoded_from="x"), "not the hash of a tokenizer"),
    ],
)
def test_other_facts_are_caught_with_all_that_follows_recomputed(
    rows_run: Any, restated: Callable[..., Verification], change: Callable[..., object], said: str
) -> None:
    found = restated(rows_run, change, consistently=True)
    assert any(said in failure for failure in found.failures), found.failures


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_state("corpus", n_tokens=39_000_000), "follow from what was found"),
        (_state("sample", void=0), "do not add up to sample.void"),
        (_state("sample", replacement=False), "replacement"),
        (_state("rates", delta_3=1e-9), "delta_3"),
    ],
)
def test_restated_numbers_are_caught(
    rows_run: Any, restated: Callable[..., Verification], change: Callable[..., object], said: str
) -> None:
    found = restated(rows_run, change)
    assert any(said in failure for failure in found.failures), found.failures


def test_the_draws_depend_on_the_count(fabricated: Callable[..., Any], slot_corpora: dict[str, Any]) -> None:
    rows, declared = (fabricated(corpus=slot_corpora[kind]) for kind in ("rows", "declared"))
    assert rows.plan.certify_seed() != declared.plan.certify_seed()


def test_draws_of_more_windows_begin_with_those_of_fewer(
    fabricated: Callable[..., Any], slot_corpora: dict[str, Any]
) -> None:
    few = fabricated(corpus=slot_corpora["rows"], shared_draws=2).observations.windows
    many = fabricated(corpus=slot_corpora["rows"], shared_draws=2, n_windows=60).observations.windows
    first = chosen_windows(many, np.arange(len(few)))
    assert all(np.array_equal(values, few.arrays()[name]) for name, values in first.arrays().items())


@pytest.mark.parametrize("factor", [0.5, 2])
def test_far_more_or_fewer_slots_than_the_count_has_it_are_caught(
    fabricated: Callable[..., Any],
    slot_corpora: dict[str, Any],
    restated: Callable[..., Verification],
    factor: float,
) -> None:
    many = fabricated(corpus=slot_corpora["documents"], n_windows=1000)
    attempts = int(many.observations.windows.attempt[-1] * factor) + 1

    def stretched(arrays: dict[str, Any]) -> None:
        arrays["attempt"][:] = np.linspace(0, attempts - 1, 1000).astype(np.int64)

    found = restated(many, _state("sample", attempts=attempts), consistently=True, arrays=stretched)
    assert any("do not fit what was found" in failure for failure in found.failures), found.failures


def test_a_corpus_known_by_its_places_is_not_said_to_be_known_as_a_whole(
    rows_run: Any, restated: Callable[..., Verification]
) -> None:
    for change in (_state("corpus", identified_by="whole"), _state("corpus", n_documents=7)):
        found = restated(rows_run, change, consistently=True)
        assert any("known as a whole" in failure for failure in found.failures), found.failures


def _counted(**values: Any) -> Callable[[dict[str, Any]], object]:
    def change(fields: dict[str, Any]) -> None:
        fields["corpus"]["count"].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_counted(drawn=17, shares={"350": 17}, void=0, rows=9, void_rows=0), "so many places as are drawn"),
        (_counted(rows=10**9, void=10**9, void_rows=10**9), "more rows or malformed ones"),
        (_counted(per_token=3), "so many places as are drawn"),
        (_counted(void=0, void_rows=0), "not as many as when the tokens were counted"),
    ],
)
def test_a_count_that_no_run_makes_is_caught_at_once(
    fabricated: Callable[..., Any],
    slot_corpora: dict[str, Any],
    restated: Callable[..., Verification],
    change: Callable[..., object],
    said: str,
) -> None:
    run = fabricated(corpus=slot_corpora["rows"], n_windows=400)
    found = restated(run, change)
    assert any(said in failure for failure in found.failures), found.failures


def test_honest_runs_on_sparse_corpora_are_not_refused(fabricated: Callable[..., Any], invented_slots: Any) -> None:
    """Few slots are tokens', in dense documents, so that their share is not known well."""
    for seed in range(6):
        random = np.random.default_rng(seed)
        sizes = random.integers(20, 400, 3000)
        sizes = sizes[np.cumsum(sizes) < 200_000]
        tokens = np.where(random.random(len(sizes)) < 0.05, sizes // 2, 0)
        found = verify(fabricated(corpus=invented_slots(sizes.tolist(), tokens.tolist()), n_windows=300).path("bpd"))
        assert found.ok, found.failures
