"""What a corpus is, which corpora are registered, and the readers of each storage layout."""

from lm_bounds.corpora.local import locate_source, open_local
from lm_bounds.corpora.protocol import TokenCorpus, Tokenizer
from lm_bounds.corpora.registry import CorpusSpec, corpus_spec, corpus_specs, read_registry
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256

__all__ = [
    "CorpusSpec",
    "TokenCorpus",
    "Tokenizer",
    "corpus_spec",
    "corpus_specs",
    "locate_source",
    "open_local",
    "read_registry",
    "tokenizer_sha256",
]
