"""Where a model's numbers come from: files, the Hub, a loaded module, and what a prior model tells of them."""

from lm_bounds.weights.checkpoint import read_checkpoint
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.integrity.fingerprint import fingerprint
from lm_bounds.weights.integrity.loaded import LoadedCheck, check_loaded
from lm_bounds.weights.integrity.origin import Origin, checkpoint_directory, quantised_files, unchanged, weights_of
from lm_bounds.weights.integrity.structure import code_of
from lm_bounds.weights.integrity.unmeasured import check_unmeasured
from lm_bounds.weights.layouts import layout_of, packing_of, packings
from lm_bounds.weights.module import read_module
from lm_bounds.weights.prior.given import Given, relative, restore
from lm_bounds.weights.protocol import DENSE, Tensor, Weights, distinct
from lm_bounds.weights.safetensors_file import read_safetensors, serialise
from lm_bounds.weights.sources import read_source

__all__ = [
    "DENSE",
    "Given",
    "LoadedCheck",
    "Origin",
    "Tensor",
    "Weights",
    "canonical_config",
    "check_loaded",
    "check_unmeasured",
    "checkpoint_directory",
    "code_of",
    "distinct",
    "fingerprint",
    "layout_of",
    "packing_of",
    "packings",
    "quantised_files",
    "read_checkpoint",
    "read_module",
    "read_safetensors",
    "read_source",
    "relative",
    "restore",
    "serialise",
    "unchanged",
    "weights_of",
]
