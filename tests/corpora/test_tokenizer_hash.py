"""One hash per way of making ids out of text."""

from __future__ import annotations

from typing import Any

import pytest

from lm_bounds.corpora import tokenizer_sha256
from lm_bounds.errors import CorpusError


def test_hash_ignores_the_settings_of_the_last_call(byte_tokenizer: Any) -> None:
    reference = tokenizer_sha256(byte_tokenizer)
    byte_tokenizer.backend_tokenizer.enable_truncation(3)
    byte_tokenizer.backend_tokenizer.enable_padding()
    assert tokenizer_sha256(byte_tokenizer) == reference
    byte_tokenizer.backend_tokenizer.no_truncation()
    byte_tokenizer.backend_tokenizer.no_padding()


def test_hash_tells_tokenizers_apart(
    byte_tokenizer: Any, word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, plain_bytes: Any
) -> None:
    hashes = {
        tokenizer_sha256(byte_tokenizer),
        tokenizer_sha256(word_tokenizer),
        tokenizer_sha256(plain_bytes()),
    }
    monkeypatch.setattr(word_tokenizer, "split_special_tokens", True)
    hashes.add(tokenizer_sha256(word_tokenizer))

    class Reversed(plain_bytes):
        """The same vocabulary, other ids for a text."""

        def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
            return {"input_ids": [list(item.encode())[::-1] for item in text]}

    Reversed.__name__ = "Bytes"
    hashes.add(tokenizer_sha256(Reversed()))
    assert len(hashes) == 5
    assert tokenizer_sha256(plain_bytes()) == tokenizer_sha256(plain_bytes())


def test_random_tokenizers_are_refused(plain_bytes: Any) -> None:
    from tokenizers import Tokenizer, models

    class Dropping(plain_bytes):
        backend_tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], dropout=0.1))

    class Sampling(plain_bytes):
        sp_model_kwargs = {"enable_sampling": True}  # noqa: RUF012

    for tokenizer in (Dropping(), Sampling()):
        with pytest.raises(CorpusError, match="random ids"):
            tokenizer_sha256(tokenizer)
