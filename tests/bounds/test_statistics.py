"""Token statistics as arrays: means of windows, and a thinned pilot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.bounds import TokenStatistics, window_means
from lm_bounds.errors import UsageError

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def numbered(sizes: list[int]) -> TokenStatistics:
    """Every array tells which token it is about."""
    n = sum(sizes)
    number = np.arange(n, dtype=np.float64)
    return TokenStatistics(-number, np.arange(n), number + 0.25, number + 0.5, np.array(sizes))


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1))
def test_window_means_are_the_means_of_the_windows(sizes: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=sum(sizes))
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    assert window_means(values, np.array(sizes)) == pytest.approx([piece.mean() for piece in pieces], abs=1e-14)


@settings(deadline=None)
@given(SIZES)
def test_mean_of_windows_drawn_in_proportion_to_their_size_is_the_mean_of_the_tokens(sizes: list[int]) -> None:
    values = np.random.default_rng(0).gamma(1.0, 1.0, sum(sizes))
    means = window_means(values, np.array(sizes))
    assert np.average(means, weights=sizes) == pytest.approx(values.mean(), rel=1e-13)


@settings(deadline=None)
@given(SIZES, st.integers(1, 200))
def test_thinned_keeps_every_kth_token_of_every_jth_window(sizes: list[int], n_tokens: int) -> None:
    sample = numbered(sizes)
    thinned = sample.thinned(n_tokens)
    kept = thinned.rank
    windows = np.split(np.arange(sample.n_tokens), np.cumsum(sizes)[:-1])
    chosen = [j for j, window in enumerate(windows) if set(window) & set(kept)]
    stride = chosen[1] - chosen[0] if len(chosen) > 1 else len(sizes)
    assert chosen == list(range(0, len(sizes), stride))
    parts = np.split(kept, np.cumsum(thinned.window_sizes)[:-1])
    gaps = {int(gap) for part in parts for gap in np.diff(part)}
    assert len(gaps) <= 1
    assert all(part[0] == windows[j][0] for part, j in zip(parts, chosen, strict=True))
    assert all(windows[j][-1] - part[-1] < max(gaps, default=9) for part, j in zip(parts, chosen, strict=True))
    assert thinned.n_windows <= max(1, n_tokens)
    assert thinned.n_tokens <= n_tokens + thinned.n_windows
    for name, shift in (("entropy_bits", 0.25), ("max_prob", 0.5)):
        assert np.array_equal(getattr(thinned, name), kept + shift)
    assert np.array_equal(thinned.log2_prob, -kept.astype(float))


@settings(deadline=None)
@given(SIZES)
def test_thinning_to_no_less_than_there_is_changes_nothing(sizes: list[int]) -> None:
    sample = numbered(sizes)
    assert sample.thinned(sample.n_tokens) is sample
    assert sample.thinned(10 * sample.n_tokens) is sample


def test_thinning_leaves_about_as_many_as_asked_for() -> None:
    assert numbered([1000] * 30).thinned(3000).n_tokens == 3000
    assert numbered([1] * 30_000).thinned(3000).n_tokens == 3000
    assert numbered([7] * 3000).thinned(3000).n_tokens == 3000
    assert numbered([30_000]).thinned(3000).n_tokens == 3000


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ((3, 3, 3, 2), [3]),
        ((3, 2, 3, 3), [3]),
        ((3, 3, 3, 3), [2]),
        ((3, 3, 3, 3), [4]),
        ((3, 3, 3, 3), [3, 0]),
        ((3, 3, 3, 3), [4, -1]),
        ((0, 0, 0, 0), [0]),
    ],
)
def test_arrays_must_fit_together(lengths: tuple[int, ...], sizes: list[int]) -> None:
    arrays = [np.zeros(length) for length in lengths]
    with pytest.raises(UsageError, match="token statistics need arrays of equal length"):
        TokenStatistics(arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3], np.array(sizes))
