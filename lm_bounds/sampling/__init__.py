"""Uniform draws of tokens from a corpus, and the windows around them; all of it can be drawn again from its seed."""

from lm_bounds.sampling.draws import (
    NO_TOKEN,
    VOID,
    SampledCorpus,
    Slots,
    draw_distinct_tokens,
    draw_distinct_windows,
    draw_windows,
    windows_around,
)
from lm_bounds.sampling.uniform import (
    STREAMS,
    IntArray,
    first_of_each,
    rounds,
    stream_seed,
    uniform_chunks,
    uniform_indices,
)
from lm_bounds.sampling.windows import (
    DRAW_ARRAYS,
    Windows,
    all_windows,
    chosen_windows,
    count_windows,
    draws_sha256,
    ending_with_token,
    fixed_windows,
    joined_windows,
)

__all__ = [
    "DRAW_ARRAYS",
    "NO_TOKEN",
    "STREAMS",
    "VOID",
    "IntArray",
    "SampledCorpus",
    "Slots",
    "Windows",
    "all_windows",
    "chosen_windows",
    "count_windows",
    "draw_distinct_tokens",
    "draw_distinct_windows",
    "draw_windows",
    "draws_sha256",
    "ending_with_token",
    "first_of_each",
    "fixed_windows",
    "joined_windows",
    "rounds",
    "stream_seed",
    "uniform_chunks",
    "uniform_indices",
    "windows_around",
]
