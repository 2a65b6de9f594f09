"""Integers as text and as tokens: decimal digits, a comma after every integer.

The vocabulary has 12 tokens: the digits (ids 0 to 9), the beginning ``<s>`` (10) that stands before a window, and the
delimiter ``,`` (11). So 7, 12 is the text ``7,12,`` and the tokens 7 11 1 2 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

BEGINNING, DELIMITER = "<s>", ","
VOCABULARY = {**{str(digit): digit for digit in range(10)}, BEGINNING: 10, DELIMITER: 11}
_PROBE = "0,10,2345,6789,"


def number_tokens(values: IntArray) -> tuple[np.ndarray[Any, np.dtype[np.uint16]], IntArray]:
    """The tokens of integers, one after another, and the index after each integer's delimiter.

    Args:
        values: integers >= 0. # shape: (integers,)

    Returns:
        ``(tokens, ends)``: uint16 # shape: (tokens,), int64 # shape: (integers,)

    >>> tokens, ends = number_tokens(np.array([7, 12]))
    >>> tokens.tolist(), ends.tolist()
    ([7, 11, 1, 2, 11], [2, 5])
    """
    powers = 10 ** np.arange(1, 19, dtype=np.int64)
    n_digits = 1 + np.searchsorted(powers, values, side="right")
    ends = np.cumsum(n_digits + 1)
    tokens = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint16)
    tokens[ends - 1] = VOCABULARY[DELIMITER]
    rest, place = np.asarray(values, dtype=np.int64), ends - 2
    for position in range(int(n_digits.max(initial=0))):
        has_digit = n_digits > position
        tokens[place[has_digit] - position] = rest[has_digit] % 10
        rest = rest // 10
    return tokens, ends


def number_tokenizer(context: int | None = None) -> Any:
    """The tokenizer of such texts, for transformers: ``<s>`` is both its beginning and its end of text.

    Args:
        context: the longest input of the model that it belongs to, beginning included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocab=dict(VOCABULARY), unk_token=BEGINNING))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    length = {} if context is None else {"model_max_length": context}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGINNING,
        eos_token=BEGINNING,
        pad_token=BEGINNING,
        clean_up_tokenization_spaces=False,
        **length,
    )


def check_number_tokenizer(tokenizer: Any, corpus_id: str) -> None:
    """Refuses a tokenizer that does not turn integers into these tokens.

    Raises:
        CorpusError: naming the corpus and what to do.
    """
    wanted = [VOCABULARY[character] for character in _PROBE]
    given = tokenizer([_PROBE], add_special_tokens=False, verbose=False)["input_ids"][0]
    if list(given) != wanted:
        raise CorpusError(
            f"corpus {corpus_id} is made of the tokens of digits and commas ({_PROBE!r} is {wanted}), but the model's "
            "tokenizer gives others: use a model with the tokenizer of `lm-bounds models path structured`"
        )
