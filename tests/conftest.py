"""What all tests share: a home of their own, a byte-level tokenizer, tiny random models, text to evaluate them on."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora.slots import Cell, CellTokens, SlotCorpus, malformed

# Before any library reads them: nothing is downloaded, and one worker takes one core.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

END_OF_TEXT = "<|end|>"
CONTEXT = 64
VOCABULARY = 260  # three logits more than the tokenizer has tokens

_NUMBERED = itertools.count()
_WORDS = "the a of bound token window model sample corpus prior loss risk bits draws holds says is was seen in"
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "hidden_dropout": 0.0,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.3},
    "llama": {**_SMALL, "num_key_value_heads": 1},
    "gpt_neox": _SMALL,
}


@pytest.fixture(autouse=True)
def lm_bounds_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of each test's own, made by whoever writes to it: the user's cache is never touched."""
    folder = tmp_path_factory.getbasetemp() / f"home-{next(_NUMBERED)}"
    monkeypatch.setenv("LM_BOUNDS_HOME", str(folder))
    return folder


@pytest.fixture
def shared_tokens(lm_bounds_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of a text are kept from test to test: for tests that tokenise one of the files below."""
    kept = tmp_path_factory.getbasetemp() / "tokens"
    kept.mkdir(exist_ok=True)
    lm_bounds_home.mkdir()
    (lm_bounds_home / "tokens").symlink_to(kept)
    return kept


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """One token per byte (ids 0..255 in the byte-level alphabet's order), end of text = 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """``tiny_model(family, seed=0, **config)``: a random causal model, the same one for the same arguments."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)

    def make(family: str = "gpt2", seed: int = 0, **changes: Any) -> Any:
        settings = {"vocab_size": VOCABULARY, "bos_token_id": 256, "eos_token_id": 256, **FAMILIES[family], **changes}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()

    return make


@pytest.fixture(scope="session")
def unigram_model(tiny_model: Callable[..., Any], byte_tokenizer: Any, many_documents_file: Path) -> Callable[[], Any]:
    """``unigram_model()``: a GPT-2 whose few weights that are not zero hold the frequencies of the bytes of
    ``many_documents_file``: it compresses so well that its bounds on that text are not vacuous."""
    import torch

    def make() -> Any:
        counts = torch.full((VOCABULARY,), 0.5)
        for line in many_documents_file.read_text(encoding="utf-8").splitlines():
            ids = [*byte_tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"], 256]
            counts += torch.bincount(torch.tensor(ids), minlength=VOCABULARY)
        model = tiny_model("gpt2")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            # quarters have few mantissa bits
            model.transformer.wte.weight[:, 0] = torch.round(4 * (counts / counts.sum()).log()) / 4
            model.transformer.ln_f.bias[0] = 1.0
        return model

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_model: Callable[..., Any],
    unigram_model: Callable[[], Any],
    byte_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """``tiny_checkpoint(family)``: the directory of a tiny model and its tokenizer; read it, do not write.

    ``gpt2``, ``llama`` and ``gpt_neox`` are random, ``unigram`` is a GPT-2 that knows how frequent each byte is.
    """

    @functools.cache
    def save(family: str = "gpt2") -> Path:
        folder = tmp_path_factory.mktemp("models") / f"tiny-{family}"
        model = unigram_model() if family == "unigram" else tiny_model(family)
        model.save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_lm(tiny_checkpoint: Callable[[str], Path]) -> Callable[..., Any]:
    """``tiny_lm(family, **options)``: lm-eval's HFLM of a tiny checkpoint, loaded anew at every call."""
    from lm_eval.models.huggingface import HFLM

    def load(family: str = "gpt2", **options: Any) -> Any:
        return HFLM(pretrained=str(tiny_checkpoint(family)), device="cpu", **{"batch_size": 8, **options})

    return load


def _sentences(seed: int, count: int = 120) -> list[str]:
    words = _WORDS.split()
    choose = random.Random(seed)
    return [" ".join(choose.choices(words, k=choose.randint(1, 14))).capitalize() + "." for _ in range(count)]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One text document of a few thousand bytes."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n".join(_sentences(1)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def documents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents in a .jsonl file, most of them shorter than a window."""
    return _write_documents(tmp_path_factory, _sentences(2))


@pytest.fixture(scope="session")
def many_documents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3000 documents in a .jsonl file, about 120,000 tokens: enough for a bound that is not vacuous."""
    return _write_documents(tmp_path_factory, _sentences(3, 3000))


def _write_documents(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_apart() -> Callable[[Path, list[str]], subprocess.CompletedProcess[str]]:
    """``run_apart(folder, command)``: a process of its own, the commands that pip installed, no network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=folder,
            env={**environment, "HF_HUB_OFFLINE": "1", "LM_BOUNDS_HOME": str(folder / "home")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@dataclass(frozen=True)
class InventedCells:
    """Cells of given sizes in memory; the content of each is its number.

    Args:
        sizes: slots of each cell.
    """

    sizes: tuple[int, ...]
    source: str = "invented"
    identity: str = "1"

    @functools.cached_property
    def edges(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def number(self) -> int:
        return int(self.edges[-1])

    @property
    def rule(self) -> dict[str, Any]:
        return {"cells": "invented", "sizes": hashlib.sha256(self.edges.tobytes()).hexdigest()}

    def at(self, slot: np.ndarray) -> list[Cell]:
        assert (np.diff(slot) >= 0).all()
        numbers = np.searchsorted(self.edges, slot, side="right") - 1
        return [Cell(int(self.edges[k]), self.sizes[k], int(k), f"invented, cell {k}") for k in numbers]


@dataclass(frozen=True)
class InventedReader:
    """So many tokens in each cell, each the number of its cell modulo 250; -1 for a malformed one.

    Args:
        tokens: of each cell.
        per_token: slots of a token.
        row_tokens: of every cell that is not malformed, None where they differ.
    """

    tokens: tuple[int, ...]
    per_token: int = 1
    row_tokens: int | None = None
    reencoded_from: str | None = None

    @property
    def rule(self) -> dict[str, Any]:
        return {"tokens": "invented"}

    def read(self, cells: list[Cell]) -> list[CellTokens]:
        void = malformed("is malformed", self.per_token * (self.row_tokens or 1 << 60))
        return [
            void
            if self.tokens[cell.content] < 0
            else CellTokens(np.full(self.tokens[cell.content], cell.content % 250), np.zeros(1, np.int64))
            for cell in cells
        ]


@pytest.fixture(scope="session")
def invented_slots(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SlotCorpus]:
    """``invented_slots(sizes, tokens, per_token=1, row_tokens=None, **others)``: a corpus in memory, drawn by slots."""

    def make(sizes: Any, tokens: Any, per_token: int = 1, row_tokens: int | None = None, **others: Any) -> SlotCorpus:
        reader = InventedReader(tuple(tokens), per_token, row_tokens)
        given = {"end_of_text_id": 256, "n_ids": VOCABULARY, **others}
        folder = tmp_path_factory.mktemp("counts")
        return SlotCorpus("local", InventedCells(tuple(sizes)), reader, "e" * 64, cache_dir=folder, **given)

    return make
