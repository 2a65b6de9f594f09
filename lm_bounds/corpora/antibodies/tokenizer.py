"""Families as text and as tokens: residues with spaces between them, ``[ClSep]`` between sequences.

The vocabulary has the 29 tokens of the models of clonal families by Amin et al. (CloneLM, arXiv 2412.07763), in their
order, and so the number of the paper (section B.9): padding, unknown, beginning, end and mask; the 20 residues; the gap
``-``, ``[ClSep]``, and the marks of heavy and of light chains, of which the families here use ``[ClSep]`` alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lm_bounds.corpora.antibodies.families import RESIDUES
from lm_bounds.errors import CorpusError

SEPARATOR = "[ClSep]"
_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *RESIDUES, "-", SEPARATOR, "[AbHC]", "[AbLC]")
VOCABULARY = {token: token_id for token_id, token in enumerate(_TOKENS)}


def family_text(sequences: Iterable[str]) -> str:
    """A family as text.

    >>> family_text(["CAR", "CTR"])
    'C A R [ClSep] C T R'
    """
    return f" {SEPARATOR} ".join(map(" ".join, sequences))


def family_pieces(sequences: Iterable[str], piece_chars: int) -> Iterator[str]:
    """The text of a family in pieces of whole sequences, at most ``piece_chars`` characters where a sequence allows.

    >>> list(family_pieces(["CAR", "CTR", "CAT"], 20))
    ['C A R [ClSep] C T R', ' [ClSep] C A T']
    """
    piece = ""
    for number, sequence in enumerate(sequences):
        added = f" {SEPARATOR} " * (number > 0) + " ".join(sequence)
        if piece and len(piece) + len(added) > piece_chars:
            yield piece
            piece = ""
        piece += added
    if piece:
        yield piece


def antibody_tokenizer(context: int | None = None) -> Any:
    """The tokenizer of such texts, for transformers: ``[CLS]`` is its beginning and ``[SEP]`` its end of text.

    It adds neither of them by itself.

    Args:
        context: the longest input of the model that it belongs to, beginning included.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocab=dict(VOCABULARY), unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    length = {} if context is None else {"model_max_length": context}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="[CLS]",
        eos_token="[SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
        **length,
    )


def write_antibody_tokenizer(folder: str | os.PathLike[str], context: int | None = None) -> Path:
    """Writes the tokenizer to a folder, for ``AutoTokenizer.from_pretrained`` and the models that are trained with it.

    Args:
        folder: made where it is missing; files of a tokenizer that are there are replaced.
        context: as in ``antibody_tokenizer``.

    Returns:
        the folder.

    Raises:
        CorpusError: it cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".tokenizer-") as made:
            antibody_tokenizer(context).save_pretrained(made)
            for path in sorted(Path(made).iterdir()):
                os.replace(path, target / path.name)
    except OSError as error:
        raise CorpusError(f"{target} cannot be written: {error.strerror or error}; name another folder") from error
    return target


def check_antibody_tokenizer(tokenizer: Any, corpus_id: str) -> None:
    """Refuses a tokenizer from whose tokens a family cannot be read again, spaces aside.

    It is tried on every residue, every pair of neighbours, and the separator between residues.

    Raises:
        CorpusError: naming the corpus and what to do.
    """
    probe = family_text(["".join(one + other for one in RESIDUES for other in RESIDUES), *RESIDUES])
    ids = tokenizer([probe], add_special_tokens=False, verbose=False)["input_ids"][0]
    found = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "".join(found.split()) != "".join(probe.split()):
        raise CorpusError(
            f"corpus {corpus_id} is made of residues and {SEPARATOR} ({family_text(['CAR', 'CTR'])!r}), but the "
            "model's tokenizer does not keep this text: use a model with the tokenizer of "
            "lm_bounds.corpora.write_antibody_tokenizer, or any other that gives the text back"
        )
