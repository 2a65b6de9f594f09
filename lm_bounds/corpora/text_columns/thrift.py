"""Structures as the compact protocol of Thrift writes them: those parts are read that are asked for.

What is read is written by others. Nothing is believed that the bytes themselves do not show: no more elements are made
than there are bytes, nothing is gone into deeper than ``_DEEPEST``, and every byte is looked at once. The protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

# What is asked for: a whole number, a string, the byte at which a structure begins, a list, or fields of a structure.
AT: Final = "at"
Shape: TypeAlias = "type[int] | type[bytes] | str | list[Any] | Mapping[int, Any]"

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(1, 14)
_WHOLE = (_I16, _I32, _I64)
_FIXED_BYTES = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}
_LONGEST_VARINT = 10  # bytes of 64 bits
_LONG_LIST = 15  # the length does not stand in the first byte
_DEEPEST = 32


def read_struct(content: bytes, shape: Mapping[int, Shape], at: int = 0) -> dict[int, Any]:
    """The fields of a structure that are asked for and there.

    Args:
        content: the bytes.
        shape: what to make of a field, by its number: ``int``, ``bytes``, ``AT``, ``[shape]`` for a list of it, or a
            mapping like this one for a structure.
        at: the byte at which the structure begins.

    Returns:
        the values of the fields by their numbers.

    Raises:
        ValueError: the bytes are no such structure.

    >>> read_struct(bytes([0x15, 0x0E, 0x19, 0x28, 1, 65, 1, 66, 0]), {1: int, 2: [bytes]})
    {1: 7, 2: [b'A', b'B']}
    """
    try:
        return _Reader(content, at).struct(shape, _DEEPEST)
    except IndexError:
        raise ValueError("it ends in the middle of a structure") from None


class _Reader:
    """Reads on from a byte; an index error where there is none any more."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at

    def struct(self, shape: Mapping[int, Shape], depth: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head > 15 else self._zigzag()
            wanted = shape.get(number)
            if wanted is None:
                self._at = _skip(self._content, self._at, head & 15, depth)
            elif number in found:
                raise ValueError(f"field {number} of a structure is there twice")
            else:
                found[number] = self._value(head & 15, wanted, depth - 1)
        return found

    def _value(self, kind: int, wanted: Shape, depth: int) -> Any:
        if wanted == AT and kind == _STRUCT:
            start, self._at = self._at, _skip(self._content, self._at, kind, depth)
            return start
        if wanted is int and kind in _WHOLE:
            return self._zigzag()
        if wanted is bytes and kind == _BINARY:
            start = self._at_end_of_varint()
            return self._content[start : self._at]
        if isinstance(wanted, list) and kind == _LIST:
            return self._list(wanted[0], depth)
        if isinstance(wanted, Mapping) and kind == _STRUCT:
            return self.struct(wanted, depth)
        raise ValueError("a field of a structure is of another type than it must be")

    def _at_end_of_varint(self) -> int:
        """Goes behind a string, to which its length is given; where it starts."""
        n_bytes = self._varint()
        start, self._at = self._at, self._at + n_bytes
        if self._at > len(self._content):
            raise IndexError
        return start

    def _list(self, wanted: Shape, depth: int) -> list[Any]:
        head = self._byte()
        n = head >> 4 if head >> 4 < _LONG_LIST else self._varint()
        if n > len(self._content) - self._at:
            raise IndexError
        return [self._value(head & 15, wanted, depth - 1) for _ in range(n)]

    def _byte(self) -> int:
        byte = self._content[self._at]
        self._at += 1
        return byte

    def _varint(self) -> int:
        value, self._at = _varint(self._content, self._at)
        return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number, 7 bits a byte, and where the next byte is."""
    byte = content[at]
    if byte < 128:
        return byte, at + 1
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = content[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128 and value < 1 << 64:
            return value, at + place + 1
    raise ValueError("a number of it is longer than 64 bits")


def _skip(content: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value ends that starts at a byte; what it says is not looked at."""
    if not depth:
        raise ValueError(f"its structures lie in each other deeper than {_DEEPEST}")
    if kind == _STRUCT:
        return _skip_struct(content, at, depth)
    if kind in _WHOLE:
        return _varint(content, at)[1]
    if kind == _BINARY:
        n_bytes, at = _varint(content, at)
        at += n_bytes
    elif kind in _FIXED_BYTES:
        at += _FIXED_BYTES[kind]
    elif kind in (_LIST, _SET):
        head, at = content[at], at + 1
        n, at = (head >> 4, at) if head >> 4 < _LONG_LIST else _varint(content, at)
        return _skip_values(content, at, (head & 15,), n, depth)
    elif kind == _MAP:
        n, at = _varint(content, at)
        return _skip_values(content, at + 1, (content[at] >> 4, content[at] & 15), n, depth) if n else at
    elif kind not in (_TRUE, _FALSE):
        raise ValueError(f"a value of it is of a type that does not exist ({kind})")
    if at > len(content):
        raise IndexError
    return at


def _skip_values(content: bytes, at: int, kinds: tuple[int, ...], n: int, depth: int) -> int:
    """Where n elements of a list, or n pairs of a map, end; a truth value takes a byte there."""
    if n > len(content) - at:  # each takes one byte or more
        raise IndexError
    inside = [_BYTE if kind in (_TRUE, _FALSE) else kind for kind in kinds]
    for _ in range(n):
        for kind in inside:
            at = _skip(content, at, kind, depth - 1)
    return at


def _skip_struct(content: bytes, at: int, depth: int) -> int:
    """Where a structure ends; whole numbers and strings, which are most of it, are gone over here."""
    while head := content[at]:
        at += 1
        if head < 16:  # the number of the field does not follow from that of the last one
            at = _varint(content, at)[1]
        kind = head & 15
        if kind in _WHOLE and content[at] < 128:
            at += 1
        elif kind == _BINARY and content[at] < 128:
            at += 1 + content[at]
        else:
            at = _skip(content, at, kind, depth - 1)
    return at + 1
