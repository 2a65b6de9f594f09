"""Small sets of weights that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lm_bounds.weights import Tensor, Weights, distinct

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "F8_E4M3": "u1",
    "BOOL": "?",
}


def to_tensor(name: str, values: np.ndarray, dtype: str = "F32") -> Tensor:
    """Cast to the dtype; BF16 keeps the upper half of F32."""
    if dtype == "BF16":
        raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        raw = values.astype(DTYPES[dtype])
    flat = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
    return Tensor.of_bytes(name, dtype, values.shape, flat)


def to_weights(*tensors: Tensor, config: bytes = b'{"model_type":"test"}') -> Weights:
    kept, aliases = distinct(tensors)
    return Weights("test", kept, aliases, config)


@pytest.fixture
def tensor() -> Callable[..., Tensor]:
    return to_tensor


@pytest.fixture
def weights() -> Callable[..., Weights]:
    return to_weights


@pytest.fixture
def mixed() -> Weights:
    """Every kind of tensor: floats of three sizes, integers, a scalar, an empty one, a repeated one."""
    rng = np.random.default_rng(3)
    normal = rng.normal(0, 0.02, (16, 12))
    return to_weights(
        to_tensor("embed", normal),
        to_tensor("half", normal[:5], "F16"),
        to_tensor("brain", normal[:7], "BF16"),
        to_tensor("double", normal[:2], "F64"),
        to_tensor("codes", rng.integers(-4, 4, (3, 11)), "I8"),
        to_tensor("eighth", rng.integers(0, 256, (30,)), "F8_E4M3"),
        to_tensor("positions", np.arange(20), "I64"),
        to_tensor("packed", rng.integers(-(2**31), 2**31, (9,)), "I32"),
        to_tensor("mask", rng.integers(0, 2, (25,)), "BOOL"),
        to_tensor("scalar", np.array(1.5)),
        to_tensor("empty", np.zeros((0, 4))),
        to_tensor("norm", np.ones(16)),
        to_tensor("norm_again", np.ones(16)),
        config=b'{"hidden_size":12,"model_type":"test"}',
    )
