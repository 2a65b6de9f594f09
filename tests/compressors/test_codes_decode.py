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
from lm_bounds.compressors import Arithmetic, Best
from lm_bounds.compressors.classes import N_CLASSES, Context
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.dequantised import (
    GROUPS,
    LARGEST_LEVEL,
    SCALE_DTYPES,
    Quantised,
    dequantise,
    find_quantised,
    to_floats,
)
from lm_bounds.compressors.modes import ByDtype, FewValues, Mode, Planes, Raw, Split, shortest
from lm_bounds.compressors.packed import (
    LEVEL_BITS,
    SCALE_MODE_BITS,
    SCALE_MODES,
    Codes,
    CodesBeside,
    Dequantised,
    Rebuilt,
)
from lm_bounds.compressors.repeated_rows import RepeatedRows, new_rows, row_origins
from lm_bounds.compressors.tensorwise import TensorCompressor
from lm_bounds.compressors.words import FLOAT_LAYOUTS, WORDS
from lm_bounds.weights import Tensor, Weights
from lm_bounds.weights.packing import Side
from lm_bounds.weights.protocol import DTYPE_BYTES

every_compressor = pytest.mark.parametrize("compressor", [Arithmetic(), Best()], ids=lambda each: each.name)


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


def code_delta(coder: Encoder | Decoder, value: int | None) -> int:
    """The Elias delta code, bit by bit."""
    digits = None if value is None else f"{value:b}"
    length = None if digits is None else f"{len(digits):b}"
    zeros = 0
    while not plain(coder, 1, None if length is None else int(zeros == len(length) - 1)):
        zeros += 1
    rest = plain(coder, zeros, None if length is None else int(length[1:] or "0", 2))
    n_digits = 1 << zeros | rest
    return 1 << n_digits - 1 | plain(coder, n_digits - 1, None if digits is None else int(digits[1:] or "0", 2))


Labels = tuple[np.ndarray, ...]


class InClasses:
    """Symbols lowest..highest with counts of their own in each class of rows, or of rows and columns."""

    def __init__(
        self,
        coder: Encoder | Decoder,
        context: Context,
        shape: tuple[int, ...],
        support: tuple[int, int],
        labels: Labels | None,
    ) -> None:
        self.coder, self.support = coder, support
        n_rows = shape[0] if shape else 1
        self.n_columns = math.prod(shape) // n_rows
        n_labels = {Context.NONE: (0, 0), Context.ROWS: (n_rows, 0), Context.ROWS_AND_COLUMNS: (n_rows, self.n_columns)}
        self.labels = [
            self._labels(n, labels[axis] if labels and n else None) for axis, n in enumerate(n_labels[context])
        ]
        self.models: dict[tuple[int, ...], Adaptive] = {}

    def _labels(self, n: int, labels: np.ndarray | None) -> list[int]:
        model = Adaptive(0, N_CLASSES - 1)
        return [model.code(self.coder, None if labels is None else int(labels[k])) for k in range(n)]

    def code(self, position: int, value: int | None) -> int:
        places = divmod(position, self.n_columns)
        key = tuple(labels[place] for labels, place in zip(self.labels, places, strict=True) if labels)
        return self.models.setdefault(key, Adaptive(*self.support)).code(self.coder, value)


def code_split(
    coder: Encoder | Decoder,
    mode: Split,
    dtype: str,
    shape: tuple[int, ...],
    words: list[int] | None,
    labels: Labels | None,
) -> list[int]:
    """Sign, exponent and mantissa: the encoder passes the words, the decoder gets them back."""
    layout = FLOAT_LAYOUTS[dtype]
    mantissa, tail = layout.mantissa_bits, layout.mantissa_bits - mode.n_leading
    lowest = highest = zeros = None
    if words is not None:
        exponents = [word >> mantissa & ((1 << layout.exponent_bits) - 1) for word in words]
        lowest, highest = min(exponents), max(exponents)
        zeros = next((k for k in range(tail) if any(word >> k & 1 for word in words)), tail)
    lowest = plain(coder, layout.exponent_bits, lowest)
    highest = plain(coder, layout.exponent_bits, highest)
    zeros = plain(coder, tail.bit_length(), zeros)
    signs = Adaptive(0, 1)
    exponents_model = InClasses(coder, mode.context, shape, (lowest, highest), labels)
    leading: dict[int, Adaptive] = {}
    decoded = []
    for position in range(math.prod(shape)):
        word = None if words is None else words[position]
        sign = signs.code(coder, None if word is None else word >> (mantissa + layout.exponent_bits))
        exponent = exponents_model.code(position, None if word is None else exponents[position])
        context = leading.setdefault(exponent, Adaptive(0, (1 << mode.n_leading) - 1))
        top = context.code(coder, None if word is None else word >> tail & ((1 << mode.n_leading) - 1))
        rest = plain(coder, tail - zeros, None if word is None else (word & ((1 << tail) - 1)) >> zeros)
        exponent_and_sign = sign << layout.exponent_bits | exponent
        decoded.append(exponent_and_sign << mantissa | top << tail | rest << zeros)
    return decoded


def code_values(
    coder: Encoder | Decoder, mode: FewValues, shape: tuple[int, ...], words: list[int] | None, labels: Labels | None
) -> list[int]:
    """A codebook, and the position of each element there."""
    values = None if words is None else sorted(set(words))
    n_values = 1 + plain(coder, 12, None if values is None else len(values) - 1)
    codebook: list[int] = []
    for k in range(n_values):
        before = codebook[-1] if codebook else -1
        codebook.append(before + code_delta(coder, None if values is None else values[k] - before))
    positions = InClasses(coder, mode.context, shape, (0, n_values - 1), labels)
    return [
        codebook[positions.code(k, None if words is None else codebook.index(words[k]))]
        for k in range(math.prod(shape))
    ]


def shortest_run(values: set[int]) -> tuple[int, int]:
    """The first and the last byte of the shortest run, around the end if need be, that has all of them."""
    runs = [(max((each - first) % 256 for each in values), first) for first in values]
    length, first = min(runs)
    return first, (first + length) % 256


def code_planes(coder: Encoder | Decoder, width: int, n: int, raw: bytes | None) -> bytes:
    """The model ``planes``: each byte position in turn."""
    decoded = bytearray(n * width)
    for plane in range(width):
        values = None if raw is None else raw[plane::width]
        shortest = None if values is None else shortest_run(set(values))
        first = plain(coder, 8, None if shortest is None else shortest[0])
        last = plain(coder, 8, None if shortest is None else shortest[1])
        model = Adaptive(0, (last - first) % 256)
        for position in range(n):
            step = model.code(coder, None if values is None else (values[position] - first) % 256)
            decoded[position * width + plane] = (step + first) % 256
    return bytes(decoded)


class Nibbles:
    """Two codes of four bits a byte, the low one first, and labels for groups of columns."""

    n_bits = 4
    sources = ("zeros", "scales")

    def __init__(self, shape: tuple[int, int], labels: dict[Side, np.ndarray]) -> None:
        self.shape, self._labels = shape, labels

    def unpack(self, raw: np.ndarray) -> np.ndarray:
        return np.stack([raw & 15, raw >> 4], axis=1).reshape(self.shape)

    def pack(self, codes: np.ndarray) -> np.ndarray:
        pairs = codes.reshape(-1, 2)
        return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8)

    def labels(self, side: Side) -> np.ndarray | None:
        return self._labels.get(side)


def code_packed(
    coder: Encoder | Decoder, mode: Codes | CodesBeside, packing: Nibbles, raw: bytes | None, labels: Labels | None
) -> bytes:
    """The codes of four bits, in classes, or in those of the labels that the decoder has."""
    codes = None if raw is None else packing.unpack(np.frombuffer(raw, np.uint8)).reshape(-1).tolist()
    n = math.prod(packing.shape)
    beside = packing.labels(mode.side) if isinstance(mode, CodesBeside) else None
    if isinstance(mode, Codes) or beside is None:
        context = mode.context if isinstance(mode, Codes) else Context.NONE
        model = InClasses(coder, context, packing.shape, (0, 15), labels)
        decoded = [model.code(k, None if codes is None else codes[k]) for k in range(n)]
    else:
        models: dict[int, Adaptive] = {}
        decoded = [
            models.setdefault(int(label), Adaptive(0, 15)).code(coder, None if codes is None else codes[k])
            for k, label in enumerate(beside.reshape(-1))
        ]
    return packing.pack(np.array(decoded, np.uint8)).tobytes()


def code_levels(
    coder: Encoder | Decoder,
    mode: Dequantised,
    dtype: str,
    shape: tuple[int, ...],
    found: Quantised | None,
    labels: Labels | None,
) -> bytes:
    """Scales as a tensor, and levels."""
    n_columns = math.prod(shape[1:])
    size = None if found is None else (0 if found.group == n_columns else found.group)
    group = GROUPS[plain(coder, 3, None if size is None else GROUPS.index(size))] or n_columns
    is_normal_float = bool(plain(coder, 1, None if found is None else int(found.is_normal_float)))
    number = None if found is None else SCALE_DTYPES.index(found.scale_dtype)
    scale_dtype = SCALE_DTYPES[plain(coder, 2, number)]
    chosen = None if found is None else shortest(found.scales, SCALE_MODES)[0]
    scale_mode = SCALE_MODES[plain(coder, SCALE_MODE_BITS, chosen)]
    n_groups = math.prod(shape) // group
    raw_scales = None if found is None else found.scales.data().tobytes()
    scales = np.frombuffer(
        code_mode(coder, scale_mode, scale_dtype, (n_groups,), raw_scales), WORDS[DTYPE_BYTES[scale_dtype]]
    )
    values = None if found is None else found.levels.reshape(-1).tolist()
    lowest = plain(coder, LEVEL_BITS, None if values is None else min(values) + LARGEST_LEVEL) - LARGEST_LEVEL
    highest = plain(coder, LEVEL_BITS, None if values is None else max(values) + LARGEST_LEVEL) - LARGEST_LEVEL
    model = InClasses(coder, mode.context, (shape[0], n_columns), (lowest, highest), labels)
    levels = [model.code(k, None if values is None else values[k]) for k in range(math.prod(shape))]
    table = np.array(levels, np.int16).reshape(n_groups, group)
    words = dequantise(to_floats(scales, scale_dtype), table, dtype, is_normal_float)
    return words.astype(WORDS[DTYPE_BYTES[dtype]]).tobytes()


def code_rows(
    coder: Encoder | Decoder, mode: RepeatedRows, dtype: str, shape: tuple[int, ...], tensor: Tensor | None
) -> bytes:
    """Which rows are new, what the others repeat, and the tensor of the new ones."""
    origins = None if tensor is None else row_origins(tensor)
    fresh = Adaptive(0, 1)
    is_new = [bool(fresh.code(coder, None if origins is None else int(origins[k] == k))) for k in range(shape[0])]
    found: list[int] = []
    pointed: dict[int, int] = {}
    for row, new in enumerate(is_new):
        if new:
            found.append(row)
        else:
            position = None if origins is None else found.index(int(origins[row]))
            pointed[row] = coder.symbol((1,) * len(found), position)
    inner = None if tensor is None or origins is None else new_rows(tensor, origins)
    number = plain(coder, mode.mode_bits, None if inner is None else shortest(inner, mode.modes)[0])
    content = code_mode(coder, mode.modes[number], dtype, (len(found), *shape[1:]), inner)
    row_bytes = len(content) // len(found)
    kept = {row: content[k * row_bytes : (k + 1) * row_bytes] for k, row in enumerate(found)}
    return b"".join(kept[row] if new else kept[found[pointed[row]]] for row, new in enumerate(is_new))


def code_mode(
    coder: Encoder | Decoder,
    mode: Mode,
    dtype: str,
    shape: tuple[int, ...],
    given: Tensor | bytes | None = None,
    packing: Nibbles | None = None,
    expected: bytes = b"",
) -> bytes:
    """One tensor in one mode; the encoder has it, or its bytes."""
    tensor = Tensor.of_bytes("", dtype, shape, np.frombuffer(given, np.uint8)) if isinstance(given, bytes) else given
    raw = None if tensor is None else tensor.data().tobytes()
    labels = None if tensor is None else chosen_labels(tensor, mode)
    n, width = math.prod(shape), DTYPE_BYTES[dtype]
    word = WORDS[width]
    words = None if raw is None else np.frombuffer(raw, word).tolist()
    if isinstance(mode, Rebuilt):
        return expected
    if isinstance(mode, (Codes, CodesBeside)):
        assert packing is not None
        return code_packed(coder, mode, packing, raw, labels)
    if isinstance(mode, Dequantised):
        return code_levels(coder, mode, dtype, shape, None if tensor is None else find_quantised(tensor), labels)
    if isinstance(mode, RepeatedRows):
        return code_rows(coder, mode, dtype, shape, tensor)
    if isinstance(mode, ByDtype):
        mode = Split(3) if dtype in FLOAT_LAYOUTS else Planes()
    if isinstance(mode, Raw):
        return bytes(plain(coder, 8, None if raw is None else raw[k]) for k in range(n * width))
    if isinstance(mode, Planes):
        return code_planes(coder, width, n, raw)
    if isinstance(mode, Split):
        return np.array(code_split(coder, mode, dtype, shape, words, labels), word).tobytes()
    assert isinstance(mode, FewValues)
    return np.array(code_values(coder, mode, shape, words, labels), word).tobytes()


def chosen_labels(tensor: Tensor, mode: Mode) -> Labels | None:
    """The classes that the encoder has chosen."""
    if getattr(mode, "context", Context.NONE) is Context.NONE:
        return None
    counted = Counted(tensor)
    if isinstance(mode, Split):
        symbols = counted.exponents
    elif isinstance(mode, Dequantised):
        symbols = counted.levels
    else:
        symbols = counted.packed if isinstance(mode, Codes) else counted.codes
    assert symbols is not None
    return symbols.labels(mode.context)


def encode_tensor(coder: Encoder, compressor: TensorCompressor, tensor: Tensor) -> None:
    """The mode's number and the tensor."""
    number, _ = shortest(tensor, compressor.modes)
    plain(coder, compressor.mode_bits, number)
    code_mode(coder, compressor.modes[number], tensor.dtype, tensor.shape, tensor)


def decode_tensor(coder: Decoder, compressor: TensorCompressor, dtype: str, shape: tuple[int, ...]) -> bytes:
    number = plain(coder, compressor.mode_bits, None)
    return code_mode(coder, compressor.modes[number], dtype, shape)


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


def encode(weights: Weights, compressor: TensorCompressor) -> str:
    """The whole description that the ledger prices."""
    schema = {
        "tensors": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in weights.tensors],
        "aliases": [list(alias) for alias in weights.aliases],
    }
    coder = Encoder()
    for tensor in weights.tensors:
        encode_tensor(coder, compressor, tensor)
    text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()
    return delimited(weights.config) + delimited(text) + coder.finish()


def decode(stream: str, compressor: TensorCompressor) -> Weights:
    config, stream = undelimit(stream)
    schema, stream = undelimit(stream)
    table = json.loads(schema)
    coder = Decoder(stream)
    tensors = []
    for name, dtype, shape in table["tensors"]:
        raw = np.frombuffer(decode_tensor(coder, compressor, dtype, tuple(shape)), np.uint8)
        tensors.append(Tensor.of_bytes(name, dtype, tuple(shape), raw))
    aliases = tuple((dropped, kept) for dropped, kept in table["aliases"])
    return Weights("decoded", tuple(tensors), aliases, config)


def check_every_mode(tensor: Tensor) -> list[Mode]:
    """Codes a tensor in each mode that can, decodes it, and compares the length; returns these modes."""
    counted = Counted(tensor)
    raw = tensor.data().tobytes()
    packing = tensor.packing
    assert packing is None or isinstance(packing, Nibbles)
    expected = b"" if tensor.expected is None else tensor.expected().tobytes()
    able = [mode for mode in (*Best.modes, *Arithmetic.modes) if mode.bits(counted) < math.inf]
    for mode in able:
        encoder = Encoder()
        code_mode(encoder, mode, tensor.dtype, tensor.shape, tensor, packing, expected)
        stream = encoder.finish()
        decoder = Decoder(stream + "1011")  # whatever follows must not matter
        assert code_mode(decoder, mode, tensor.dtype, tensor.shape, None, packing, expected) == raw, mode
        bits = mode.bits(counted)
        assert bits == pytest.approx(encoder.information_bits, abs=1e-6), mode
        assert bits >= encoder.information_bits - 1e-9, mode
        assert len(stream) - 2 <= math.ceil(bits) + 1e-6, mode
    return able


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I8", "U8", "F8_E4M3", "BOOL", "I16", "I32", "I64", "F64"])
def test_closed_form_is_the_length_of_a_code_that_decodes(dtype: str, tensor) -> None:
    rng = np.random.default_rng(11)
    scale = 0.02 if dtype in FLOAT_LAYOUTS else 20.0
    values = np.exp(rng.normal(0, 1, (9, 1))) * rng.normal(0, scale, (9, 5))
    casts = {"BOOL": values > 0, "U8": abs(values) % 256, "F8_E4M3": abs(values) % 256}
    able = check_every_mode(tensor("w", casts.get(dtype, values), dtype))
    assert Raw() in able
    assert {FewValues(context) for context in Context} <= set(able)
    split = {mode for mode in Best.modes if isinstance(mode, Split)}
    assert set(able) & {*split, Planes()} == (split if dtype in FLOAT_LAYOUTS else {Planes()})
    assert ByDtype() in able


def test_codes_of_a_quantised_layout_decode() -> None:
    rng = np.random.default_rng(5)
    zeros = rng.integers(0, 3, (4, 3))
    codes = np.clip(rng.normal(5 + 2 * zeros.repeat(4, axis=1), 1.5).round(), 0, 15).astype(np.uint8)
    labels = {Side.ZERO_POINT: zeros.repeat(4, axis=1).astype(np.uint8), Side.SCALE: (codes % 2).astype(np.uint8)}
    for known in (labels, {}):
        packing = Nibbles(codes.shape, known)
        raw = packing.pack(codes)
        tensor = Tensor("w", "U8", (4, 6), lambda start, stop, raw=raw: raw[start:stop], packing, lambda raw=raw: raw)
        able = set(check_every_mode(tensor))
        assert able >= {*(Codes(context) for context in Context), *(CodesBeside(side) for side in Side), Rebuilt()}
    other = Tensor("w", "U8", (4, 6), tensor.load, None, lambda: raw ^ 1)
    assert not {Codes(), Rebuilt()} & set(check_every_mode(other))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_dequantised_tensors_decode(dtype: str, tensor) -> None:
    rng = np.random.default_rng(6)
    scales = np.float32(rng.uniform(0.001, 0.02, (3, 2, 1))).astype(np.float16).astype(np.float32)
    codes = rng.integers(-3, 4, (3, 2, 32)).astype(np.float32)
    able = check_every_mode(tensor("w", (scales * codes).reshape(3, 64), dtype))
    assert {Dequantised(context) for context in Context} <= set(able)


@pytest.mark.parametrize("dtype", ["F32", "I16", "U8"])
def test_repeated_rows_decode(dtype: str, tensor) -> None:
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 9, (5, 16))
    able = check_every_mode(tensor("w", rows[[0, 1, 0, 2, 2, 3, 1, 0, 4]], dtype))
    assert any(isinstance(mode, RepeatedRows) for mode in able)
    assert not any(isinstance(mode, RepeatedRows) for mode in check_every_mode(tensor("w", rows, dtype)))


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from(["F32", "F16", "BF16", "I8", "I16", "I32", "I64"]),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    shift=st.integers(0, 63),
    few=st.booleans(),
)
def test_any_bit_patterns_decode(
    data: st.DataObject, dtype: str, shape: tuple[int, ...], shift: int, few: bool
) -> None:
    """Infinities, NaNs with payloads, signed zeros, subnormals, few values, and low bits that are all zero."""
    width = 8 * DTYPE_BYTES[dtype]
    n = math.prod(shape[:2])
    any_words = st.integers(0, 2**width - 1)
    palette = data.draw(st.lists(any_words, min_size=1, max_size=3))
    words = data.draw(st.lists(st.sampled_from(palette) if few else any_words, min_size=n, max_size=n))
    words = [word >> shift % width << shift % width for word in words]
    raw = np.array(words, WORDS[width // 8]).view(np.uint8)
    check_every_mode(Tensor.of_bytes("w", dtype, shape[:2], raw))


@every_compressor
def test_the_whole_description_decodes_within_the_ledger(compressor: TensorCompressor, mixed: Weights) -> None:
    stream = encode(mixed, compressor)
    decoded = decode(stream, compressor)
    assert decoded.sha256() == mixed.sha256()
    assert decoded.config == mixed.config
    assert decoded.aliases == mixed.aliases
    total = total_bits(compressor.ledger(mixed))
    # Rounding every tensor up costs less than one bit each; two more end the stream.
    assert len(stream) <= total <= len(stream) + len(mixed.tensors) + 2
