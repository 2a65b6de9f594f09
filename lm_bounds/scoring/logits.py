"""Token statistics from logits: fp32 log-sum-exp in row chunks, no sort and no second copy of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lm_bounds.bounds import TokenStatistics

CHUNK_ELEMENTS = 1 << 21  # logits of one chunk of rows: what is copied to fp32 at a time


def token_statistics(logits: torch.Tensor, targets: torch.Tensor, lengths: list[int]) -> TokenStatistics:
    """``tempered_statistics`` at T = 1 alone."""
    [statistics] = tempered_statistics(logits, targets, lengths, (1.0,))
    return statistics


def tempered_statistics(
    logits: torch.Tensor, targets: torch.Tensor, lengths: list[int], temperatures: Sequence[float]
) -> list[TokenStatistics]:
    """Statistics of the first ``lengths[b]`` positions of every window of a batch, at each of some temperatures.

        log2 p(x) = (z_x - logsumexp(z)) / ln 2,  z = logits/T,   rank = 1 + #{v != x: logit_v >= logit_x}
        H = logsumexp(z) - sum_v p_v z_v  (in bits),  a row with a non-finite logit: log2 p = -inf, rank = V

    The largest logit is taken off first, so that a large offset common to a row's logits does not swallow the sum.

    Args:
        logits: of any floating dtype; shape (batch, positions, V).
        targets: token that each position predicts; shape (batch, positions), values in [0, V).
        lengths: scored positions of each window; those behind are padding.
        temperatures: T > 0.

    Returns:
        for each temperature the statistics of sum(lengths) tokens, window after window, in float64.
    """
    parts = [part.cpu() for part in _chunks(logits, targets, lengths, temperatures)]
    joined = torch.cat(parts, dim=2).numpy()  # shape: (temperatures, 4, tokens)
    log2_vocab, sizes = math.log2(logits.shape[-1]), np.asarray(lengths, dtype=np.int64)
    return [
        TokenStatistics(
            log2_prob=np.minimum(rows[0] / math.log(2), 0.0),
            rank=rows[1].astype(np.int64),
            entropy_bits=np.clip(rows[2] / math.log(2), 0.0, log2_vocab),
            max_prob=np.clip(rows[3], 0.0, 1.0),
            window_sizes=sizes,
        )
        for rows in joined
    ]


def total_probability(logits: torch.Tensor) -> torch.Tensor:
    """Sum of exp(logit - logsumexp(logits)) of every row, in float64; shape (rows,).

    Args:
        logits: shape (rows, V).
    """
    sums = []
    for rows in logits.split(_rows_per_chunk(logits.shape[-1])):
        _, shifted, exponentials = _shifted(rows.float())
        log_sum = exponentials.sum(dim=-1).log()
        sums.append((shifted - log_sum[:, None]).double().exp().sum(dim=-1))
    return torch.cat(sums)


def _rows_per_chunk(vocab_size: int) -> int:
    return max(1, CHUNK_ELEMENTS // vocab_size)


def _chunks(
    logits: torch.Tensor, targets: torch.Tensor, lengths: list[int], temperatures: Sequence[float]
) -> Iterator[torch.Tensor]:
    step = _rows_per_chunk(logits.shape[-1])
    for window, length in enumerate(lengths):
        for start in range(0, length, step):
            stop = min(start + step, length)
            yield _row_statistics(logits[window, start:stop].float(), targets[window, start:stop], temperatures)


def _shifted(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(largest logit of every row, logits minus it, their exponentials)."""
    largest = rows.amax(dim=-1)
    shifted = rows - largest[:, None]
    return largest, shifted, torch.exp(shifted)


def _row_statistics(rows: torch.Tensor, targets: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """(log p in nats, rank, entropy in nats, max p) of every row, float64; shape (temperatures, 4, rows)."""
    largest, shifted, exponentials = _shifted(rows)
    chosen = rows.gather(-1, targets[:, None]).squeeze(-1)
    rank = (rows >= chosen[:, None]).sum(dim=-1).double()
    # a row is finite when its extremes are: NaN and both infinities show in one of them
    finite = torch.isfinite(largest) & torch.isfinite(rows.amin(dim=-1))
    distance = chosen.double() - largest.double()
    of_all = []
    for temperature in temperatures:
        tempered = shifted if temperature == 1.0 else shifted / temperature
        weights = exponentials if temperature == 1.0 else torch.exp(tempered)
        total = weights.sum(dim=-1).double()
        expected_shift = torch.einsum("rv,rv->r", weights, tempered).double() / total
        of_one = [
            distance / temperature - total.log(),
            rank,
            # logits further apart than fp32 reaches: 0 times infinity, of a row with no entropy to speak of
            (total.log() - expected_shift).nan_to_num(nan=0.0),
            1.0 / total,
        ]
        of_all.append(torch.stack(of_one))
    failed = torch.tensor([-math.inf, rows.shape[-1], 0.0, 0.0], dtype=torch.float64, device=rows.device)
    return torch.where(finite, torch.stack(of_all), failed[:, None])
