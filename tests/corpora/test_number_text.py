"""Integers as text and as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lm_bounds.corpora import number_tokenizer
from lm_bounds.corpora.number_text import VOCABULARY, check_number_tokenizer, number_tokens
from lm_bounds.errors import CorpusError


@given(values=st.lists(st.integers(0, 2**63 - 1), max_size=20))
def test_tokens_are_those_of_the_written_numbers(values: list[int]) -> None:
    tokens, ends = number_tokens(np.array(values, dtype=np.int64))
    pieces = [f"{value}," for value in values]
    assert tokens.tolist() == [VOCABULARY[character] for character in "".join(pieces)]
    assert ends.tolist() == np.cumsum([len(piece) for piece in pieces]).tolist()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    number_tokenizer(256).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_transformers_loads_the_tokenizer(loaded: Any) -> None:
    assert len(loaded) == 12
    assert loaded.get_vocab() == VOCABULARY
    assert loaded.bos_token_id == loaded.eos_token_id == 10
    assert loaded.model_max_length == 256


def test_text_and_tokens_are_the_same(loaded: Any) -> None:
    tokens, _ = number_tokens(np.array([0, 10, 707281, 9]))
    text = "0,10,707281,9,"
    assert loaded(text, add_special_tokens=False)["input_ids"] == loaded(text)["input_ids"] == tokens.tolist()
    assert loaded.decode(tokens.tolist()) == text
    check_number_tokenizer(loaded, "structured")


def test_another_tokenizer_is_refused(byte_tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match="corpus random is made of the tokens of digits and commas"):
        check_number_tokenizer(byte_tokenizer, "random")
