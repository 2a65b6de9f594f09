"""Lossless measures of how many bits a set of weights needs."""

from lm_bounds.compressors.arithmetic import Arithmetic
from lm_bounds.compressors.best import Best
from lm_bounds.compressors.brotli import Brotli
from lm_bounds.compressors.bz2 import Bz2
from lm_bounds.compressors.gzip import Gzip
from lm_bounds.compressors.protocol import Compressor
from lm_bounds.compressors.registry import (
    COMPRESSORS,
    compressor_names,
    get_compressor,
    measure,
    measure_each,
    measure_given,
)
from lm_bounds.compressors.xz import Xz
from lm_bounds.compressors.zstd import Zstd

__all__ = [
    "COMPRESSORS",
    "Arithmetic",
    "Best",
    "Brotli",
    "Bz2",
    "Compressor",
    "Gzip",
    "Xz",
    "Zstd",
    "compressor_names",
    "get_compressor",
    "measure",
    "measure_each",
    "measure_given",
]
