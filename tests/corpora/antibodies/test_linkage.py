"""Single linkage against all pairs in plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora.antibodies import single_linkage


def all_pairs(words: list[str], identity: Fraction) -> list[int]:
    """The smallest index of each word's cluster, by looking at every pair until nothing changes."""
    labels = list(range(len(words)))
    is_moving = True
    while is_moving:
        is_moving = False
        for i, one in enumerate(words):
            for j, other in enumerate(words):
                equal = sum(a == b for a, b in zip(one, other, strict=True))
                if equal >= identity * len(one) and labels[i] != labels[j]:
                    labels[i] = labels[j] = min(labels[i], labels[j])
                    is_moving = True
    return labels


def linked(words: list[str], identity: Fraction) -> list[int]:
    codes = np.frombuffer("".join(words).encode(), dtype=np.uint8).reshape(len(words), -1)
    return single_linkage(codes, identity).tolist()


@st.composite
def words_of_a_length(draw: st.DrawFn) -> list[str]:
    length = draw(st.integers(1, 9))
    word = st.text(draw(st.sampled_from(["AC", "ACDE"])), min_size=length, max_size=length)
    return draw(st.lists(word, min_size=1, max_size=24))


@settings(max_examples=300, deadline=None)
@given(words=words_of_a_length(), identity=st.fractions(Fraction(1, 20), 1, max_denominator=20))
def test_clusters_are_those_of_all_pairs(words: list[str], identity: Fraction) -> None:
    assert linked(words, identity) == all_pairs(words, identity)


def test_scipy_finds_the_same_clusters() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    generator = np.random.default_rng(5)
    seeds = generator.integers(0, 20, (40, 15)).astype(np.uint8)
    codes = np.repeat(seeds, 12, axis=0)
    mutated = generator.random(codes.shape) < 0.15
    codes[mutated] = generator.integers(0, 20, mutated.sum())
    tree = hierarchy.linkage(codes.astype(float), "single", "hamming")
    wanted = hierarchy.fcluster(tree, 0.2 + 1e-9, "distance")
    found = single_linkage(codes, Fraction(4, 5))
    assert len(set(wanted)) > 40
    assert len(set(zip(found.tolist(), wanted.tolist(), strict=True))) == len(set(found.tolist())) == len(set(wanted))


def test_a_chain_is_one_cluster_and_its_ends_need_not_be_alike() -> None:
    chain = ["AAAAA", "AAAAC", "AAACC", "AACCC", "ACCCC", "CCCCC"]
    assert linked(chain, Fraction(4, 5)) == [0] * 6
    assert linked(chain[::2], Fraction(4, 5)) == [0, 1, 2]


@pytest.mark.parametrize(("identity", "is_linked"), [("11/20", True), ("0.5501", False), ("1/20", True), ("1", False)])
def test_the_threshold_is_exact(identity: str, is_linked: bool) -> None:
    """.55 of 20 is 11, which it is not in binary numbers."""
    assert linked(["A" * 20, "A" * 11 + "C" * 9], Fraction(identity)) == [0, 0 if is_linked else 1]


def test_words_without_an_equal_position_are_never_linked() -> None:
    assert linked(["AAA", "CCC", "ACA"], Fraction(1, 1000)) == [0, 0, 0]
    assert linked(["AAA", "CCC"], Fraction(1, 1000)) == [0, 1]


def test_a_large_cluster_does_not_take_all_pairs() -> None:
    codes = np.zeros((40_000, 12), dtype=np.uint8)
    codes[:, 4:8] = np.stack(np.unravel_index(np.arange(40_000), (20, 20, 20, 20)), axis=1)
    assert not single_linkage(codes, Fraction(2, 3)).any()
