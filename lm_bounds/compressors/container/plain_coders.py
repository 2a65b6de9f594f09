"""How the modes that see a tensor's elements alone write it, and read it back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.places import Places, pieces, shape_of, spans
from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sink import Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.counts import CODEBOOK_VALUES, Counted, cyclic_support
from lm_bounds.compressors.modes import ByDtype, FewValues, Planes, Raw, Split
from lm_bounds.compressors.words import FLOAT_LAYOUTS, WORDS
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

Words = NDArray[np.unsignedinteger]
Bytes = NDArray[np.uint8]

_OF_FLOATS = Split(3)


def write_raw(mode: Raw, counted: Counted, sink: Sink) -> None:
    """The bytes."""
    for _, _, words in pieces(counted.tensor):
        sink.raw(words.tobytes())


def read_raw(mode: Raw, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes, piece by piece."""
    width = DTYPE_BYTES[tensor.dtype]
    for start, stop in spans(tensor):
        yield np.frombuffer(source.raw((stop - start) * width), np.uint8)


def write_split(mode: Split, counted: Counted, sink: Sink) -> None:
    """Smallest and largest exponent, zero bits, labels; then signs, exponents, leading and other mantissa bits."""
    layout = counted.layout
    assert layout is not None
    lowest, counts = counted.float_counts
    n_exponents, n_rest = counts.shape[1], layout.mantissa_bits - mode.n_leading
    n_zeros = min(n_rest, counted.n_zero_bits)
    sink.integer(lowest, layout.exponent_bits)
    sink.integer(lowest + n_exponents - 1, layout.exponent_bits)
    sink.integer(n_zeros, n_rest.bit_length())

    def exponents_of(words: Words) -> NDArray[np.integer]:
        return (words >> layout.mantissa_bits & (1 << layout.exponent_bits) - 1) - words.dtype.type(lowest)

    places = Places.write(sink, counted.exponents.labels(mode.context), shape_of(counted.tensor))
    in_places = counts.sum(axis=(0, 2))[None]
    if places.n_contexts > 1:
        in_places = places.count(counted.tensor, n_exponents, exponents_of)
    signs = sink.model(counts.sum(axis=(1, 2))[None])
    exponents = sink.model(in_places)
    leading = sink.model(counts.sum(axis=0).reshape(n_exponents, 1 << mode.n_leading, -1).sum(axis=2))
    for start, stop, words in pieces(counted.tensor):
        by_exponent = exponents_of(words)
        sink.symbols(signs, words >> layout.mantissa_bits + layout.exponent_bits)
        sink.symbols(exponents, by_exponent, places.contexts(start, stop))
        sink.symbols(leading, words >> n_rest & (1 << mode.n_leading) - 1, by_exponent)
        sink.bits(words >> n_zeros, n_rest - n_zeros)


def read_split(mode: Split, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes, piece by piece."""
    layout = FLOAT_LAYOUTS.get(tensor.dtype)
    if layout is None:
        raise broken(f"a tensor of dtype {tensor.dtype} has exponents")
    n_rest = layout.mantissa_bits - mode.n_leading
    lowest = source.integer(layout.exponent_bits)
    n_exponents = source.integer(layout.exponent_bits) - lowest + 1
    n_zeros = source.integer(n_rest.bit_length())
    if n_exponents < 1 or n_zeros > n_rest:
        raise broken("a number is outside its range")
    places = Places.read(source, mode.context, shape_of(tensor))
    signs = source.model(tensor.n_elements, 2)
    exponents = source.model(tensor.n_elements, n_exponents, places.n_contexts)
    leading = source.model(tensor.n_elements, 1 << mode.n_leading, n_exponents)
    word = WORDS[DTYPE_BYTES[tensor.dtype]]
    for start, stop in spans(tensor):
        upper = source.symbols(signs, stop - start) << layout.exponent_bits
        by_exponent = source.symbols(exponents, stop - start, places.contexts(start, stop))
        upper += by_exponent + lowest
        upper <<= mode.n_leading
        upper |= source.symbols(leading, stop - start, by_exponent)
        words = upper.astype(word) << n_rest
        words |= source.bits(stop - start, n_rest - n_zeros).astype(word) << n_zeros
        yield words.view(np.uint8)


def write_planes(mode: Planes, counted: Counted, sink: Sink) -> None:
    """First and last value of each byte position; then the bytes."""
    supports = [cyclic_support(row) for row in counted.planes]
    for first, size in supports:
        sink.integer(first, 8)
        sink.integer((first + size - 1) % 256, 8)
    models = [
        sink.model(np.roll(row, -first)[None, :size])
        for row, (first, size) in zip(counted.planes, supports, strict=True)
    ]
    for _, _, words in pieces(counted.tensor):
        columns = words.view(np.uint8).reshape(-1, counted.width).T
        for column, model, (first, _) in zip(columns, models, supports, strict=True):
            sink.symbols(model, column - np.uint8(first))


def read_planes(mode: Planes, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes, piece by piece."""
    width = DTYPE_BYTES[tensor.dtype]
    supports = [(source.integer(8), source.integer(8)) for _ in range(width)]
    models = [source.model(tensor.n_elements, (last - first) % 256 + 1) for first, last in supports]
    for start, stop in spans(tensor):
        columns = np.empty((stop - start, width), np.uint8)
        for plane, (model, (first, _)) in enumerate(zip(models, supports, strict=True)):
            columns[:, plane] = (source.symbols(model, stop - start) + first) & 255
        yield columns.reshape(-1)


def write_values(mode: FewValues, counted: Counted, sink: Sink) -> None:
    """The codebook, labels, and the position of each element."""
    codebook, codes = counted.codebook, counted.codes
    assert codebook is not None
    assert codes is not None
    values = codebook.values
    sink.integer(values.size - 1, (CODEBOOK_VALUES - 1).bit_length())
    for low, high in itertools.pairwise([-1, *values.tolist()]):
        sink.delta(high - low)
    symbols_of = _positions(values, counted.width)
    places = Places.write(sink, codes.labels(mode.context), shape_of(counted.tensor))
    counts = codebook.counts[None]
    if places.n_contexts > 1:
        counts = places.count(counted.tensor, values.size, symbols_of)
    model = sink.model(counts)
    for start, stop, words in pieces(counted.tensor):
        sink.symbols(model, symbols_of(words), places.contexts(start, stop))


def _positions(values: Words, width: int) -> Callable[[Words], NDArray[np.integer]]:
    """Maps elements to their positions in a codebook: by a table where elements are short."""
    if width > 2:
        return lambda words: np.asarray(np.searchsorted(values, words))
    table = np.zeros(1 << 8 * width, np.int32)
    table[values] = np.arange(values.size)
    return lambda words: np.asarray(table.take(words))


def read_values(mode: FewValues, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes, piece by piece."""
    width = DTYPE_BYTES[tensor.dtype]
    n_values = 1 + source.integer((CODEBOOK_VALUES - 1).bit_length())
    codebook = list(itertools.accumulate((source.delta() for _ in range(n_values)), initial=-1))[1:]
    if codebook[-1] >= 1 << 8 * width:
        raise broken("a number is outside its range")
    values = np.array(codebook, WORDS[width])
    places = Places.read(source, mode.context, shape_of(tensor))
    model = source.model(tensor.n_elements, n_values, places.n_contexts)
    for start, stop in spans(tensor):
        yield values.take(source.symbols(model, stop - start, places.contexts(start, stop))).view(np.uint8)


def write_by_dtype(mode: ByDtype, counted: Counted, sink: Sink) -> None:
    """As the mode of the dtype."""
    if counted.layout is None:
        write_planes(Planes(), counted, sink)
    else:
        write_split(_OF_FLOATS, counted, sink)


def read_by_dtype(mode: ByDtype, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """As the mode of the dtype."""
    if tensor.dtype in FLOAT_LAYOUTS:
        yield from read_split(_OF_FLOATS, tensor, source)
    else:
        yield from read_planes(Planes(), tensor, source)
