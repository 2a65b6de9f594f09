"""An arithmetic coder of single values, for what is too little to be worth a table of frequencies."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from lm_bounds.errors import WeightsError

_WIDTH_BITS = 48
_REST_BITS = _WIDTH_BITS - 8
_LEAST_WIDTH = 1 << _REST_BITS
_PLAIN_BITS = 16
# The digits of the digits of the largest integer that is ever written: 2^255 and more is nothing that a file may hold.
_DELTA_UNARY = 8
# So many zeros at the end are left out, and no decoder needs more, but for those that it looks ahead.
_ZEROS = 1 << 12


class ScalarEncoder:
    """A range coder with a width of 40 to 48 bits, whose carries run back through the bytes that are out already.

    Reference: G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979.
    """

    def __init__(self) -> None:
        self._low, self._width = 0, 1 << _WIDTH_BITS
        self._out = bytearray()

    def interval(self, start: int, size: int, total: int) -> None:
        """The value that has the frequencies from ``start`` to ``start + size`` of ``total``, at most 2^24."""
        unit = self._width // total
        self._low += unit * start
        self._width = unit * size
        while self._width <= _LEAST_WIDTH:
            self._shift()
            self._width <<= 8

    def finish(self) -> bytes:
        """All bytes, the fewest that any further bytes may follow, without zeros at the end, or most of them."""
        for n_zeros in reversed(range(_WIDTH_BITS)):
            code = -(-self._low >> n_zeros) << n_zeros
            if code < self._low + self._width:
                break
        self._low = code
        for _ in range(_WIDTH_BITS // 8):
            self._shift()
        shortest = len(bytes(self._out).rstrip(b"\0"))
        return bytes(self._out[: max(shortest, len(self._out) - _ZEROS)])

    def _shift(self) -> None:
        if self._low >> _WIDTH_BITS:
            place = len(self._out) - 1
            while self._out[place] == 255:
                self._out[place] = 0
                place -= 1
            self._out[place] += 1
        self._out.append(self._low >> _REST_BITS & 255)
        self._low = (self._low & (_LEAST_WIDTH - 1)) << 8

    def below(self, value: int, n: int) -> None:
        """A value of ``range(n)``, each as likely as the others."""
        shift = max(0, (n - 1).bit_length() - _PLAIN_BITS)
        self.interval(value >> shift, 1, (n - 1 >> shift) + 1)
        self.integer(value & (1 << shift) - 1, shift)

    def integer(self, value: int, n_bits: int) -> None:
        """``n_bits`` bits as they are."""
        while n_bits > 0:
            taken = min(n_bits, _PLAIN_BITS)
            n_bits -= taken
            self.interval(value >> n_bits & (1 << taken) - 1, 1, 1 << taken)

    def delta(self, value: int) -> None:
        """The Elias delta code of an integer of at least 1."""
        n_digits = value.bit_length()
        n_zeros = n_digits.bit_length() - 1
        for place in range(n_zeros + 1):  # one by one, as they are read: the width is rounded at each
            self.integer(place == n_zeros, 1)
        self.integer(n_digits, n_zeros)
        self.integer(value, n_digits - 1)

    def counted(self, value: int, frequencies: list[int]) -> None:
        """A value under its frequency, which then grows by two: the Krichevsky-Trofimov code if it began with ones."""
        self.interval(sum(frequencies[:value]), frequencies[value], sum(frequencies))
        frequencies[value] += 2


class ScalarDecoder:
    """The inverse of ``ScalarEncoder``; behind the end of its bytes there are zeros.

    Args:
        content: what ``finish`` returned, perhaps with more after it.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, _WIDTH_BITS // 8
        self._width = 1 << _WIDTH_BITS
        self._offset = int.from_bytes(content[: self._place].ljust(self._place, b"\0"), "big")

    def target(self, total: int) -> int:
        """Which of ``total`` frequencies comes next.

        Raises:
            WeightsError: none: no encoder has written these bytes.
        """
        place = self._offset // (self._width // total)
        if place >= total:
            raise broken("a value is outside its range")
        return place

    def take(self, start: int, size: int, total: int) -> None:
        """Goes on behind the value that has these frequencies."""
        unit = self._width // total
        self._offset -= unit * start
        self._width = unit * size
        while self._width <= _LEAST_WIDTH:
            if self._place > len(self._content) + _ZEROS + _WIDTH_BITS // 8:
                raise broken("values are missing")
            byte = self._content[self._place] if self._place < len(self._content) else 0
            self._offset = self._offset << 8 | byte
            self._place += 1
            self._width <<= 8

    def finish(self) -> None:
        """Checks that everything has been read.

        Raises:
            WeightsError: bytes are left.
        """
        if self._place < len(self._content):
            raise broken("values are left over")

    def below(self, n: int) -> int:
        """A value of ``range(n)``."""
        shift = max(0, (n - 1).bit_length() - _PLAIN_BITS)
        value = self._one_of((n - 1 >> shift) + 1) << shift | self.integer(shift)
        if value >= n:
            raise broken("a value is outside its range")
        return value

    def integer(self, n_bits: int) -> int:
        """``n_bits`` bits as they are."""
        value = 0
        while n_bits > 0:
            taken = min(n_bits, _PLAIN_BITS)
            n_bits -= taken
            value = value << taken | self._one_of(1 << taken)
        return value

    def delta(self) -> int:
        """The Elias delta code of an integer of at least 1."""
        n_zeros = 0
        while not self.integer(1):
            n_zeros += 1
            if n_zeros > _DELTA_UNARY:
                raise broken("an integer is too large")
        n_digits = 1 << n_zeros | self.integer(n_zeros)
        return 1 << n_digits - 1 | self.integer(n_digits - 1)

    def counted(self, frequencies: list[int]) -> int:
        """A value under its frequency, which then grows by two."""
        ends = list(accumulate(frequencies))
        value = bisect_right(ends, self.target(ends[-1]))
        self.take(ends[value] - frequencies[value], frequencies[value], ends[-1])
        frequencies[value] += 2
        return value

    def _one_of(self, n: int) -> int:
        value = self.target(n)
        self.take(value, 1, n)
        return value


def broken(why: str) -> WeightsError:
    """The error for a file that this package did not write, or that has changed since."""
    return WeightsError(f"the packed file is damaged: {why}; get it again, or pack the model again")
