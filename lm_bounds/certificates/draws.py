"""Whether the stored draws are those of their seed, and whether the seed depends on all that it has to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lm_bounds.bounds import TokenCount, bernoulli_kl, method_from_dict
from lm_bounds.certificates.consistency import window_failures
from lm_bounds.certificates.evidence import MeasuredCode, Observations, certify_seed_parts
from lm_bounds.codelength import Prior
from lm_bounds.sampling import (
    IntArray,
    Windows,
    draws_sha256,
    first_of_each,
    rounds,
    stream_seed,
    uniform_chunks,
    uniform_indices,
)

# What has a smaller probability than about this does not happen.
_CHANCE = 1e-9
_MOST_ATTEMPTS = 10**9
_CHUNK = 1 << 20


def draw_failures(fields: Mapping[str, Any], observations: Observations) -> Iterator[str]:
    """Draws that are not those of their seed, or a seed that leaves out what it has to depend on.

    Args:
        fields: of a certificate.
        observations: as they are stored.
    """
    sample, corpus = fields["sample"], fields["corpus"]
    parts = sample["seed_parts"]
    seed = stream_seed("certify", *parts)
    if corpus.get("count") is not None:
        yield from _slot_failures(sample, TokenCount(**corpus["count"]), observations.windows, seed)
    elif observations.windows.attempt is not None:
        yield "tokens were passed over in a corpus of which every token can be drawn"
    elif not _are_drawn(observations, corpus["n_tokens"], seed, sample["replacement"]):
        yield "the drawn tokens are not those of the seed"
    if draws_sha256(observations.windows) != sample["draws_sha256"]:
        yield "the draws have another sha256 than the certificate says"
    if not _seed_covers(parts, fields):
        yield "the seed of the draws does not depend on the weights, choices and corpus of the certificate"
    yield from window_failures(observations, corpus, fields["model"]["context"])
    if int(observations.window_sizes.sum()) != sample["scored_tokens"]:
        yield "the windows do not add up to scored_tokens"


def _slot_failures(sample: Mapping[str, Any], count: TokenCount, windows: Windows, seed: int) -> Iterator[str]:
    """Tokens that are not those of slots of the stream, in their order, or more passed over than chance has it.

    Whether each was passed over rightly takes the corpus to say.
    """
    attempt, voided = windows.attempt, windows.voided
    if attempt is None or voided is None:
        yield "the observations do not say which slots the tokens were found at"
        return
    n, n_attempts, n_void = len(windows), sample["attempts"], sample["void"]
    least, most = count.attempts(n, _CHANCE)
    if not least <= n_attempts <= min(most, _MOST_ATTEMPTS):
        yield f"{n_attempts:,} slots for {n:,} tokens do not fit what was found when they were counted"
        return
    if not (attempt[0] >= 0 and bool((np.diff(attempt) > 0).all()) and int(attempt[-1]) == n_attempts - 1):
        yield "the slots that tokens were found at are not in the order of the stream"
        return
    if not (voided[0] >= 0 and bool((np.diff(voided) >= 0).all()) and int(voided[-1]) == n_void <= n_attempts - n):
        yield "the slots in malformed rows do not add up to sample.void"
    elif not _are_alike((n_void, n_attempts), (count.void, count.drawn)):
        yield "the slots in malformed rows are not as many as when the tokens were counted"
    within, rest = np.divmod(_slots_at(attempt, count.slots, seed) - windows.token_index, max(count.row_tokens, 1))
    if not bool(((rest == 0) & (within >= 0) & (within < count.per_token)).all()):
        yield "the drawn tokens are not those of the seed"


def _slots_at(attempt: IntArray, n_slots: int, seed: int) -> IntArray:
    """Some slots of the stream, by their numbers in increasing order; no more than a part of it is in memory."""
    found: list[IntArray] = []
    first, n_found = 0, 0
    for chunk in uniform_chunks(_CHUNK, n_slots, seed):
        within = attempt[(attempt >= first) & (attempt < first + _CHUNK)] - first
        found.append(chunk[within])
        first, n_found = first + _CHUNK, n_found + len(within)
        if n_found == len(attempt):
            break
    return np.concatenate(found)


def _are_alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two numbers of successes, each of so many trials, can have one probability: their likelihood ratio."""
    pooled = (one[0] + other[0]) / (one[1] + other[1])
    if not 0.0 < pooled < 1.0:  # then both shares are the same
        return True
    excess = sum(trials * bernoulli_kl(k / trials, pooled) for k, trials in (one, other))
    return excess <= 2.0 * (math.log(one[1] + 1.0) - math.log(_CHANCE))


def _are_drawn(observations: Observations, n_tokens: int, seed: int, replacement: bool) -> bool:
    """Whether the tokens are those of the stream, in their order, without those of windows that were drawn before.

    Where the windows are the whole corpus, nothing was drawn.
    """
    n, drawn = observations.n_windows, observations.windows.token_index
    if replacement:
        return np.array_equal(uniform_indices(n, n_tokens, seed), drawn)
    windows = observations.windows if observations.unit == "window" else Windows(drawn, drawn, drawn + 1)
    if len(np.unique(windows.start)) != n:
        return False
    if int(observations.window_sizes.sum()) == n_tokens:
        return True
    order = np.argsort(windows.start)
    seen, n_seen = np.zeros(n, dtype=bool), 0
    for tokens in rounds(n, n_tokens, seed):
        place = np.searchsorted(windows.start[order], tokens, side="right") - 1
        holder = order[np.maximum(place, 0)]
        is_held = (place >= 0) & (tokens < windows.stop[holder])
        known = holder if bool(is_held.all()) else holder[: np.argmin(is_held)]
        first = first_of_each(known)
        fresh = first[~seen[known[first]]]
        if not np.array_equal(tokens[fresh], drawn[n_seen : n_seen + len(fresh)]):
            return False
        seen[known[fresh]], n_seen = True, n_seen + len(fresh)
        if n_seen == n or len(known) < len(tokens):
            break
    return n_seen == n


def _seed_covers(parts: list[Any], fields: Mapping[str, Any]) -> bool:
    complexity = fields["complexity"]
    prior = Prior(**complexity["prior"]) if "prior" in complexity else None
    code = MeasuredCode(complexity["sha256"], complexity["compressor"]["name"], complexity["code_bits"], prior)
    own = parts[0] == "own"
    if own and parts[2].get(fields["claim"]["metric"]) != fields["method"]:
        return False
    choices = parts[2] if own else {}
    if not all(metric == method_from_dict(choice).loss.to_dict()["metric"] for metric, choice in choices.items()):
        return False
    settings, corpus, model = fields["settings"], fields["corpus"], fields["model"]
    return parts == certify_seed_parts(settings, corpus, model, code, choices, fields["sample"]["windows"])
