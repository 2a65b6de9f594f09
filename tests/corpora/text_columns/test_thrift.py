"""What is read of a structure is what was written; what is not asked for is gone over, and no bytes do harm."""

from __future__ import annotations

import contextlib
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.corpora.text_columns.thrift import AT, read_struct

I16, I32, I64, BINARY, LIST, MAP, STRUCT = 4, 5, 6, 8, 9, 11, 12


def varint(value: int) -> bytes:
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def zigzag(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def kind_of(value: Any) -> int:
    if isinstance(value, bool):
        return 1 if value else 2
    kinds = {int: I64, bytes: BINARY, float: 7, list: LIST, dict: STRUCT, tuple: MAP}
    return kinds[type(value)]


def written(value: Any, *, in_list: bool = False) -> bytes:
    """A value in the compact protocol: dicts are structures, and tuples of pairs are maps."""
    if isinstance(value, bool):
        return bytes([1 if value else 2]) if in_list else b""
    if isinstance(value, int):
        return zigzag(value)
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, bytes):
        return varint(len(value)) + value
    if isinstance(value, list):
        kind = kind_of(value[0]) if value else BINARY
        head = bytes([len(value) << 4 | kind]) if len(value) < 15 else bytes([0xF0 | kind]) + varint(len(value))
        return head + b"".join(written(each, in_list=True) for each in value)
    if isinstance(value, tuple):
        if not value:
            return b"\0"
        kinds = bytes([kind_of(value[0][0]) << 4 | kind_of(value[0][1])])
        return varint(len(value)) + kinds + b"".join(written(part, in_list=True) for pair in value for part in pair)
    content, last = b"", 0
    for number, inside in value.items():
        step = number - last
        content += bytes([step << 4 | kind_of(inside)]) if 0 < step < 16 else bytes([kind_of(inside)]) + zigzag(number)
        content += written(inside)
        last = number
    return content + b"\0"


WHOLE, STRING = st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=200)
LEAVES = WHOLE | STRING | st.booleans() | st.floats(allow_nan=False)


def containers(inner: Any) -> Any:
    same = st.lists(WHOLE, max_size=20) | st.lists(STRING, max_size=3) | st.lists(st.booleans(), max_size=20)
    pairs = st.lists(st.tuples(STRING, WHOLE), max_size=3).map(tuple)
    fields = st.dictionaries(st.integers(-40, 40), inner, max_size=6)
    return same | pairs | fields | st.lists(fields, max_size=3)


FIELDS = st.dictionaries(st.integers(-40, 40), st.recursive(LEAVES, containers, max_leaves=12), max_size=8)


def shape_of(value: Any) -> Any:
    """What to ask for, to be given the value; None for what cannot be asked for."""
    if isinstance(value, list):
        inside = [shape_of(each) for each in value]
        return [bytes] if not inside else None if None in inside or isinstance(value[0], dict) else [inside[0]]
    if isinstance(value, dict):
        shapes = {number: shape_of(inside) for number, inside in value.items()}
        return None if None in shapes.values() else shapes
    return type(value) if type(value) in (int, bytes) else None


@settings(max_examples=300, deadline=None)
@given(fields=FIELDS, left_out=st.sets(st.integers(-40, 40)), before=st.binary(max_size=9))
def test_what_is_asked_for_is_read_and_the_rest_is_not(fields: Any, left_out: set[int], before: bytes) -> None:
    shape = {number: shape_of(value) for number, value in fields.items() if number not in left_out}
    wanted = {number: each for number, each in shape.items() if each is not None}
    content = before + written(fields)
    assert read_struct(content, wanted, len(before)) == {number: fields[number] for number in wanted}
    structures = [number for number, value in fields.items() if isinstance(value, dict)]
    starts = read_struct(content, dict.fromkeys(structures, AT), len(before))
    assert [content[at:].startswith(written(fields[number])) for number, at in starts.items()] == [True] * len(starts)
    for stop in range(len(before), len(content)):
        with pytest.raises(ValueError, match="ends in the middle"):
            read_struct(content[:stop], wanted, len(before))


@settings(max_examples=500, deadline=None)
@given(content=st.binary(max_size=80))
def test_no_bytes_do_harm(content: bytes) -> None:
    """They are a structure, or else a value error."""
    with contextlib.suppress(ValueError):
        assert set(read_struct(content, {1: int, 2: [{1: bytes, 2: [AT]}], 3: bytes, 4: AT})) <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x15" + b"\xff" * 9 + b"\x7f\0", "longer than 64 bits"),
        (b"\x35" + b"\x80" * 10 + b"\0\0", "longer than 64 bits"),
        (b"\x15\x02\x05\x02\x04\0", "field 1 of a structure is there twice"),
        (b"\x18\x01a\0", "of another type"),
        (b"\x11\0", "of another type"),
        (b"\x4e\0", r"does not exist \(14\)"),
        (b"\x3c" * 10_000, "deeper than 32"),
        (b"\x39" + b"\x19" * 10_000, "deeper than 32"),
        (b"\x3b" + b"\x01\xbb" * 10_000, "deeper than 32"),
        (b"\x39\xf1" + b"\xff" * 4 + b"\x07", "ends in the middle"),
        (b"\x29\xf8" + b"\xff" * 4 + b"\x07", "ends in the middle"),
        (b"\x3b" + b"\xff" * 4 + b"\x07\x11", "ends in the middle"),
        (b"\x38" + b"\xff" * 8 + b"\x07", "ends in the middle"),
    ],
)
def test_what_cannot_be_is_said_at_once(content: bytes, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message):
        read_struct(content, {1: int, 2: [bytes]})
    assert time.monotonic() - begun < 1
