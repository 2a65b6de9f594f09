"""Tiny tokenizers, built on the spot, and what most tests of this room do with a corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora import TokenCorpus, open_local

END_OF_TEXT = "<|end|>"


class CountingTokenizer:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.batches: list[list[str]] = []

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: list[str], **options: Any) -> Any:
        self.batches.append(text)
        return self._tokenizer(text, **options)


class PlainBytes:
    """A tokenizer in pure Python: one token per byte of UTF-8; end of text = 256."""

    special_tokens_map = {"eos_token": "<eot>"}  # noqa: RUF012

    def __len__(self) -> int:
        return 257

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [list(item.encode()) for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {f"byte {value}": value for value in range(257)}


@pytest.fixture(scope="session")
def prefix_tokenizer() -> Any:
    """A byte-fallback tokenizer in the manner of Llama: every text gets a leading space, so pieces show."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)} | {"▁": 258}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """Three words and an unknown one; with an end-of-text token that can be written out in the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, unk_token="<unk>")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def text_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    return folder


@pytest.fixture
def plain_bytes() -> type[PlainBytes]:
    return PlainBytes


@pytest.fixture
def counting() -> type[CountingTokenizer]:
    return CountingTokenizer


@pytest.fixture
def opened(cache_dir: Path) -> Callable[..., TokenCorpus]:
    """Open a corpus with the temporary cache; end of text is the byte tokenizers' unless said otherwise."""

    def open_it(path: Path, tokenizer: Any, cache: Path = cache_dir, end_of_text_id: int | None = 256) -> Any:
        return open_local(path, tokenizer, end_of_text_id=end_of_text_id, n_logits=len(tokenizer), cache_dir=cache)

    return open_it


@pytest.fixture
def documents() -> Callable[[TokenCorpus], list[list[int]]]:
    """The token ids of every document."""
    return lambda corpus: [part.tolist() for part in np.split(corpus.tokens, corpus.document_starts[1:])]


@pytest.fixture
def cache_files(cache_dir: Path) -> Callable[[], list[Path]]:
    """The files in the cache folder."""
    return lambda: sorted(cache_dir.iterdir()) if cache_dir.exists() else []
