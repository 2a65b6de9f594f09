"""Token statistics of windows from lm-eval's HFLM (duck-typed: lm_eval is not imported here)."""

from __future__ import annotations

import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lm_bounds.bounds import TokenStatistics
from lm_bounds.bounds.statistics import IntArray
from lm_bounds.errors import ModelError, UsageError
from lm_bounds.sampling import Windows
from lm_bounds.scoring.logits import tempered_statistics, token_statistics


@dataclass(frozen=True)
class HFScorer:
    """Scores windows with a causal language model behind an HFLM.

    The context of a window's j-th token is one prefix token and the window's earlier tokens, nothing else: no token of
    another document or window is attended to. Windows of unequal length are padded on the right, which a strictly
    causal model does not see.

    Args:
        lm: an ``lm_eval.models.huggingface.HFLM``.
        context: scored tokens of a full window.
        prefix_token_id: the token before every window.
        batch_size: windows of one forward pass.
    """

    lm: Any
    context: int
    prefix_token_id: int
    batch_size: int

    @cached_property
    def vocab_size(self) -> int:
        """V: the number of logits."""
        return int(self.logits(np.array([[self.prefix_token_id]])).shape[-1])

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the forward pass."""
        dtype = getattr(self.lm, "mixed_precision_dtype", None) or getattr(self.lm.model, "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def logits(self, inputs: IntArray) -> torch.Tensor:
        """Logits of a batch of token ids; shape (batch, positions, V)."""
        ids = torch.as_tensor(np.ascontiguousarray(inputs, dtype=np.int64), device=self.lm.device)
        logits = self.lm._model_call(ids)
        if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
            raise ModelError("the model does not give one row of logits per token: use a causal language model")
        return logits

    def score(
        self, read: Callable[[int, int], IntArray], windows: Windows, temperatures: Sequence[float] = (1.0,)
    ) -> Iterator[tuple[IntArray, list[TokenStatistics]]]:
        """Batches of (window numbers, statistics at each temperature), longest windows first.

        Args:
            read: ``read(start, stop)`` gives these tokens of the corpus; it is called for each window.
            windows: their start and stop.
            temperatures: T > 0.
        """
        order = np.argsort(windows.start - windows.stop, kind="stable")
        for first in range(0, len(order), self.batch_size):
            numbers = order[first : first + self.batch_size]
            batch = [read(int(windows.start[j]), int(windows.stop[j])) for j in numbers]
            yield numbers, tempered_statistics(*self._predicted(batch, batch), temperatures)

    def score_batch(self, windows: list[IntArray], contexts: list[IntArray] | None = None) -> TokenStatistics:
        """Statistics of some windows.

        Args:
            windows: each an array of token ids, the targets.
            contexts: what the model reads instead of the windows themselves (arrays of the same lengths).

        Raises:
            ModelError: for a token id that has no logit.
        """
        return token_statistics(*self._predicted(windows, contexts or windows))

    def _predicted(
        self, windows: list[IntArray], contexts: list[IntArray]
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Logits, targets and lengths of a batch."""
        targets = _padded(windows)
        # a window's last token is predicted and not read, not even where a longer window of the batch goes on
        inputs = _padded([np.r_[self.prefix_token_id, read[:-1]] for read in contexts])
        if int(targets.max()) >= self.vocab_size:
            raise ModelError(
                f"token id {int(targets.max())} has no logit (the model has {self.vocab_size}): "
                "the tokenizer does not fit the model"
            )
        logits = self.logits(inputs)
        return logits, torch.as_tensor(targets, device=logits.device), [len(window) for window in windows]


def _padded(windows: list[IntArray]) -> IntArray:
    rows = np.zeros((len(windows), max(len(window) for window in windows)), dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        row[: len(window)] = window
    return rows


def check_backend(lm: Any) -> None:
    """Refuses what cannot be scored whatever its weights are.

    Raises:
        ModelError: for a backend that gives no logits, an encoder-decoder, or a model in training mode.
    """
    if not callable(getattr(lm, "_model_call", None)) or not hasattr(lm, "tokenizer"):
        raise ModelError(f"model backend {type(lm).__name__} gives no logits of whole windows: use --model hf")
    if getattr(lm, "backend", None) != "causal":
        raise ModelError("the model is an encoder-decoder: a bound needs a causal (decoder-only) language model")
    if getattr(lm.model, "training", False):
        raise ModelError("the model is in training mode, where its predictions are random: call model.eval() first")


def make_scorer(lm: Any, context: int | None) -> HFScorer:
    """The scorer of a language model, with the context and the batch size of this process resolved.

    Args:
        lm: an HFLM.
        context: scored tokens of a window; None for the smaller of 1024 and what the model allows.

    Raises:
        ModelError: as ``check_backend``, or for a tokenizer with no prefix token.
        UsageError: for a context, prefix token or batch size that is not allowed.
    """
    check_backend(lm)
    prefix = lm.prefix_token_id
    if prefix is None:
        raise ModelError("the tokenizer has no BOS and no end-of-text token: pass prefix_token_id=ID in model_args")
    n_known = getattr(lm.model.config, "vocab_size", None)
    if n_known is not None and not 0 <= int(prefix) < n_known:
        raise UsageError(f"prefix_token_id={prefix} is not a token of the model: use one of 0 to {n_known - 1}")
    allowed = int(lm.max_length)
    if context is not None and context > allowed:
        raise UsageError(f"context={context} is longer than the model allows: use at most {allowed}")
    resolved = context if context is not None else min(1024, allowed)
    return HFScorer(lm, resolved, int(prefix), _batch_size(lm, resolved))


def _batch_size(lm: Any, context: int) -> int:
    size = lm.batch_size
    if size == "auto":
        probe = (("", ""), [0], [0] * context)  # the shape of the longest window
        # each process for itself: where one of them failed, the others would wait in lm-eval's exchange
        with unittest.mock.patch.object(lm, "all_gather", lambda tensor: tensor):
            return int(lm._detect_batch_size([probe], 0))
    if int(size) < 1:
        raise UsageError(f"batch_size must be at least 1 or auto, {size} was given")
    return int(size)
