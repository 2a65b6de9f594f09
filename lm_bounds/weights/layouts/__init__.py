"""How quantised checkpoints lay out their codes, a file for each family."""

from lm_bounds.weights.layouts.protocol import Layout, Misfit
from lm_bounds.weights.layouts.registry import LAYOUTS, layout_of, packing_of, packings, with_layout

__all__ = ["LAYOUTS", "Layout", "Misfit", "layout_of", "packing_of", "packings", "with_layout"]
