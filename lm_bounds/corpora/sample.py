"""Windows of a corpus as text, to look at before a model is certified on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_bounds.corpora.antibodies import antibody_tokenizer
from lm_bounds.corpora.byte_source import is_remote
from lm_bounds.corpora.local import holds_token_ids, locate_source
from lm_bounds.corpora.named_tokenizer import named_tokenizer, stored_tokenizer
from lm_bounds.corpora.number_text import number_tokenizer
from lm_bounds.corpora.opening import check_source, open_corpus
from lm_bounds.corpora.protocol import Corpus
from lm_bounds.corpora.spec import CorpusSpec
from lm_bounds.corpora.stored_files import folder_of
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import draw_windows, stream_seed

_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class SampledWindow:
    """A window of a corpus.

    Args:
        token_index: the token that was drawn.
        start, stop: the window.
        text: what its tokens stand for.
    """

    token_index: int
    start: int
    stop: int
    text: str


def sample_windows(
    spec: CorpusSpec,
    path: str | None,
    n: int,
    *,
    context: int,
    draw_seed: int,
    cache_dir: Path,
    tokenizer_name: str | None = None,
) -> tuple[Corpus, list[SampledWindow]]:
    """Windows around tokens that are drawn uniformly, with replacement, and decoded.

    Args:
        spec: of the registry.
        path: as in ``open_corpus``.
        n: number of windows, >= 0.
        context: tokens of a full window, >= 1.
        draw_seed: the draws are other ones than those of any run with this seed.
        cache_dir: folder for the tokens of text.
        tokenizer_name: directory or Hub id of a tokenizer; None for that of the corpus where it has one of its own or
            is stored in one, and for bytes where the corpus is text.

    Returns:
        The corpus, and the windows in the order of the draws.

    Raises:
        UsageError: the corpus is stored as token ids, no tokenizer was named and its own cannot be loaded; or an
            argument is out of range.
        CorpusError: the corpus or the tokenizer cannot be read.
    """
    check_source(spec, path)
    tokenizer = _own_tokenizer(spec, path, cache_dir) if tokenizer_name is None else named_tokenizer(tokenizer_name)
    end_of_text_id: int | None = tokenizer.eos_token_id
    corpus = open_corpus(
        spec, path, tokenizer, end_of_text_id=end_of_text_id, n_logits=len(tokenizer), cache_dir=cache_dir
    )
    windows = draw_windows(corpus, n, context, stream_seed("calibration", "sample", draw_seed, corpus.sha256()))
    places = zip(windows.token_index.tolist(), windows.start.tolist(), windows.stop.tolist(), strict=True)
    return corpus, [
        SampledWindow(token, start, stop, tokenizer.decode(corpus.read(start, stop).tolist()))
        for token, start, stop in places
    ]


def _own_tokenizer(spec: CorpusSpec, path: str | None, cache_dir: Path) -> Any:
    if spec.layout in ("structured", "random"):
        return number_tokenizer()
    if spec.layout == "antibodies":
        return antibody_tokenizer()
    if spec.layout == "files" and path is not None:
        location, is_folder = (Path(path), False) if is_remote(path) else locate_source(path)
        if not holds_token_ids(path, location, is_folder, cache_dir):
            return _byte_tokenizer()
    if spec.layout == "texts":
        return _byte_tokenizer()
    advice = f"corpus {spec.id!r} is stored as token ids: pass --tokenizer DIR or a Hub id to read them"
    if spec.stored_in is None:
        raise UsageError(advice)
    try:
        return stored_tokenizer(spec.stored_in, folder_of(path))
    except CorpusError as error:
        raise UsageError(f"{advice}; {error}") from error


def _byte_tokenizer() -> Any:
    """A token for each byte, and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END_OF_TEXT)
