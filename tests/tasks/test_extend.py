"""Windows that are added to a run are those that a longer run would have scored, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.certificates import Certificate, Observations, Plan, verify, write_certificates
from lm_bounds.certificates.restore import restore_plan
from lm_bounds.certificates.verify import read_observations
from lm_bounds.errors import CorpusError, LmBoundsError, UsageError, VerificationError
from lm_bounds.pipeline import Session, open_session
from lm_bounds.settings import Settings
from lm_bounds.tasks import extend, reload
from lm_bounds.tasks.deep import verify_deep
from lm_bounds.tasks.extend import Extension, extend_run
from lm_bounds.tasks.reload import Places

N_WINDOWS = 20
Made = Callable[..., list[Certificate]]
Extended = Callable[..., Extension]


@pytest.fixture
def corpus_file(many_documents_file: Path, tmp_path: Path) -> Path:
    """A text that a test may change."""
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(many_documents_file.read_text().splitlines(keepends=True)[:600]), encoding="utf-8")
    return path


@pytest.fixture
def session(tiny_lm: Callable[..., Any], corpus_file: Path) -> Callable[..., Session]:
    """``session(lm=None, **settings)``: of a run of 20 windows, one in a batch."""

    def start(lm: Any = None, **chosen: Any) -> Session:
        settings = Settings(**{"corpus_path": str(corpus_file), "windows": N_WINDOWS, "pilot": 12, **chosen})
        return open_session(tiny_lm("unigram", batch_size=1) if lm is None else lm, "local", settings, settings.windows)

    return start


@pytest.fixture
def made(session: Callable[..., Session], tmp_path: Path) -> Made:
    """``made(metrics=None, folder="old", **settings)``: the certificates of such a run."""

    def make(metrics: list[str] | None = None, folder: str = "old", **chosen: Any) -> list[Certificate]:
        opened = session(**chosen)
        observations = opened.observe(range(opened.plan.n_windows))
        return write_certificates(opened.plan, observations, metrics or list(opened.plan.methods), tmp_path / folder)

    return make


@pytest.fixture
def extended(tmp_path: Path) -> Extended:
    """``extended(certificates, n_more, **places)``: the first certificate's run, extended into another folder."""

    def go_on(certificates: list[Certificate], n_more: int = N_WINDOWS, **places: Any) -> Extension:
        return extend_run(certificates[0].path, n_more, str(tmp_path / "new"), Places(**places))

    return go_on


def observations_of(certificates: tuple[Certificate, ...] | list[Certificate]) -> Observations:
    sample = certificates[0].fields["sample"]
    return read_observations(certificates[0].path.parent / sample["observations"], sample["unit"])


def observed_at_once(session: Session, certificates: list[Certificate], n_windows: int) -> tuple[Plan, Observations]:
    """What one run of so many windows shows whose choices are those of the certificates."""
    plan = replace(restore_plan([one.fields for one in certificates]), n_windows=n_windows)
    return plan, replace(session, plan=plan).observe(range(n_windows))


def assert_same(one: Observations, other: Observations) -> None:
    for name in ("token_index", "start", "stop"):
        assert np.array_equal(getattr(one.windows, name), getattr(other.windows, name))
    assert one.sums.keys() == other.sums.keys()
    assert all(np.array_equal(one.sums[name], other.sums[name]) for name in one.sums)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"unit": "token"},
        {"shared_draws": 2},
        {"method": "freedman", "compressor": "gzip"},
        {"method": "best", "context": 10, "family_wise": False},
        {"method": "azuma"},
    ],
    ids=str,
)
def test_20_windows_and_20_more_are_40_windows(
    made: Made, session: Callable[..., Session], extended: Extended, chosen: dict[str, Any]
) -> None:
    old = made(**chosen)
    extension = extended(old)
    plan, together = observed_at_once(session(**chosen), old, 2 * N_WINDOWS)
    assert_same(observations_of(extension.new), together)
    assert_same(observations_of(old), observations_of(extension.old))
    assert [one.metric for one in extension.new] == [one.metric for one in old]
    for certificate in extension.new:
        metric = certificate.metric
        bound = together.bound(metric, plan.methods[metric], plan.problem(metric))
        assert certificate.bound == bound.value
        assert verify(certificate.path).ok
    assert (extension.n_added, extension.n_asked) == (N_WINDOWS, N_WINDOWS)


def test_what_changes_in_a_certificate_and_what_does_not(made: Made, extended: Extended, tmp_path: Path) -> None:
    extension = extended(made(pilot=None), batch_size="2")
    old, new = extension.old[0], extension.new[0]
    sample = new.fields["sample"]
    assert (sample["windows"], sample["pilot"], sample["extends"]) == (40, 64, old.fields["digest"])
    assert "extends" not in old.fields["sample"]
    assert new.fields["settings"] == {
        **old.fields["settings"],
        "windows": 40,
        "pilot": 64,
        "certificates": str(tmp_path / "new"),
    }
    assert new.fields["model"] == {**old.fields["model"], "batch_size": 2}
    for part in ("corpus", "complexity", "method", "rates"):
        assert new.fields[part] == old.fields[part]
    assert sample["seed_parts"] == old.fields["sample"]["seed_parts"]
    assert new.fields["created"] > old.fields["created"]
    assert new.path.parent.parent.parent == tmp_path / "new"


def test_the_earlier_run_stays_as_it_was(made: Made, extended: Extended) -> None:
    old = made()
    folder = old[0].path.parent
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    extended(old)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_windows_of_before_are_not_scored_again(
    made: Made, extended: Extended, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, observe = made(), Session.observe
    scored: list[int] = []

    def record(self: Session, draws: list[int], progress: Any) -> Observations:
        scored.extend(draws)
        return observe(self, draws, progress)

    monkeypatch.setattr(Session, "observe", record)
    extended(old)
    assert scored == list(range(20, 40))


def test_an_extension_can_be_extended(
    made: Made, session: Callable[..., Session], extended: Extended, tmp_path: Path
) -> None:
    old = made()
    first = extended(old, 7)
    second = extended(list(first.new), 13)
    _, together = observed_at_once(session(), old, 40)
    assert_same(observations_of(second.new), together)
    for before, after in ((old, first.new), (first.new, second.new)):
        assert [one.fields["sample"]["extends"] for one in after] == [one.fields["digest"] for one in before]
    [found] = verify_deep([certificate.path for certificate in second.new])
    assert found.ok


def test_all_that_is_left_is_taken_and_then_there_is_nothing_to_add(
    made: Made, session: Callable[..., Session], extended: Extended
) -> None:
    old = made()
    extension = extended(old, 10_000)
    n_windows = extension.new[0].fields["sample"]["windows"]
    assert (extension.n_added, extension.n_asked) == (n_windows - N_WINDOWS, 10_000)
    _, together = observed_at_once(session(), old, n_windows)
    assert_same(observations_of(extension.new), together)
    for certificate in extension.new:
        assert verify(certificate.path).ok
        assert abs(certificate.fields["terms"]["sampling"]) < 1e-9
        assert certificate.fields["sample"]["scored_tokens"] == certificate.fields["corpus"]["n_tokens"]
    with pytest.raises(UsageError, match=f"all {n_windows} windows of the corpus are scored already: there is none"):
        extended(list(extension.new))


def test_all_tokens_where_tokens_are_observed(made: Made, extended: Extended, corpus_file: Path) -> None:
    corpus_file.write_text(json.dumps({"text": "a bound of a model"}) + "\n", encoding="utf-8")
    old = made(unit="token", windows=5)
    extension = extended(old, 100)
    assert (extension.n_added, extension.unit) == (14, "token")
    assert all(verify(certificate.path).ok for certificate in extension.new)
    with pytest.raises(UsageError, match="all 19 tokens of the corpus are scored already"):
        extended(list(extension.new))


def test_the_certificates_beside_it_are_extended_and_no_others(made: Made, extended: Extended) -> None:
    extension = extended(made(["top10", "bpd"]))
    assert [one.metric for one in extension.new] == ["bpd", "top10"]
    assert sorted(path.name for path in extension.new[0].path.parent.iterdir()) == [
        "local-observations.npz",
        "local_bpd_bound.json",
        "local_top10_bound.json",
    ]
    assert {name.partition("/")[0] for name in observations_of(extension.new).sums} == {
        "bpd",
        "top1",
        "top10",
        "top100",
    }


def test_with_shared_draws_the_columns_of_the_certificates_are_kept(made: Made, extended: Extended) -> None:
    extension = extended(made(["top10"], shared_draws=3))
    assert verify(extension.new[0].path).ok
    assert {name.partition("/")[0] for name in observations_of(extension.new).sums} == {"top10"}


def test_without_a_directory_certificates_go_where_those_of_a_run_go(made: Made, lm_bounds_home: Path) -> None:
    extension = extend_run(made()[0].path, 5)
    assert extension.new[0].path.is_relative_to(lm_bounds_home / "certificates")
    assert extension.new[0].fields["settings"]["certificates"] is None


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"method": "paper"}, "method=paper: its split of the failure probability depends on the number of windows"),
        ({"upper": "hoeffding"}, "upper=hoeffding: its bound holds for the number of windows that was fixed"),
        ({"upper": "bernstein"}, "upper=bernstein: its bound holds for the number of windows that was fixed"),
    ],
)
def test_a_bound_for_one_number_of_windows_is_not_extended(
    made: Made, extended: Extended, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extended(made(**chosen))


def test_another_model_is_refused(
    made: Made, extended: Extended, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    old = made()
    changed = tmp_path / "changed"
    shutil.copytree(tiny_checkpoint("unigram"), changed)
    model = AutoModelForCausalLM.from_pretrained(changed)
    model.transformer.wte.weight.data[5, 0] += 0.25
    model.save_pretrained(changed)
    for arguments, difference in {
        f"pretrained={changed}": "weights: sha256 is ",
        "dtype=bfloat16": "model: dtype is bfloat16, float32 is stated",
        "prefix_token_id=3": "model: prefix_token_id is 3, 256 is stated",
        "max_length=20": "model: context=64 is longer than the model allows",
        f"pretrained={tiny_checkpoint('llama')}": "model: architecture is LlamaForCausalLM",
    }.items():
        with pytest.raises(UsageError) as caught:
            extended(old, model_args=arguments)
        assert str(caught.value).startswith("the run can be extended with the model and corpus that were certified")
        assert difference in str(caught.value)
    assert not (tmp_path / "new").is_dir() or not any((tmp_path / "new").rglob("*.json"))


def test_a_model_with_other_logits_is_refused(
    made: Made, extended: Extended, tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_model("gpt2", vocab_size=300).save_pretrained(tmp_path / "wider")
    byte_tokenizer.save_pretrained(tmp_path / "wider")
    with pytest.raises(UsageError, match="vocab_size is 300, 260 is stated"):
        extended(made(), model_args=f"pretrained={tmp_path / 'wider'}")


def test_another_corpus_is_refused(made: Made, extended: Extended, corpus_file: Path) -> None:
    old = made()
    with corpus_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "One sentence more."}) + "\n")
    with pytest.raises(UsageError, match=r"certified alone: corpus: sha256 is \w{12}, \w{12} is stated; n_tokens is "):
        extended(old)
    corpus_file.unlink()
    with pytest.raises(CorpusError, match="is not here: pass --corpus_path FILE-OR-FOLDER"):
        extended(old)


def test_another_code_length_is_refused(made: Made, extended: Extended, monkeypatch: pytest.MonkeyPatch) -> None:
    old, measured = made(), reload.complexity

    def longer(*given: Any) -> Any:
        found = measured(*given)
        return replace(found, bits=found.bits + 1)

    monkeypatch.setattr(reload, "complexity", longer)
    with pytest.raises(UsageError, match=r"code: .* bits by compressor arithmetic, .* bits are stated"):
        extended(old)


def test_earlier_windows_that_the_seed_does_not_draw_are_refused(
    made: Made, extended: Extended, tmp_path: Path
) -> None:
    [old] = made(["top1"], method="azuma")
    stored = observations_of([old])
    row = int(np.argmax(stored.windows.stop - stored.windows.token_index))
    shorter = (np.arange(N_WINDOWS) == row).astype(np.int64)
    sums = {**stored.sums, "top1/loss": stored.sums["top1/loss"] - shorter}
    plan = restore_plan([old.fields])
    lie = replace(stored, windows=replace(stored.windows, stop=stored.windows.stop - shorter), sums=sums)
    forged = write_certificates(plan, lie, ["top1"], tmp_path / "lie")
    assert verify(forged[0].path).ok
    with pytest.raises(VerificationError, match="cannot be extended: 1 of 20 windows are not those of the seed"):
        extended(forged)


def test_a_column_that_is_gone_is_refused(made: Made, extended: Extended, tmp_path: Path) -> None:
    [old] = made(["top1"])
    stored = observations_of([old])
    fewer = {name: values for name, values in stored.sums.items() if name != "bpd/loss"}
    lie = write_certificates(restore_plan([old.fields]), replace(stored, sums=fewer), ["top1"], tmp_path / "lie")
    assert verify(lie[0].path).ok
    with pytest.raises(VerificationError, match="no column bpd/loss"):
        extended(lie)


def test_a_certificate_that_does_not_hold_is_refused(made: Made, extended: Extended) -> None:
    old = made()
    beside = old[2].path
    text = beside.read_text(encoding="utf-8")
    beside.write_text(text.replace('"draw_seed": 1234', '"draw_seed": 1235'), encoding="utf-8")
    with pytest.raises(
        VerificationError, match=r"local_top10_bound\.json does not hold and cannot be extended: the dig"
    ):
        extended(old)
    with pytest.raises(VerificationError, match=r"local_top10_bound\.json does not hold"):
        extended([old[2]])
    with pytest.raises(VerificationError, match="cannot be read"):
        extend_run(beside.parent / "missing.json", 5)


@pytest.mark.parametrize("n_more", [0, -3])
def test_no_window_is_no_extension(made: Made, n_more: int) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        extend_run(made()[0].path, n_more)


def test_several_processes_are_refused(made: Made, extended: Extended, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were started, and certificates are measured again by one"):
        extended(old)


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extend, "load_model", lambda *given: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="certificates cannot be written to"):
        extend_run(made()[0].path, 5, str(tmp_path / "file"))


def test_weights_that_change_meanwhile_are_noticed(
    made: Made, extended: Extended, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, drawn = made(), extend.check_draws

    def change(stored: Observations, windows: Any) -> Any:
        loaded[0].model.transformer.wte.weight.data[5, 0] += 0.25
        return drawn(stored, windows)

    loaded: list[Any] = []
    load = extend.load_model
    monkeypatch.setattr(extend, "load_model", lambda *given: loaded.append(load(*given)) or loaded[0])
    monkeypatch.setattr(extend, "check_draws", change)
    with pytest.raises(LmBoundsError, match="weights changed while it was evaluated"):
        extended(old)
