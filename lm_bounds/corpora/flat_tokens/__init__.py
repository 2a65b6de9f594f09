"""Token ids that lie in files one after another, of any size, read where they are drawn from."""

from lm_bounds.corpora.flat_tokens.corpus import FlatTokens
from lm_bounds.corpora.flat_tokens.layout import Part, TokenFiles, token_files
from lm_bounds.corpora.flat_tokens.opening import (
    FlatParameters,
    are_token_files,
    flat_parameters,
    map_small_file,
    open_places,
    registered_sequence,
    registered_tokens,
)

__all__ = [
    "FlatParameters",
    "FlatTokens",
    "Part",
    "TokenFiles",
    "are_token_files",
    "flat_parameters",
    "map_small_file",
    "open_places",
    "registered_sequence",
    "registered_tokens",
    "token_files",
]
