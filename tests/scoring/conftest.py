"""A scorer of a tiny model, and windows of random tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm_bounds.scoring import HFScorer, make_scorer


@pytest.fixture
def scorer(tiny_lm: Callable[..., Any]) -> Callable[..., HFScorer]:
    """``scorer(family, context=None, **options)``: of a tiny model loaded anew, free to be tampered with."""

    def make(family: str = "gpt2", context: int | None = None, **options: Any) -> HFScorer:
        return make_scorer(tiny_lm(family, **options), context)

    return make


@pytest.fixture
def random_window() -> Callable[..., np.ndarray]:
    """``random_window(length, seed=0)``: token ids below 256, so no end of text among them."""
    return lambda length, seed=0: np.random.default_rng(seed).integers(0, 256, length)


@pytest.fixture
def spied() -> Callable[[HFScorer], list[np.ndarray]]:
    """``spied(scorer)``: a list that every batch of inputs that reaches the model is appended to."""

    def spy(scorer: HFScorer) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        call = scorer.lm._model_call
        _ = scorer.vocab_size  # asks for one logit row, once

        def record(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(inputs.cpu().numpy().copy())
            return call(inputs, *args, **kwargs)

        scorer.lm._model_call = record
        return seen

    return spy
