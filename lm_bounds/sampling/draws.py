"""Which tokens are scored: uniform draws from a corpus, and the window of its document around each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling.uniform import LEAST_ROUND, IntArray, first_of_each, rounds, uniform_indices
from lm_bounds.sampling.windows import Windows, chosen_windows, ending_with_token, fixed_windows, joined_windows

NO_TOKEN, VOID = -1, -2  # in place of the index of a token
_LEAST_SLOTS = 16
_MOST_TRIES = 100  # times as many slots as are needed on average


class Slots(Protocol):
    """Numbers of which every token of a corpus has equally many, and some are no token's.

    Bytes of files, where each token is given as many of those that it is stored in: a uniform slot that is a token's is
    a uniform token, whatever the others are, and nobody has to know how many tokens there are.
    """

    @property
    def number(self) -> int:
        """How many slots there are."""
        ...

    @property
    def share(self) -> float:
        """Which share of them are tokens', roughly: it decides how many are looked at together, and nothing else."""
        ...

    def tokens_at(self, slot: IntArray) -> IntArray:
        """The token of each slot; ``NO_TOKEN`` where it is none's, ``VOID`` where a malformed row takes its place."""
        ...


class SampledCorpus(Protocol):
    """What sampling needs of a corpus."""

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        ...

    @property
    def slots(self) -> Slots | None:
        """What draws are uniform on where it is not the tokens themselves."""
        ...

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens."""
        ...


def draw_windows(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` windows around tokens drawn uniformly and with replacement.

    A window comes up in proportion to its size, so the expectation of a window's mean loss is the mean loss
    of the corpus: ``sum_w (|w| / m) (1/|w|) sum_{i in w} l_i = (1/m) sum_i l_i``.

    Args:
        corpus: where the tokens are.
        n: number of draws, >= 0.
        context: scored tokens of a full window, >= 1.
        seed: in ``[0, 2^128)``, e.g. of ``stream_seed``.

    Raises:
        UsageError: an argument is out of range.
    """
    if corpus.slots is None:
        return windows_around(corpus, uniform_indices(n, corpus.n_tokens, seed), context)
    tokens, attempt, voided = _draw_by_slot(corpus.slots, n, seed)
    around = windows_around(corpus, tokens, context)
    return Windows(tokens, around.start, around.stop, attempt, voided)


def _draw_by_slot(slots: Slots, n: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """The first ``n`` tokens among those of uniform slots, the number of each one's slot, and void ones before it.

    Raises:
        CorpusError: hardly any slot is a token's.
    """
    found = np.empty(0, dtype=np.int64)
    share = max(slots.share, 1 / _MOST_TRIES)
    while (missing := n - int((found >= 0).sum())) > 0:
        if len(found) > _MOST_TRIES * (n + 1) / share:
            raise CorpusError(f"of {len(found)} places that were drawn {n - missing} hold a token: check the files")
        size = len(found) + max(_LEAST_SLOTS, math.ceil(missing / share))
        found = np.concatenate([found, slots.tokens_at(uniform_indices(size, slots.number, seed)[len(found) :])])
    attempt = np.flatnonzero(found >= 0)[:n]
    return found[attempt], attempt, np.cumsum(found == VOID)[attempt]


def windows_around(corpus: SampledCorpus, token_index: IntArray, context: int) -> Windows:
    """The window of its document around each of some tokens of a corpus."""
    document_start, document_stop = corpus.document_bounds(token_index)
    return fixed_windows(document_start, document_stop, token_index, context)


def draw_distinct_windows(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` windows without replacement, each drawn in proportion to its size among those that are left.

    The tokens are those of ``draw_windows``; a token in a window that has been drawn before is passed over, which
    leaves the others in proportion. The first ``k`` of more draws are the ``k`` draws.

    Args:
        corpus: where the tokens are.
        n: number of windows, >= 0, fewer than the corpus has.
        context: scored tokens of a full window, >= 1.
        seed: in ``[0, 2^128)``, e.g. of ``stream_seed``.

    Raises:
        UsageError: an argument is out of range, or the windows that are left are hardly ever drawn.
    """
    return _distinct(corpus, n, context, seed, lambda drawn: drawn.start)


def draw_distinct_tokens(corpus: SampledCorpus, n: int, context: int, seed: int) -> Windows:
    """``n`` tokens without replacement, uniform; each window ends with its token.

    Args and errors as those of ``draw_distinct_windows``, with tokens for windows.
    """
    return ending_with_token(_distinct(corpus, n, context, seed, lambda drawn: drawn.token_index))


def _distinct(
    corpus: SampledCorpus, n: int, context: int, seed: int, identity: Callable[[Windows], IntArray]
) -> Windows:
    """The first ``n`` windows of the stream that are new, two of them the same where ``identity`` is."""
    if corpus.slots is not None:  # its tokens are not those with the indices 0 .. n_tokens - 1
        raise UsageError("the tokens of this corpus are not counted, so that they are drawn with replacement only")
    kept, size = draw_windows(corpus, 0, context, seed), n
    for tokens in rounds(n, corpus.n_tokens, seed):
        while tokens.size:  # mostly the first n do: looking for the documents of more of them can be slow
            windows = joined_windows(kept, windows_around(corpus, tokens[:size], context))
            kept = chosen_windows(windows, first_of_each(identity(windows))[:n])
            if len(kept) == n:
                return kept
            tokens, size = tokens[size:], max(LEAST_ROUND >> 4, 2 * (n - len(kept)))
    raise UsageError(
        f"{n} different windows are nearly all that the corpus has, and those that are left are hardly ever drawn: "
        "ask for fewer windows, or for all of them"
    )
