"""What a corpus is opened with, and what follows from that for one whose files are on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lm_bounds.corpora.byte_source import ByteSource
from lm_bounds.corpora.named_tokenizer import is_stored_in
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.spec import CorpusSpec, HubFiles, StoredTokens
from lm_bounds.corpora.stored_files import open_stored_files
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256


@dataclass(frozen=True)
class Request:
    """A registered corpus that is to be opened for a language model; see ``open_corpus``.

    Args:
        spec: of the registry.
        path: what the user pointed at; None where there is nothing.
        tokenizer: of the language model.
        end_of_text_id: the id that ends a document for the language model; None where it has none.
        n_logits: of the language model; None where it is not known.
        cache_dir: folder for tokens, counts, and what is read from afar.
    """

    spec: CorpusSpec
    path: str | None
    tokenizer: Tokenizer
    end_of_text_id: int | None
    n_logits: int | None
    cache_dir: Path

    @cached_property
    def source(self) -> ByteSource:
        """Its files."""
        return open_stored_files(self.spec.id, self.hub, self.path, self.cache_dir / "remote")

    @property
    def hub(self) -> HubFiles:
        """Where its files are."""
        assert self.spec.hub is not None, "every layout that is stored has one"
        return self.spec.hub

    @property
    def stored_in(self) -> StoredTokens:
        """The tokenizer whose ids they hold."""
        assert self.spec.stored_in is not None, "every layout with token ids has one"
        return self.spec.stored_in

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer of the language model."""
        return tokenizer_sha256(self.tokenizer)

    @property
    def is_as_stored(self) -> bool:
        """Whether the language model has the tokenizer that it is stored in."""
        return is_stored_in(self.tokenizer, self.stored_in)

    @property
    def n_ids(self) -> int:
        """Every id of the language model is below it."""
        return len(self.tokenizer) if self.n_logits is None else self.n_logits

    @property
    def n_stored_ids(self) -> int:
        """Every id that is stored must be below it."""
        return self.stored_in.entries if self.n_logits is None else self.n_logits

    @property
    def declared(self) -> int | None:
        """How many tokens it is said to have; None where files of it are missing."""
        return self.spec.n_tokens if len(self.source.files) == self.hub.n_files else None
