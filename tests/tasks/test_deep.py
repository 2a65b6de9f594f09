"""Deep verification of honest runs, and of every lie that ordinary verification cannot notice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import KlInf
from lm_bounds.certificates import Certificate, Observations, verify, write_certificates
from lm_bounds.certificates.restore import restore_plan, run_certificates
from lm_bounds.certificates.verify import read_observations
from lm_bounds.errors import CorpusError, LmBoundsError, ModelError, UsageError
from lm_bounds.models import BuiltInModel, built_in_model
from lm_bounds.pipeline import open_session
from lm_bounds.sampling import Windows
from lm_bounds.settings import Settings
from lm_bounds.tasks import deep, reload
from lm_bounds.tasks.deep import DeepVerification, verify_deep, windows_to_score
from lm_bounds.tasks.reload import Places, load_model, model_arguments, parts_of_name

N_WINDOWS = 24
CHECKS = ["weights", "code", "model", "tokenizer", "corpus", "causality", "draws", "scores"]
Made = Callable[..., list[Certificate]]


@pytest.fixture
def made(tiny_lm: Callable[..., Any], many_documents_file: Path, shared_tokens: Path, tmp_path: Path) -> Made:
    """``made(lm=None, corpus="local", metrics=None, folder="run", **settings)``: the certificates of a run."""

    def make(
        lm: Any = None, corpus: str = "local", metrics: list[str] | None = None, folder: str = "run", **chosen: Any
    ) -> list[Certificate]:
        given = {"corpus_path": str(many_documents_file)} if corpus == "local" else {}
        settings = Settings(**{"windows": N_WINDOWS, "pilot": 12, **given, **chosen})
        session = open_session(tiny_lm("unigram") if lm is None else lm, corpus, settings, settings.windows)
        observations = session.observe(range(session.plan.n_windows))
        return write_certificates(session.plan, observations, metrics or list(session.plan.methods), tmp_path / folder)

    return make


def measured(certificates: list[Certificate], **places: Any) -> DeepVerification:
    """The one deep verification of certificates that all hold, every window scored again."""
    paths = [certificate.path for certificate in certificates]
    assert all(verify(path).ok for path in paths)
    [found] = verify_deep(paths, Places(**places), share=1.0)
    return found


def failures(found: DeepVerification) -> dict[str, str]:
    return {check.name: check.detail for check in found.checks if not check.ok}


def forged(
    certificates: list[Certificate], folder: Path, change: Callable[[dict[str, Any]], object]
) -> list[Certificate]:
    """The same run with other observations, certified by this package itself."""
    plan = restore_plan([certificate.fields for certificate in certificates])
    stored = read_observations(certificates[0].path.parent / certificates[0].fields["sample"]["observations"], "window")
    arrays: dict[str, Any] = {name: values.copy() for name, values in stored.windows.arrays().items()}
    arrays["sums"] = {name: values.copy() for name, values in stored.sums.items()}
    change(arrays)
    sums = arrays.pop("sums")
    return write_certificates(plan, Observations(Windows(**arrays), sums), [one.metric for one in certificates], folder)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"method": "best", "compressor": "gzip"},
        {"unit": "token"},
        {"method": "paper"},
        {"shared_draws": 2, "metrics": ["top1", "bpd"]},
    ],
    ids=str,
)
def test_an_honest_run_is_found_to_be_honest(made: Made, chosen: dict[str, Any]) -> None:
    certificates = made(**chosen)
    found = measured(certificates, batch_size="3")
    assert failures(found) == {}
    assert [check.name for check in found.checks] == CHECKS
    assert found.paths == tuple(certificate.path for certificate in certificates)
    details = {check.name: check.detail for check in found.checks}
    fields = certificates[0].fields
    assert details["weights"].startswith(f"the same {fields['complexity']['n_parameters']:,} parameters (sha256 ")
    assert details["code"] == f"{fields['complexity']['code_bits']:,.0f} bits again"
    assert details["corpus"].startswith("the same 115,373 tokens of local (sha256 ")
    assert details["draws"] == "all 24 windows are those of the seed"
    assert details["scores"].startswith("24 of 24 windows scored again, largest difference ")
    assert found.checks[-1].values["largest_difference"] < 1e-4


def test_one_certificate_of_a_run_is_enough(made: Made) -> None:
    [_, top1, *_] = made()
    assert measured([top1]).ok


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"mixed_precision_dtype": "bfloat16"}], ids=str)
def test_half_precision_is_loaded_as_it_was(made: Made, tiny_lm: Callable[..., Any], options: dict[str, Any]) -> None:
    certificates = made(tiny_lm("gpt2", **options))
    found = measured(certificates, batch_size="2")
    assert failures(found) == {}
    assert "GPT2LMHeadModel in bfloat16" in str(found.checks[2])


def test_a_prefix_token_of_the_users_is_loaded_again(made: Made, tiny_lm: Callable[..., Any]) -> None:
    assert measured(made(tiny_lm("gpt2", prefix_token_id=3))).ok


def test_a_run_is_loaded_and_scored_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = made(folder="first"), made(folder="second", draw_seed=7)
    loads: list[Any] = []
    monkeypatch.setattr(deep, "load_model", lambda *given: loads.append(given) or load_model(*given))
    paths = [one.path for pair in zip(first, second, strict=True) for one in pair]
    found = verify_deep(paths)
    assert len(loads) == len(found) == 2
    assert [run.paths[0].parent.name for run in found] == ["first", "second"]
    assert all(run.ok and len(run.paths) == 4 for run in found)
    assert found[0].checks[-1].detail.startswith("10 of 24 windows scored again")


def test_nobody_can_foresee_which_windows_are_scored_again() -> None:
    chosen = [windows_to_score(1000, 0.1) for _ in range(20)]
    assert all(len(set(rows.tolist())) == 100 and (np.diff(rows) > 0).all() for rows in chosen)
    assert len(np.unique(np.concatenate(chosen))) > 500
    np.random.seed(0)
    first = windows_to_score(1000, 0.1)
    np.random.seed(0)
    assert not np.array_equal(first, windows_to_score(1000, 0.1))
    assert [len(windows_to_score(n, share)) for n, share in ((9, 0.1), (99, 0.1), (101, 0.1), (50, 1.0))] == [
        *(9, 10),
        *(11, 50),
    ]


def test_invented_observations_are_noticed(made: Made, tmp_path: Path) -> None:
    certificates = made(metrics=["bpd"])
    method = restore_plan([certificates[0].fields]).methods["bpd"]
    assert isinstance(method, KlInf)

    def flatter(arrays: dict[str, Any]) -> None:
        sums, sizes = arrays["sums"], arrays["stop"] - arrays["start"]
        sums["bpd/loss"] *= 0.8
        excess = (sums["bpd/ceiling_rise"] - sums["bpd/loss"]) / sizes / method.ceiling_offset
        sums["bpd/log_headroom"] = sizes * np.log1p(excess)

    lie = forged(certificates, tmp_path / "lie", flatter)
    assert lie[0].bound < certificates[0].bound
    found = failures(measured(lie))
    assert list(found) == ["scores"]
    assert "24 of 24 windows scored again, 24 are not as stored: bpd/" in found["scores"]
    assert "per token, " in found["scores"]


def test_one_better_window_is_noticed_when_it_is_scored(made: Made, tmp_path: Path) -> None:
    certificates = made(metrics=["top1"], method="azuma")

    def flatter(arrays: dict[str, Any]) -> None:
        arrays["sums"]["top1/loss"][7] = 0.0
        arrays["sums"]["top10/loss"][7] = arrays["sums"]["top100/loss"][7] = 0.0

    found = failures(measured(forged(certificates, tmp_path / "lie", flatter)))
    assert "1 are not as stored: top1/loss of tokens " in found["scores"]


def test_other_windows_are_noticed(made: Made, tmp_path: Path) -> None:
    certificates = made(metrics=["top1"], method="azuma")

    def shorten(arrays: dict[str, Any]) -> None:
        row = int(np.argmax(arrays["stop"] - arrays["token_index"]))
        arrays["stop"][row] -= 1
        arrays["sums"]["top1/loss"][row] -= 1.0

    found = failures(measured(forged(certificates, tmp_path / "lie", shorten)))
    assert found["draws"].startswith("1 of 24 windows are not those of the seed: draw ")
    assert found["scores"] == "no window was scored again, because of what differs before"


@pytest.fixture
def changed_model(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """The model of most runs with one weight changed, in a folder of its own."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "changed"
    shutil.copytree(tiny_checkpoint("unigram"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.transformer.wte.weight.data[5, 0] += 0.25
    model.save_pretrained(folder)
    return folder


def test_a_changed_weight_is_noticed(made: Made, changed_model: Path) -> None:
    certificates = made()
    sha256 = certificates[0].fields["complexity"]["sha256"]
    found = failures(measured(certificates, model_args=f"pretrained={changed_model}"))
    assert f"{sha256[:12]} is stated" in found["weights"]
    assert set(found) - {"code"} == {"weights", "scores"}


def test_a_checkpoint_that_was_replaced_is_noticed(
    made: Made, changed_model: Path, tiny_lm: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("unigram"), folder)
    certificates = made(HFLM(pretrained=str(folder), device="cpu", batch_size=8))
    assert measured(certificates).ok
    shutil.rmtree(folder)
    shutil.copytree(changed_model, folder)
    assert "weights" in failures(measured(certificates))


def test_another_model_altogether_is_noticed(made: Made, tiny_checkpoint: Callable[[str], Path]) -> None:
    found = failures(measured(made(), model_args=f"pretrained={tiny_checkpoint('llama')}"))
    assert {"weights", "code", "model", "scores"} <= set(found)
    assert found["model"] == "architecture is LlamaForCausalLM, GPT2LMHeadModel is stated"


def test_another_number_format_is_noticed(made: Made) -> None:
    found = failures(measured(made(), model_args="dtype=bfloat16"))
    assert found["model"] == "dtype is bfloat16, float32 is stated"


def test_another_prefix_token_is_noticed(made: Made) -> None:
    found = failures(measured(made(), model_args="prefix_token_id=3"))
    assert found["model"].startswith("prefix_token_id is 3, 256 is stated; default_prefix is False")


def test_another_corpus_is_noticed(made: Made, documents_file: Path) -> None:
    certificates = made()
    found = failures(measured(certificates, corpus_path=str(documents_file)))
    assert set(found) == {"corpus", "scores"}
    assert found["corpus"].startswith("sha256 is ")
    assert "115,373 is stated" in found["corpus"]


def test_a_corpus_that_moved_is_named_by_the_user(made: Made, many_documents_file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.jsonl"
    shutil.copy(many_documents_file, moved)
    certificates = made(corpus_path=str(moved))
    moved.rename(tmp_path / "again.jsonl")
    with pytest.raises(CorpusError, match=r"moved\.jsonl' that the certificate names is not here: pass --corpus_path"):
        measured(certificates)
    assert measured(certificates, corpus_path=str(tmp_path / "again.jsonl")).ok


def test_a_corpus_that_is_not_registered(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = made(metrics=["bpd"])
    monkeypatch.setattr("lm_bounds.corpora.registry.read_registry", lambda path: {})
    with pytest.raises(UsageError, match="unknown corpus 'local'"):
        measured(certificates)


def test_sequences_are_made_again_from_their_parameters(
    made: Made, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    from lm_bounds.corpora.number_text import number_tokenizer

    folder = tmp_path / "numbers"
    tiny_model("llama", vocab_size=12, bos_token_id=10, eos_token_id=10).save_pretrained(folder)
    number_tokenizer().save_pretrained(folder)
    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=8)
    assert measured(made(lm, "structured", folder="default", windows=12)).ok
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("seed: 1\n", encoding="utf-8")
    other = made(lm, "structured", folder="other", windows=12, corpus_path=str(parameters))
    assert measured(other).ok
    parameters.write_text("seed: 2\n", encoding="utf-8")
    assert list(failures(measured(other))) == ["corpus", "scores"]
    parameters.unlink()
    with pytest.raises(CorpusError, match=r"parameters\.yaml' that the certificate names is not here"):
        measured(other)


def test_another_tokenizer_is_noticed(made: Made, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint("unigram"))
    tokenizer.add_tokens(["bound"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    found = failures(measured(made(), model_args=f"tokenizer={tmp_path / 'tokenizer'}"))
    assert {"tokenizer", "corpus", "model"} <= set(found)


def test_a_context_that_the_model_does_not_allow(made: Made) -> None:
    found = failures(measured(made(), model_args="max_length=20"))
    assert found["model"] == "context=64 is longer than the model allows: use at most 20"


def test_a_model_that_reads_later_tokens_is_noticed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise ModelError("the model is not strictly causal: of the test")

    certificates = made()
    monkeypatch.setattr(reload, "check_causal", refuse)
    assert failures(measured(certificates))["causality"] == "the model is not strictly causal: of the test"


def test_a_model_in_memory_cannot_be_loaded_again(
    made: Made, tiny_checkpoint: Callable[[str], Path], byte_tokenizer: Any
) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("unigram"))
    certificates = made(HFLM(pretrained=model, tokenizer=byte_tokenizer))
    with pytest.raises(UsageError, match=r"a model in memory .* pass --model_args pretrained=DIRECTORY"):
        measured(certificates)
    assert measured(certificates, model_args=f"pretrained={tiny_checkpoint('unigram')}").ok


def test_a_model_that_is_gone(made: Made, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("unigram"), folder)
    certificates = made(HFLM(pretrained=str(folder), device="cpu"))
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="no model directory"):
        measured(certificates)


def test_several_processes_are_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = made(metrics=["bpd"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were started, and certificates are measured again by one"):
        verify_deep([certificates[0].path])


def test_what_transformers_says_is_one_line(made: Made) -> None:
    certificates = made(metrics=["bpd"])
    for arguments in ("dtype=float99", "nonsense=1"):
        with pytest.raises(LmBoundsError) as caught:
            measured(certificates, model_args=arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--model_args 'nonsense' cannot be read"):
        measured(certificates, model_args="nonsense")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2", {"pretrained": "gpt2"}),
        ("a/b,peft=c/d", {"pretrained": "a/b", "peft": "c/d"}),
        ("a/b,delta=c/d", {"pretrained": "a/b", "delta": "c/d"}),
        ("/x,y/z,peft=c,delta=d", {"pretrained": "/x,y/z", "peft": "c", "delta": "d"}),
    ],
)
def test_the_name_of_a_model_is_taken_apart(name: str, parts: dict[str, str]) -> None:
    assert parts_of_name(name) == parts


def test_the_arguments_of_a_model_come_from_its_certificate(made: Made) -> None:
    plan = restore_plan([made(metrics=["bpd"])[0].fields])

    def arguments(given: str | None = None, **facts: Any) -> dict[str, Any]:
        return model_arguments(replace(plan, model=replace(plan.model, **facts)), given)

    hub = {"name": "some/model,peft=some/adapter", "revision": "c0ffee"}
    assert arguments(**hub) == {
        "pretrained": "some/model",
        "peft": "some/adapter",
        "revision": "c0ffee",
        "dtype": "float32",
    }
    assert arguments("pretrained=here,trust_remote_code=true", **hub) == {
        "pretrained": "here",
        "trust_remote_code": True,
        "dtype": "float32",
    }
    assert arguments("dtype=bfloat16", **hub)["dtype"] == "bfloat16"
    assert arguments(name="m", prefix_token_id=3, default_prefix=False)["prefix_token_id"] == 3
    assert arguments(name="m", dtype="bfloat16") == {
        "pretrained": "m",
        "dtype": "float32",
        "mixed_precision_dtype": "bfloat16",
    }
    built_in: BuiltInModel = built_in_model("structured")
    assert arguments(name="lm_bounds/structured")["pretrained"] == str(built_in.path)
    with pytest.raises(UsageError, match="no model is called 'unheard-of'"):
        arguments(name="lm_bounds/unheard-of")


@pytest.mark.parametrize(("stated", "asked"), [("cpu", "cpu"), ("cuda:3", "cuda:0"), ("mps:0", "mps")])
def test_the_device_is_of_the_kind_that_the_certificate_names(made: Made, stated: str, asked: str) -> None:
    plan = restore_plan([made(metrics=["bpd"])[0].fields])
    assert reload._device(replace(plan, model=replace(plan.model, device=stated))) == asked


def test_all_windows_of_a_corpus(made: Made, documents_file: Path) -> None:
    certificates = made(corpus_path=str(documents_file), windows=10_000)
    assert certificates[0].fields["sample"]["scored_tokens"] == certificates[0].fields["corpus"]["n_tokens"]
    assert measured(certificates).ok
    assert len(run_certificates(certificates[0].path)) == 4
