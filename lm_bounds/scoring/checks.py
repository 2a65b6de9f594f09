"""Is the model what the theory needs: strictly causal, its probabilities a distribution?"""

from __future__ import annotations

import numpy as np
import torch

from lm_bounds.bounds import TokenStatistics
from lm_bounds.bounds.statistics import IntArray
from lm_bounds.errors import ModelError
from lm_bounds.scoring.hf import HFScorer
from lm_bounds.scoring.logits import total_probability

# Differences in log2 p and entropy (bits), relative to 1 + |value|, that rounding can make.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
# bf16 and fp16: inputs of one shape go through the same kernels, so that the worst prediction counts. Those of another
# shape do not, and a near-tie of a router can then send single tokens to another expert: the mean over the predictions.
_TOLERANCE_HALF = 0.02
_TOLERANCE_HALF_MEAN = 0.05
# What a causal network computes for a position is the same to the last bit whatever the later tokens of an input of one
# shape are. Where experts are chosen some positions may round otherwise, in a leak nearly all of them move.
_LARGEST_SHARE_MOVED = 0.5
_SAME_SHAPE = ("tokens change from", "use a causal (decoder-only) language model")
_CUT_SHORT = (
    "the window ends at",
    "use a model, or a smaller context, where the length of the input makes no difference",
)


def check_model(scorer: HFScorer, window: IntArray) -> None:
    """Refuses a model whose past predictions move with later tokens, or whose probabilities do not sum to one.

    The window is scored as it is, with its tokens replaced from each of three positions on, and cut short after 1, 2,
    4, 8, ... tokens; every statistic of the earlier tokens has to stay where it was.

    Args:
        scorer: of the model.
        window: token ids of one window, >= 1; of the largest length that will be scored.

    Raises:
        ModelError: naming what moved.
    """
    tokens = np.asarray(window, dtype=np.int64)
    _check_distribution(scorer, tokens)
    reference = scorer.score_batch([tokens])
    # kernels that sum in no fixed order move even where nothing has changed: then only the size of a move tells
    exact = bool(np.array_equal(reference.log2_prob, scorer.score_batch([tokens]).log2_prob))
    for position in sorted({0, len(tokens) // 2, len(tokens) - 2} & set(range(len(tokens) - 1))):
        changed = tokens.copy()
        # the model reads token j when it predicts token j + 1: predictions 0..position read none of the changed ones
        changed[position:] = (changed[position:] + 1 + np.arange(len(tokens) - position)) % scorer.vocab_size
        other = scorer.score_batch([tokens], [changed])
        _compare(reference, other, position, scorer, same_shape=True, exact=exact)
    if scorer.batch_size > 1:  # the rows of a batch have nothing to do with each other
        beside = [scorer.score_batch([tokens, other]) for other in (tokens, (tokens + 1) % scorer.vocab_size)]
        _compare(beside[0], beside[1], len(tokens) - 1, scorer, same_shape=True, exact=exact)
    # many lengths, because some rotary scalings set in above one length only and then remember the longest input
    for length in (2**k for k in range(len(tokens).bit_length()) if 2**k < len(tokens)):
        _compare(reference, scorer.score_batch([tokens[:length]]), length - 1, scorer, same_shape=False)


def _check_distribution(scorer: HFScorer, tokens: IntArray) -> None:
    inputs = np.concatenate([[scorer.prefix_token_id], tokens[:-1]])[None, :]
    sums = total_probability(scorer.logits(inputs)[0])
    if not bool(torch.all((sums - 1.0).abs() < 1e-3)):
        worst = float(sums[torch.argmax((sums - 1.0).abs().nan_to_num(nan=torch.inf))])
        raise ModelError(
            f"the model's next-token probabilities do not sum to one (a sum of {worst:.6g} was found): "
            "check its dtype and weights"
        )


def _compare(
    reference: TokenStatistics,
    other: TokenStatistics,
    position: int,
    scorer: HFScorer,
    *,
    same_shape: bool,
    exact: bool = False,
) -> None:
    half = scorer.dtype not in _TOLERANCE
    tolerance = _TOLERANCE.get(scorer.dtype, _TOLERANCE_HALF if same_shape else _TOLERANCE_HALF_MEAN)
    for name in ("log2_prob", "entropy_bits"):
        before, after = getattr(reference, name)[: position + 1], getattr(other, name)[: position + 1]
        with np.errstate(invalid="ignore"):  # -inf where the model failed both times
            difference = np.where(before == after, 0.0, np.abs(before - after) / (1.0 + np.abs(before)))
        moved = float(np.mean(difference) if half and not same_shape else np.max(difference))
        leaks = exact and float(np.mean(difference > 0.0)) > _LARGEST_SHARE_MOVED
        if leaks or not moved <= tolerance:
            at = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
            what, cure = _SAME_SHAPE if same_shape else _CUT_SHORT
            raise ModelError(
                f"the model is not strictly causal: its prediction of token {at} of a window moves when {what} "
                f"token {position} ({before[at]:.8g} to {after[at]:.8g} bits): {cure}"
            )
