"""Which tokenizer made these tokens, as a hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lm_bounds.errors import CorpusError

# What a tokenizer in pure Python does is not in its vocabulary alone (merges, normalisation), so its hash
# also covers the ids it gives for this text.
_PROBE = (
    "The quick brown fox, it's said, jumped over 13 lazy dogs; naïve café — “Übermut” costs €4.50!\n"
    "\tdef f(x):\r\n\t\treturn x ** 2  # 0xFF   \n\n"
    "中文测试 Привет мир العربية 日本語 한국어 🙂 e\u0301 ﬁ <s> </s>"
)


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of everything that decides which ids a tokenizer gives for a text.

    A fast tokenizer is hashed as its own JSON without truncation and padding, which are settings of the last
    call. Any other is hashed as its class, vocabulary, special tokens and the ids of a fixed text.

    Raises:
        CorpusError: the tokenizer works at random, so that no hash can stand for its ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = _describe_in_python(tokenizer) if backend is None else json.loads(backend.to_str())
    for setting_of_a_call in ("truncation", "padding"):
        description.pop(setting_of_a_call, None)
    _check_deterministic(tokenizer, description)
    description["split_special_tokens"] = bool(getattr(tokenizer, "split_special_tokens", False))
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def vocabulary_sha256(tokenizer: Any, n_entries: int) -> str:
    """Hash of what the ids below ``n_entries`` stand for, whatever else the tokenizer has or does.

    Token ids that are stored mean the same to two tokenizers with the same such hash.
    """
    entries = sorted((int(number), str(token)) for token, number in tokenizer.get_vocab().items() if number < n_entries)
    canonical = json.dumps(entries, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _describe_in_python(tokenizer: Any) -> dict[str, Any]:
    special_tokens = getattr(tokenizer, "special_tokens_map", {})
    return {
        "class": type(tokenizer).__name__,
        "vocabulary": sorted((str(token), int(token_id)) for token, token_id in tokenizer.get_vocab().items()),
        "special_tokens": {str(name): str(token) for name, token in special_tokens.items()},
        "probe_ids": tokenizer([_PROBE], add_special_tokens=False, verbose=False)["input_ids"],
    }


def _check_deterministic(tokenizer: Any, description: dict[str, Any]) -> None:
    model = description.get("model")
    drops_merges = isinstance(model, dict) and bool(model.get("dropout"))
    samples = bool((getattr(tokenizer, "sp_model_kwargs", None) or {}).get("enable_sampling"))
    if drops_merges or samples:
        raise CorpusError(
            "the tokenizer gives random ids (BPE dropout or subword sampling), but a corpus is one fixed "
            "token sequence; load the tokenizer with that setting off"
        )
