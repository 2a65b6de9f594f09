"""Single linkage of texts of one length by the number of positions in which they differ."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from lm_bounds.corpora.token_stream import IntArray

Codes = np.ndarray[Any, np.dtype[np.uint8]]


def single_linkage(codes: Codes, identity: Fraction) -> IntArray:
    """The clusters of texts of one length, two of them linked where they agree in enough positions.

    ``a`` and ``b`` of length L are linked where ``#{p : a_p = b_p} >= identity L``, that is where they differ in at
    most ``d = L - ceil(identity L)`` positions; a cluster is a connected component. Two texts that differ in at most d
    positions are equal on one of any d + 1 parts of the positions: part s has the positions s, s + (d + 1), ..., so
    that the ends that most junctions have in common do not make up a part alone. Only texts that are equal on a part
    are compared, and only while they are not in one cluster.

    Args:
        codes: the texts. # shape: (n, L), L >= 1
        identity: in (0, 1].

    Returns:
        int64, the smallest index of each text's cluster. # shape: (n,)

    >>> words = np.frombuffer(b"AAAAAAABAABBCCCC", np.uint8).reshape(4, 4)
    >>> single_linkage(words, Fraction(3, 4)).tolist()
    [0, 0, 0, 3]
    """
    n, length = codes.shape
    most_differences = length - -(-identity.numerator * length // identity.denominator)
    labels = np.arange(n, dtype=np.int64)
    for part in range(most_differences + 1):
        labels = _linked_on_part(codes, codes[:, part :: most_differences + 1], most_differences, labels)
    return labels


def _linked_on_part(codes: Codes, key: Codes, most_differences: int, labels: IntArray) -> IntArray:
    """The labels after texts with equal keys were compared: in sorted order each with the next, the next but one ..."""
    n = len(codes)
    order = np.lexsort(key.T)
    starts = np.flatnonzero(np.r_[True, (key[order[1:]] != key[order[:-1]]).any(axis=1)][:n])
    sizes = np.diff(starts, append=n)
    run_end = np.repeat(starts + sizes, sizes)
    left, shift = np.arange(n), 1
    while (left := left[left + shift < run_end[left]]).size:
        one, other = order[left], order[left + shift]
        apart = labels[one] != labels[other]
        one, other = one[apart], other[apart]
        near = (codes[one] != codes[other]).sum(axis=1) <= most_differences
        labels = _joined(labels, one[near], other[near])
        if shift & (shift - 1) == 0:  # now and then, what is one cluster already is left
            found = labels[order]
            is_open = np.minimum.reduceat(found, starts) != np.maximum.reduceat(found, starts)
            left = left[np.repeat(is_open, sizes)[left]]
        shift += 1
    return labels


def _joined(labels: IntArray, one: IntArray, other: IntArray) -> IntArray:
    """The labels after these pairs were put together; a label is the smallest index of its cluster."""
    while True:
        low, high = np.minimum(labels[one], labels[other]), np.maximum(labels[one], labels[other])
        if (low == high).all():
            return labels
        labels = labels.copy()
        np.minimum.at(labels, high, low)
        # a label only ever points to a smaller one
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
