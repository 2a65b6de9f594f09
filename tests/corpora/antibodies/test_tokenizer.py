"""Families as text and as 29 tokens."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lm_bounds.corpora import antibody_tokenizer, write_antibody_tokenizer
from lm_bounds.corpora.antibodies.tokenizer import (
    RESIDUES,
    VOCABULARY,
    check_antibody_tokenizer,
    family_pieces,
    family_text,
)
from lm_bounds.errors import CorpusError

SEQUENCES = st.lists(st.text(RESIDUES, min_size=1, max_size=12), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_antibody_tokenizer(tmp_path_factory.mktemp("parent") / "new", 2048)
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.is_dir()]
    return AutoTokenizer.from_pretrained(folder)


def test_transformers_loads_29_tokens(loaded: Any) -> None:
    assert len(loaded) == loaded.vocab_size == 29
    assert loaded.get_vocab() == VOCABULARY
    assert len(set(VOCABULARY) - set(RESIDUES)) == 9
    assert list(VOCABULARY)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert list(VOCABULARY)[5:25] == sorted(RESIDUES)
    assert list(VOCABULARY)[25:] == ["-", "[ClSep]", "[AbHC]", "[AbLC]"]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (2, 3, 0, 1)
    assert loaded.mask_token_id == 4
    assert loaded.model_max_length == 2048
    check_antibody_tokenizer(loaded, "oas")


def test_the_file_of_the_tokenizer_is_replaced(tmp_path: Path) -> None:
    write_antibody_tokenizer(tmp_path, 64)
    write_antibody_tokenizer(tmp_path, 128)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 128


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"file cannot be written: .*; name another folder"):
        write_antibody_tokenizer(tmp_path / "file")


@given(sequences=SEQUENCES)
def test_text_and_tokens_are_the_same(sequences: list[str]) -> None:
    tokenizer = TOKENIZER
    text = family_text(sequences)
    ids = tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
    assert ids == tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) == sum(map(len, sequences)) + len(sequences) - 1
    assert [sequence.replace(" ", "") for sequence in text.split(" [ClSep] ")] == sequences


TOKENIZER = antibody_tokenizer()


@given(sequences=SEQUENCES, piece_chars=st.integers(1, 60))
def test_pieces_are_whole_sequences(sequences: list[str], piece_chars: int) -> None:
    pieces = list(family_pieces(sequences, piece_chars))
    assert "".join(pieces) == family_text(sequences)
    assert all(piece.startswith(" [ClSep] ") for piece in pieces[1:])
    assert all(len(piece) <= piece_chars or piece.count("[ClSep]") <= 1 for piece in pieces)
    in_pieces = TOKENIZER(pieces, add_special_tokens=False)["input_ids"]
    assert [*itertools.chain(*in_pieces)] == TOKENIZER(family_text(sequences), add_special_tokens=False)["input_ids"]


def test_any_tokenizer_that_gives_the_text_back_will_do(byte_tokenizer: Any) -> None:
    check_antibody_tokenizer(byte_tokenizer, "oas")


def lower_case() -> Any:
    from tokenizers import normalizers

    tokenizer = antibody_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def without(*missing: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [token for token in VOCABULARY if token not in missing]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize("make", [lower_case, lambda: without("[ClSep]"), lambda: without("W"), lambda: without("Y")])
def test_a_tokenizer_that_loses_something_is_refused(make: Any) -> None:
    with pytest.raises(CorpusError, match=r"corpus oas is made of residues and .*write_antibody_tokenizer"):
        check_antibody_tokenizer(make(), "oas")


def test_a_tokenizer_that_joins_two_neighbours_into_another_is_refused() -> None:
    from tokenizers import normalizers

    tokenizer = antibody_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("W Y", "Y W")
    with pytest.raises(CorpusError, match="does not keep this text"):
        check_antibody_tokenizer(tokenizer, "oas")
