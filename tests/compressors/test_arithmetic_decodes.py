"""The closed-form lengths against a real arithmetic coder that decodes every bit."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import total_bits
from lm_bounds.compressors import Arithmetic
from lm_bounds.compressors.arithmetic import FLOAT_LAYOUTS, planes_bits, split_bits
from lm_bounds.weights import Tensor, Weights
from lm_bounds.weights.protocol import DTYPE_BYTES


class Interval:
    """An arithmetic coder on integers of any size: the interval is [low, low + width) / denominator."""

    def __init__(self) -> None:
        self.low, self.width, self.denominator = 0, 1, 1

    def narrow(self, begin: int, size: int, total: int) -> None:
        self.low = self.low * total + self.width * begin
        self.width *= size
        self.denominator *= total

    @property
    def information_bits(self) -> float:
        return math.log2(self.denominator) - math.log2(self.width)


class Encoder(Interval):
    def symbol(self, frequencies: Sequence[int], value: int) -> int:
        self.narrow(sum(frequencies[:value]), frequencies[value], sum(frequencies))
        return value

    def finish(self) -> str:
        """The shortest bits whose every continuation lies in the interval."""
        n_bits = 0
        while True:
            code = -(-(self.low << n_bits) // self.denominator)
            if (code + 1) * self.denominator <= (self.low + self.width) << n_bits:
                return f"{code:0{n_bits}b}" if n_bits else ""
            n_bits += 1


class Decoder(Interval):
    def __init__(self, stream: str) -> None:
        super().__init__()
        self.code, self.n_bits = int(stream or "0", 2), len(stream)

    def symbol(self, frequencies: Sequence[int], value: int | None = None) -> int:
        total = sum(frequencies)
        offset = self.code * self.denominator - (self.low << self.n_bits)
        target = offset * total // (self.width << self.n_bits)
        begin = 0
        for value, size in enumerate(frequencies):
            if begin <= target < begin + size:
                self.narrow(begin, size, total)
                return value
            begin += size
        raise AssertionError("the stream points outside the interval")


@dataclass
class Adaptive:
    """Krichevsky-Trofimov: frequencies 2 n_k + 1, over the symbols lowest..highest."""

    lowest: int
    highest: int
    counts: dict[int, int] = field(default_factory=dict)

    def code(self, coder: Encoder | Decoder, value: int | None) -> int:
        symbols = range(self.lowest, self.highest + 1)
        frequencies = [2 * self.counts.get(symbol, 0) + 1 for symbol in symbols]
        index = coder.symbol(frequencies, None if value is None else value - self.lowest)
        self.counts[symbols[index]] = self.counts.get(symbols[index], 0) + 1
        return symbols[index]


def plain(coder: Encoder | Decoder, n_bits: int, value: int | None) -> int:
    """``n_bits`` bits as they are, each a fair coin."""
    bits = [
        coder.symbol((1, 1), None if value is None else value >> position & 1) for position in reversed(range(n_bits))
    ]
    return int("".join(map(str, bits)) or "0", 2)


def code_split(coder: Encoder | Decoder, dtype: str, n: int, words: list[int] | None) -> list[int]:
    """The model ``split``: the encoder passes the words, the decoder gets them back."""
    layout = FLOAT_LAYOUTS[dtype]
    mantissa, tail = layout.mantissa_bits, layout.trailing_bits
    lowest = highest = zeros = None
    if words is not None:
        exponents = [word >> mantissa & ((1 << layout.exponent_bits) - 1) for word in words]
        lowest, highest = min(exponents), max(exponents)
        zeros = next((k for k in range(tail) if any(word >> k & 1 for word in words)), tail)
    lowest = plain(coder, layout.exponent_bits, lowest)
    highest = plain(coder, layout.exponent_bits, highest)
    zeros = plain(coder, tail.bit_length(), zeros)
    signs, exponents_model = Adaptive(0, 1), Adaptive(lowest, highest)
    leading: dict[int, Adaptive] = {}
    decoded = []
    for position in range(n):
        word = None if words is None else words[position]
        sign = signs.code(coder, None if word is None else word >> (mantissa + layout.exponent_bits))
        exponent = exponents_model.code(coder, None if word is None else exponents[position])
        context = leading.setdefault(exponent, Adaptive(0, 7))
        top = context.code(coder, None if word is None else word >> tail & 7)
        rest = plain(coder, tail - zeros, None if word is None else (word & ((1 << tail) - 1)) >> zeros)
        exponent_and_sign = sign << layout.exponent_bits | exponent
        decoded.append(exponent_and_sign << mantissa | top << tail | rest << zeros)
    return decoded


def code_planes(coder: Encoder | Decoder, width: int, n: int, raw: bytes | None) -> bytes:
    """The model ``planes``: each byte position in turn."""
    decoded = bytearray(n * width)
    for plane in range(width):
        values = None if raw is None else raw[plane::width]
        lowest = plain(coder, 8, None if values is None else min(values))
        highest = plain(coder, 8, None if values is None else max(values))
        model = Adaptive(lowest, highest)
        for position in range(n):
            byte = model.code(coder, None if values is None else values[position])
            decoded[position * width + plane] = byte
    return bytes(decoded)


def code_modelled(coder: Encoder | Decoder, dtype: str, n: int, raw: bytes | None) -> bytes:
    if dtype not in FLOAT_LAYOUTS:
        return code_planes(coder, DTYPE_BYTES[dtype], n, raw)
    word = FLOAT_LAYOUTS[dtype].word
    words = None if raw is None else np.frombuffer(raw, word).tolist()
    return np.array(code_split(coder, dtype, n, words), word).tobytes()


def code_tensor(
    coder: Encoder | Decoder, dtype: str, n: int, raw: bytes | None = None, split: int | None = None
) -> bytes:
    """One mode bit, then the tensor in that mode."""
    n_bytes = n * DTYPE_BYTES[dtype]
    if plain(coder, 1, split):
        return code_modelled(coder, dtype, n, raw)
    return bytes(plain(coder, 8, None if raw is None else raw[k]) for k in range(n_bytes))


def best_mode(tensor: Tensor) -> int:
    if tensor.n_elements == 0:
        return 0
    modelled = split_bits(tensor) if tensor.dtype in FLOAT_LAYOUTS else planes_bits(tensor)
    return int(modelled < 8 * tensor.n_bytes)


def delimited(content: bytes) -> str:
    """Deflated bytes behind the Elias delta code of their number plus one."""
    packed = zlib.compress(content, 9)
    digits = f"{len(packed) + 1:b}"
    length = f"{len(digits):b}"
    return "0" * (len(length) - 1) + length + digits[1:] + "".join(f"{byte:08b}" for byte in packed)


def undelimit(stream: str) -> tuple[bytes, str]:
    unary = stream.index("1")
    length = int(stream[unary : 2 * unary + 1], 2)
    start = 2 * unary + length
    n_bytes = int("1" + stream[2 * unary + 1 : start], 2) - 1
    packed = bytes(int(stream[start + 8 * k : start + 8 * k + 8], 2) for k in range(n_bytes))
    return zlib.decompress(packed), stream[start + 8 * n_bytes :]


def encode(weights: Weights) -> str:
    """The whole description that the ledger of ``Arithmetic`` prices."""
    schema = {
        "tensors": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in weights.tensors],
        "aliases": [list(alias) for alias in weights.aliases],
    }
    coder = Encoder()
    for tensor in weights.tensors:
        raw = tensor.data().tobytes()
        code_tensor(coder, tensor.dtype, tensor.n_elements, raw, best_mode(tensor))
    text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()
    return delimited(weights.config) + delimited(text) + coder.finish()


def decode(stream: str) -> Weights:
    config, stream = undelimit(stream)
    schema, stream = undelimit(stream)
    table = json.loads(schema)
    coder = Decoder(stream)
    tensors = []
    for name, dtype, shape in table["tensors"]:
        raw = np.frombuffer(code_tensor(coder, dtype, math.prod(shape)), np.uint8)
        tensors.append(Tensor(name, dtype, tuple(shape), lambda raw=raw: raw))
    aliases = tuple((dropped, kept) for dropped, kept in table["aliases"])
    return Weights("decoded", tuple(tensors), aliases, config)


def coded(tensor: Tensor) -> tuple[str, float, bytes]:
    """Stream, ideal length and decoded bytes of one tensor coded by the model of its dtype."""
    encoder = Encoder()
    raw = tensor.data().tobytes()
    code_tensor(encoder, tensor.dtype, tensor.n_elements, raw, 1)
    stream = encoder.finish()
    decoder = Decoder(stream + "1011")  # whatever follows must not matter
    return stream, encoder.information_bits, code_tensor(decoder, tensor.dtype, tensor.n_elements)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I8", "U8", "F8_E4M3", "BOOL", "I16", "I32", "I64"])
def test_closed_form_is_the_length_of_a_code_that_decodes(dtype: str, tensor) -> None:
    rng = np.random.default_rng(11)
    scale = 0.02 if dtype in ("F32", "F16", "BF16") else 20.0
    values = np.abs(rng.normal(0, scale, 60)) if dtype in ("U8", "F8_E4M3") else rng.normal(0, scale, 60)
    example = tensor("w", values, dtype)
    stream, information_bits, decoded = coded(example)
    assert decoded == example.data().tobytes()
    modelled = split_bits(example) if dtype in FLOAT_LAYOUTS else planes_bits(example)
    assert 1 + modelled == pytest.approx(information_bits, abs=1e-6)
    assert 1 + modelled >= information_bits - 1e-9
    assert len(stream) <= math.ceil(1 + modelled) + 2
    assert math.ceil(1 + modelled) >= len(stream) - 2


WORDS = {
    "F32": st.integers(0, 2**32 - 1),
    "F16": st.integers(0, 2**16 - 1),
    "BF16": st.integers(0, 2**16 - 1),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(sorted(WORDS)), shift=st.integers(0, 31))
def test_any_bit_patterns_decode(data: st.DataObject, dtype: str, shift: int) -> None:
    """Infinities, NaNs with payloads, signed zeros, subnormals, and words with low bits that are all zero."""
    words = data.draw(st.lists(WORDS[dtype], min_size=1, max_size=12))
    width = 8 * DTYPE_BYTES[dtype]
    words = [word >> shift % width << shift % width for word in words]
    raw = np.array(words, FLOAT_LAYOUTS[dtype].word).view(np.uint8)
    example = Tensor("w", dtype, (len(words),), lambda: raw)
    stream, information_bits, decoded = coded(example)
    assert decoded == raw.tobytes()
    assert 1 + split_bits(example) == pytest.approx(information_bits, abs=1e-6)
    assert len(stream) <= math.ceil(1 + split_bits(example)) + 2


def test_the_whole_description_decodes_within_the_ledger(mixed: Weights) -> None:
    stream = encode(mixed)
    decoded = decode(stream)
    assert decoded.sha256() == mixed.sha256()
    assert decoded.config == mixed.config
    assert decoded.aliases == mixed.aliases
    total = total_bits(Arithmetic().ledger(mixed))
    # Rounding every tensor up costs less than one bit each; two more end the stream.
    assert len(stream) <= total <= len(stream) + len(mixed.tensors) + 2
