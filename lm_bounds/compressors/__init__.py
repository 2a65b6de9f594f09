"""Lossless measures of how many bits a set of weights needs."""

from lm_bounds.compressors.arithmetic import Arithmetic
from lm_bounds.compressors.gzip import Gzip
from lm_bounds.compressors.protocol import Compressor
from lm_bounds.compressors.registry import COMPRESSORS, compressor_names, get_compressor, measure

__all__ = [
    "COMPRESSORS",
    "Arithmetic",
    "Compressor",
    "Gzip",
    "compressor_names",
    "get_compressor",
    "measure",
]
