"""An entropy coder that codes a row of symbols at a time: many interleaved asymmetric numeral systems.

Symbol ``s`` has a frequency ``f_s`` of ``2^24`` and the first slot ``c_s``; the state ``x`` of a lane becomes
``2^24 floor(x / f_s) + c_s + x mod f_s``. The decoder undoes that, so symbols are encoded in reverse. A state lies
between 2^32 and 2^48, and moves 16 bits at a time to a stream of words that all lanes share. Everything is integers
below 2^53, so every machine reads and writes the same words.

References: J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; F. Giesen, "Interleaved entropy coders",
arXiv:1402.3392.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.scalars import broken

#: Frequencies add up to two to this power.
SLOT_BITS = 24
#: Largest number of lanes, as a power of two.
MOST_LANE_BITS = 11

_LOW_BITS = 32
_WORD_BITS = 16
_STATE_WORDS = (_LOW_BITS + _WORD_BITS) // _WORD_BITS
_LOW = 1 << _LOW_BITS
_WORD_MASK = (1 << _WORD_BITS) - 1
# A symbol with a smaller frequency may move two words at once.
_RARE = 1 << (_WORD_BITS + SLOT_BITS - _LOW_BITS)
# Buckets of the table that leads from a slot to its symbol, over all contexts.
_MOST_BUCKETS = 1 << 16
_FEWEST_BUCKET_BITS = 4

Integers = NDArray[np.int64]


class Frequencies:
    """Frequencies of the symbols in each context, with the tables that coding needs.

    Args:
        table: integers >= 0, shape (contexts, alphabet); each row adds up to ``2^SLOT_BITS``, or to 0 where the context
            does not occur.
    """

    def __init__(self, table: Integers) -> None:
        self.n_contexts, self.alphabet = table.shape
        self.sizes = table.reshape(-1)
        self.starts = (np.cumsum(table, axis=1) - table).reshape(-1)
        self.has_rare = bool(((self.sizes > 0) & (self.sizes < _RARE)).any())
        self.absent: NDArray[np.bool_] = np.logical_not(table.any(axis=1))

    def buckets(self, n_symbols: int) -> tuple[Integers, Integers, int]:
        """What leads from a slot to its symbol.

        Returns:
            The first slot of every symbol, counted over all contexts; for every bucket of slots the symbol that has all
            of them, or -1; and how many bits of a slot say its place in the bucket.
        """
        offsets = np.arange(self.n_contexts, dtype=np.int64) << SLOT_BITS
        firsts = self.starts + np.repeat(offsets, self.alphabet)
        most = max(1, min(n_symbols, _MOST_BUCKETS) // self.n_contexts)
        shift = SLOT_BITS - max(_FEWEST_BUCKET_BITS, most.bit_length() - 1)
        edges = np.arange((self.n_contexts << (SLOT_BITS - shift)) + 1, dtype=np.int64) << shift
        lowest = np.searchsorted(firsts, edges[:-1], "right") - 1
        highest = np.searchsorted(firsts, edges[1:] - 1, "right") - 1
        return firsts, np.where(lowest == highest, lowest, -1), shift


class LaneEncoder:
    """Encodes sequences from the last one to the first one.

    Args:
        n_lanes: symbols that are coded at a time.
    """

    def __init__(self, n_lanes: int) -> None:
        self._states = np.full(n_lanes, _LOW, np.int64)
        self._words: list[NDArray[np.uint16]] = []  # the last ones first

    def encode(self, frequencies: Frequencies, places: NDArray[np.integer]) -> None:
        """Puts a sequence before what has been encoded.

        Args:
            frequencies: of the symbols.
            places: context times alphabet plus symbol, each with a frequency above 0; shape (symbols,).
        """
        n_lanes, n = self._states.size, places.size
        sizes, starts = frequencies.sizes.take(places), frequencies.starts.take(places)
        for start in reversed(range(0, n, n_lanes)):
            row = slice(start, min(start + n_lanes, n))
            self._step(sizes[row], starts[row], frequencies.has_rare)

    def _step(self, sizes: Integers, starts: Integers, has_rare: bool) -> None:
        states = self._states[: sizes.size]
        limits = sizes << (_LOW_BITS + _WORD_BITS - SLOT_BITS)
        full = (states >= limits).nonzero()[0]
        if full.size:
            moved = states.take(full)
            self._move(moved, limits.take(full) if has_rare else None)
            states[full] = moved
        # Quotients below 2^52 are exact enough in double precision for their floor to be right.
        quotients = (states / sizes).astype(np.int64)
        states += starts - quotients * sizes
        states += quotients << SLOT_BITS

    def _move(self, states: Integers, limits: Integers | None) -> None:
        """Moves one word out of each state, and where limits ask for it a second one, which is read first."""
        words = states & _WORD_MASK
        states >>= _WORD_BITS
        if limits is not None:
            again = (states >= limits).nonzero()[0]
            if again.size:
                self._words.append(words[again].astype(np.uint16))
                words[again] = states[again] & _WORD_MASK
                states[again] >>= _WORD_BITS
        self._words.append(words.astype(np.uint16))

    def finish(self) -> bytes:
        """The states and all words, 16 bits each, in the order in which they are read."""
        for place in range(_STATE_WORDS):
            self._words.append((self._states >> (_WORD_BITS * place) & _WORD_MASK).astype(np.uint16))
        return np.concatenate(self._words[::-1]).astype("<u2").tobytes()


class LaneDecoder:
    """Decodes sequences in their order.

    Args:
        n_lanes: as they were encoded.
        content: what ``LaneEncoder.finish`` returned.

    Raises:
        WeightsError: the content is too short, here or later, or nothing that an encoder writes.
    """

    def __init__(self, n_lanes: int, content: bytes) -> None:
        if len(content) % 2:
            raise broken("half a word is left over")
        self._words = np.frombuffer(content, "<u2")
        self._place = _STATE_WORDS * n_lanes
        if self._words.size < self._place:
            raise broken("symbols are missing")
        self._states = np.zeros(n_lanes, np.int64)
        for words in self._words[: self._place].reshape(_STATE_WORDS, n_lanes):
            self._states = self._states << _WORD_BITS | words
        if (self._states < _LOW).any():
            raise broken("a state is out of range")

    def decode(self, frequencies: Frequencies, n: int, contexts: NDArray[np.integer] | None) -> Integers:
        """The places, context times alphabet plus symbol, of ``n`` symbols.

        Args:
            frequencies: of the symbols.
            n: how many.
            contexts: of each symbol; None where there is one context.
        """
        if frequencies.absent[0 if contexts is None else contexts].any():
            raise broken("a symbol has no frequency")
        places = np.empty(n, np.int64)
        firsts, table, shift = frequencies.buckets(n)
        offsets = None if contexts is None else contexts.astype(np.int64) << SLOT_BITS
        mask, sizes, n_lanes = (1 << SLOT_BITS) - 1, frequencies.sizes, self._states.size
        for start in range(0, n, n_lanes):
            row = places[start : start + n_lanes]
            states = self._states[: row.size]
            slots = states & mask
            if offsets is not None:
                slots += offsets[start : start + n_lanes]
            table.take(slots >> shift, out=row, mode="clip")
            mixed = (row < 0).nonzero()[0]
            if mixed.size:
                row[mixed] = np.searchsorted(firsts, slots.take(mixed), "right") - 1
            states >>= SLOT_BITS
            states *= sizes.take(row)
            states += slots
            states -= firsts.take(row)
            self._refill(states, frequencies.has_rare)
        return places

    def _refill(self, states: Integers, has_rare: bool) -> None:
        low = (states < _LOW).nonzero()[0]
        if not low.size:
            return
        filled = states.take(low) << _WORD_BITS
        filled |= self._read(low.size)
        if has_rare:
            again = (filled < _LOW).nonzero()[0]
            if again.size:
                filled[again] = filled[again] << _WORD_BITS | self._read(again.size)
        states[low] = filled

    def _read(self, n_words: int) -> NDArray[Any]:
        words = self._words[self._place : self._place + n_words]
        if words.size != n_words:
            raise broken("symbols are missing")
        self._place += n_words
        return words

    def finish(self) -> None:
        """Checks that the states are those from which the encoder started.

        Raises:
            WeightsError: they are not, or words are left over.
        """
        if self._place != self._words.size or (self._states != _LOW).any():
            raise broken("symbols are left over")
