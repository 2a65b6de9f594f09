"""Bad input: a non-zero exit code and exactly one line on standard error, which says what to do."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora import CorpusSpec, corpus_specs, registry


@dataclass(frozen=True)
class Plugin:
    """An entry point that loads to a corpus."""

    spec: CorpusSpec
    name: str = "plugin"
    value: str = "plugin:spec"

    def load(self) -> CorpusSpec:
        return self.spec


BOUND = {"--metric": "bpd", "--risk": 3, "--code-bits": 1e6, "--tokens": 1e9, "--vocab": 32000, "--alpha": 0.1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--risk": 99}, "the risk must be between 0.151998 and 18.2877"),
        ({"--risk": 0.1}, "the risk must be between 0.151998 and 18.2877"),
        ({"--risk": "nan"}, "the risk must be between"),
        ({"--risk": None}, "--risk is missing"),
        ({"--risk": "three"}, "'three' is not a valid float"),
        ({"--alpha": None}, "needs --alpha, the smoothing probability in (0, 1)"),
        ({"--alpha": 0}, "smoothing in (0, 1)"),
        ({"--alpha": 1}, "smoothing in (0, 1)"),
        ({"--method": "bernstein"}, "unknown method 'bernstein': use one of paper, azuma, kl_inf"),
        ({"--method": "freedman"}, "needs losses, not a mean: use one of paper, azuma, kl_inf"),
        ({"--tokens": 0.5}, "--tokens must be a whole number of at least 1, 0.5 was given"),
        ({"--tokens": 10.5}, "--tokens must be a whole number of at least 1"),
        ({"--tokens": "inf"}, "--tokens must be a whole number of at least 1"),
        ({"--tokens": "nan"}, "--tokens must be a whole number of at least 1"),
        ({"--samples": 0}, "--samples must be a whole number of at least 1"),
        ({"--code-bits": "inf"}, "--code-bits must be a finite number of bits of at least 0"),
        ({"--code-bits": "nan"}, "--code-bits must be a finite number of bits of at least 0"),
        ({"--code-bits": -0.5}, "--code-bits must be a finite number of bits of at least 0"),
        ({"--code-bits": 1, "--method": "paper"}, "needs a code length of 2 bits or more"),
        ({"--vocab": 1}, "--vocab must be at least 2"),
        ({"--vocab": 2.5}, "'2.5' is not a valid integer"),
        ({"--failure-prob": 0}, "failure_prob must be in (0, 1)"),
        ({"--failure-prob": 1}, "failure_prob must be in (0, 1)"),
        ({"--metric": "top"}, "unknown metric 'top': did you mean 'top1'?"),
        ({"--metric": "loss"}, "unknown metric 'loss': use one of bpd, top1, top10, top100"),
        ({"--metric": "top\N{SUPERSCRIPT TWO}", "--risk": 0.3}, "unknown metric"),
        ({"--metric": "top40000", "--risk": 0.3}, "use a smaller k"),
        ({"--alhpa": 0.1}, "No such option"),
    ],
)
def test_bound(command: Callable[..., Any], changes: dict[str, Any], words: str) -> None:
    options = {name: value for name, value in {**BOUND, **changes}.items() if value is not None}
    done = command("bound", *(part for option in options.items() for part in option))
    assert done.code == 2
    assert words in done.error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("compress", "nowhere"), 1, "no checkpoint at nowhere: give a directory"),
        (("compress", "."), 1, "holds no weights: it needs model.safetensors"),
        (("compress", "{text}"), 1, "is not a checkpoint: give a directory, a .safetensors or a .gguf file"),
        (("compress", "{model}", "--compressor", "gzp"), 2, "did you mean 'gzip'?"),
        (("compress", "{model}", "--compressor", ""), 2, "use one of arithmetic, best, "),
        (("compress",), 2, "Missing argument 'MODEL'"),
        (("corpora", "show", "locale"), 2, "did you mean 'local'?"),
        (("corpora", "show"), 2, "Missing argument 'ID'"),
        (("corpora", "list"), 2, "No such command 'list'"),
        (("verify", "{text}"), 3, "is not JSON"),
        (("verify", "missing.json"), 3, "cannot be read (No such file or directory): pass a certificate file"),
        (("verify", "."), 2, ". has no certificate in it: name a folder that has"),
        (("verify",), 2, "Missing argument 'CERTIFICATE...'"),
        (("verfy", "x.json"), 2, "No such command 'verfy'"),
        (("--nonsense",), 2, "No such option"),
        (("doctor", "now"), 2, "unexpected extra argument (now)"),
    ],
)
def test_other_commands(
    command: Callable[..., Any],
    tiny_checkpoint: Callable[[str], Path],
    text_file: Path,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    places = {"{model}": str(tiny_checkpoint("gpt2")), "{text}": str(text_file)}
    done = command(*(places.get(argument, argument) for argument in arguments))
    assert done.code == code
    assert words in done.error


@pytest.fixture
def run_with(
    command: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], text_file: Path, no_index: None
) -> Callable[..., Any]:
    """``run_with(*arguments, **options)``: a run in order but for what is given; an option of None is left out."""

    def run(*arguments: object, **options: Any) -> Any:
        usual = {
            "model": "hf",
            "model_args": f"pretrained={tiny_checkpoint('gpt2')}",
            "tasks": "local_bounds",
            "corpus_path": text_file,
            "windows": 30,
            "batch_size": 8,
            "device": "cpu",
        }
        given = {name: value for name, value in {**usual, **options}.items() if value is not None}
        return command("run", *(part for name, value in given.items() for part in (f"--{name}", value)), *arguments)

    return run


# What is known to be wrong before a model is loaded.
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"model_args": "pretrained=/no/such/folder"},
            "no model directory '/no/such/folder': pass pretrained=DIRECTORY",
        ),
        ({"model_args": "pretrained=./folder"}, "no model directory './folder'"),
        ({"model_args": None}, "no model was given: pass pretrained=DIRECTORY or a Hub id"),
        ({"tasks": None}, "no --tasks were given: use one of amber_bounds, amber_bpd_bound"),
        ({"tasks": "local_bpd_bonud"}, "did you mean 'local_bpd_bound'?"),
        ({"tasks": "local_bound"}, "did you mean 'local_bounds'?"),
        ({"tasks": "local_bpd"}, "no task is called 'local_bpd': did you mean"),
        ({"tasks": "local_bounds,local_top11_bound"}, "no task is called 'local_top11_bound': did you mean"),
        ({"corpus_path": None}, "needs its place: pass --corpus_path FILE-OR-FOLDER"),
        ({"corpus_path": "absent.txt"}, "absent.txt does not exist; name a file of text"),
        ({"corpus_path": ""}, "corpus_path must not be empty"),
        ({"corpus": "tinystory"}, "unknown corpus 'tinystory': did you mean 'tinystories'?"),
        ({"tasks": "oas_bounds", "corpus": "oas"}, "corpus=oas goes with the tasks local_..., and none of them is run"),
        ({"windows": 0}, "windows must be a whole number of at least 1, 0 was given"),
        ({"windows": None, "metadata": "windows=1.5"}, "windows must be a whole number of at least 1, 1.5 was given"),
        ({"windows": 0, "metadata": "windows=50"}, "windows must be a whole number of at least 1, 0 was given"),
        ({"windows": "many"}, "'many' is not a valid integer"),
        ({"pilot": 1}, "pilot must be a whole number of at least 2"),
        ({"context": 0}, "context must be a whole number of at least 1"),
        ({"failure_prob": 2}, "failure_prob must be a probability between 0 and 1"),
        ({"failure-prob": 0}, "failure_prob must be a probability between 0 and 1"),
        ({"family_wise": "perhaps"}, "family_wise must be true or false"),
        ({"draw_seed": -1}, "draw_seed must be a whole number of at least 0"),
        ({"shared-draws": 0}, "shared_draws must be a whole number of at least 1"),
        ({"method": "kl_imf"}, "unknown method 'kl_imf': did you mean 'kl_inf'?"),
        ({"compressor": "gzp"}, "did you mean 'gzip'?"),
        ({"metadata": "windws=100"}, "unknown metadata key 'windws': did you mean 'windows'?"),
        ({"metadata": "lm_bounds.windws=100"}, "did you mean 'lm_bounds.windows'?"),
        ({"metadata": "windows"}, "expected `key=value`, got 'windows'"),
        ({"limit": -3}, "--limit must be above 0, -3 was given"),
        ({"no_such_flag": 3}, "unrecognized arguments: --no_such_flag 3: see `lm_eval run --help`"),
        ({"seed": "a"}, "--seed"),
    ],
    ids=str,
)
def test_run_is_refused_at_once(
    run_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    def load(*arguments: Any, **others: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.__init__", load)
    done = run_with(**options)
    assert done.code in (1, 2)
    assert words in done.error


@pytest.mark.parametrize("option", ["certificates", "output_path"])
def test_certificates_cannot_be_written_into_a_file(run_with: Callable[..., Any], text_file: Path, option: str) -> None:
    assert f"{str(text_file)!r}, a file: name a folder" in run_with(**{option: text_file}).error


def test_certificates_cannot_be_written_where_no_folder_can_be_made(
    run_with: Callable[..., Any], text_file: Path
) -> None:
    words = f"certificates cannot be written to {str(text_file / 'below')!r} (Not a directory): pass another"
    assert words in run_with(certificates=text_file / "below").error


# What only the model, the corpus or lm-eval's own evaluator shows.
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--context", 65), "context=65 is longer than the model allows: use at most 64"),
        (("--samples", '{"local_bpd_bound": [0]}'), "--samples chooses the windows by hand"),
        (("--cache_requests", "true"), "--cache_requests would reuse the requests of another run"),
        (("--num_fewshot", 3), "--num_fewshot prepends other windows to every context"),
        (("--system_instruction", "x"), "--system_instruction changes every context"),
        (("--apply_chat_template",), "--apply_chat_template changes every context"),
        (("--predict_only", "--output_path", "out"), "--predict_only leaves the bound out"),
        (("--model_args", "no_such_argument=3"), "no_such_argument"),
        (("--model", "nonsense"), "nonsense"),
        (("--config", "absent.yaml"), "absent.yaml"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_run_is_refused(run_with: Callable[..., Any], arguments: tuple[object, ...], words: str) -> None:
    done = run_with(*arguments)
    assert words in done.error
    if words.startswith("--"):
        assert done.code == 2
        assert done.error.startswith("Error: local_bpd_bound: ")
        assert done.error.endswith(": run again without it")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty.txt holds no text that gives tokens"), (bytes(range(256)), "is not UTF-8 text")],
    ids=["empty", "binary"],
)
def test_run_on_no_text(run_with: Callable[..., Any], tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    done = run_with(corpus_path=path)
    assert done.code == 1
    assert words in done.error


def test_run_of_an_encoder(run_with: Callable[..., Any], encoder_checkpoint: Path) -> None:
    done = run_with(model_args=f"pretrained={encoder_checkpoint}")
    assert done.code == 1
    assert "the model is not strictly causal" in done.error
    assert "use a causal (decoder-only) language model" in done.error


def test_a_process_of_its_own_is_as_quiet(encoder_checkpoint: Path, text_file: Path) -> None:
    # libraries that are loaded for the first time read other settings, and hold the real standard error
    program = "import sys; from lm_bounds.cli import main; main(sys.argv[1:])"
    arguments = ["run", "--model", "hf", "--model_args", f"pretrained={encoder_checkpoint}", "--tasks", "local_bounds"]
    places = ["--corpus_path", str(text_file), "--device", "cpu", "--batch_size", "8"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *places], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: the model is not strictly causal")


def test_run_of_a_name_that_is_neither_here_nor_on_the_hub(run_with: Callable[..., Any]) -> None:
    done = run_with(model_args="pretrained=no-such-model")
    assert done.code == 1
    assert "model 'no-such-model' is no directory here and was not loaded from the Hub" in done.error


def test_run_of_a_folder_without_a_model(run_with: Callable[..., Any], tmp_path: Path) -> None:
    assert "model_type" in run_with(model_args=f"pretrained={tmp_path}").error


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_run_of_a_folder_without_a_tokenizer(
    run_with: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    whole, bare = tiny_checkpoint(family), tmp_path / "bare"
    shutil.copytree(whole, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    done = run_with(model_args=f"pretrained={bare}")
    assert done.code == 2
    words = f"no tokenizer in {str(bare)!r}: save it there, or pass tokenizer=DIR or a Hub id in --model_args"
    assert done.error == f"Error: {words}"
    assert "no tokenizer in" not in run_with("--windows", 0, model_args=f"pretrained={bare},tokenizer={whole}").error
    assert run_with(model_args=f"pretrained={bare},tokenizer={whole}").code == 0


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.txt", "merges.txt", "tekken.json", "spiece.model", "en.tiktoken", "source.spm"]
)
def test_tokenizers_of_every_kind_are_left_to_transformers(
    run_with: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("gpt2"), folder, ignore=shutil.ignore_patterns("tokenizer*"))
    (folder / name).touch()
    (folder / "model.safetensors").unlink()
    assert "no tokenizer in" not in run_with(model_args=f"pretrained={folder}").error


@pytest.mark.parametrize(
    ("argument", "cure"),
    [
        ("load_in_8bit=True", "save a quantised checkpoint and pass its directory"),
        ("load_in_4bit=True", "save a quantised checkpoint and pass its directory"),
        ("gptqmodel=True", "leave it out: transformers loads GPTQ checkpoints itself (pip install 'lm-bounds[gptq]')"),
        ("autogptq=True", "leave it out: transformers loads GPTQ checkpoints itself (pip install 'lm-bounds[gptq]')"),
    ],
)
def test_quantising_while_loading_is_refused(
    run_with: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], argument: str, cure: str
) -> None:
    done = run_with(model_args=f"pretrained={tiny_checkpoint('gpt2')},{argument}")
    assert done.code == 2
    assert done.error.startswith(f"Error: {argument} in --model_args: ")
    assert done.error.endswith(cure)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_broken_configuration_is_left_to_transformers(
    run_with: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], tmp_path: Path, content: str
) -> None:
    shutil.copytree(tiny_checkpoint("gpt2"), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(content, encoding="utf-8")
    assert run_with(model_args=f"pretrained={tmp_path / 'model'}").code == 1


def test_the_corpus_of_a_task_is_known_before_a_model_is_loaded_whatever_its_name(
    run_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = corpus_specs()["local"]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [Plugin(replace(local, id="old_tales"))])
    monkeypatch.setattr("lm_bounds.tasks.harness.tasks_path", lambda: tmp_path)
    task = "task: {0}_bpd_bound\nclass: !function lm_bounds.tasks.task.BoundTask\ncorpus: {0}\nmetric: bpd\n"
    (tmp_path / "old_tales_bpd_bound.yaml").write_text(task.format("old_tales"), encoding="utf-8")
    (tmp_path / "old_tales_bounds.yaml").write_text("group: old_tales_bounds\ntask: [old_tales_bpd_bound]\n")
    for name in ("old_tales_bounds", "old_tales_bpd_bound"):
        done = run_with(tasks=name, corpus_path="absent.txt")
        assert done.code == 1
        assert "absent.txt does not exist; name a file of text" in done.error
        assert run_with(tasks=name).code == 0


def test_run_of_unknown_tasks_lists_ours(run_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # lm-eval has to be asked for a name that is nowhere near ours; here its index is empty, which is quicker
    import lm_eval.tasks

    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    )
    done = run_with(tasks="no_such_thing")
    assert "Tasks not found: no_such_thing: ours are amber_bounds, amber_bpd_bound" in done.error


def test_options_of_a_config_file_are_checked_as_well(
    command: Callable[..., Any], tmp_path: Path, tiny_checkpoint: Callable[[str], Path], text_file: Path
) -> None:
    config = {
        "model": "hf",
        "model_args": f"pretrained={tiny_checkpoint('gpt2')}",
        "tasks": "local_bonds",
        "metadata": {"corpus_path": str(text_file), "windows": 0},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert "did you mean 'local_bounds'?" in command("run", "--config", path).error
    done = command("run", "--config", path, "--tasks", "local_bounds")
    assert "windows must be a whole number of at least 1, 0 was given" in done.error
