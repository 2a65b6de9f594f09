"""What a corpus is, which corpora are registered, and the readers of each storage layout."""

from lm_bounds.corpora.antibodies import AntibodyCorpus, antibody_tokenizer, write_antibody_tokenizer
from lm_bounds.corpora.byte_source import is_remote
from lm_bounds.corpora.flat_tokens import FlatTokens
from lm_bounds.corpora.local import open_local
from lm_bounds.corpora.number_text import number_tokenizer
from lm_bounds.corpora.opening import check_source, derived_facts, open_corpus, parameters
from lm_bounds.corpora.protocol import Corpus, TokenCorpus, Tokenizer
from lm_bounds.corpora.registry import corpus_spec, corpus_specs, read_registry
from lm_bounds.corpora.spec import CorpusSpec, HubFiles, StoredTokens
from lm_bounds.corpora.synthetic import SyntheticCorpus
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256, vocabulary_sha256

__all__ = [
    "AntibodyCorpus",
    "Corpus",
    "CorpusSpec",
    "FlatTokens",
    "HubFiles",
    "StoredTokens",
    "SyntheticCorpus",
    "TokenCorpus",
    "Tokenizer",
    "antibody_tokenizer",
    "check_source",
    "corpus_spec",
    "corpus_specs",
    "derived_facts",
    "is_remote",
    "number_tokenizer",
    "open_corpus",
    "open_local",
    "parameters",
    "read_registry",
    "tokenizer_sha256",
    "vocabulary_sha256",
    "write_antibody_tokenizer",
]
