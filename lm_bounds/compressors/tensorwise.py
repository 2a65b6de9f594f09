"""What the compressors share that code one tensor after another with an arithmetic coder."""

from __future__ import annotations

import json
import math
import zlib
from typing import ClassVar

from lm_bounds.codelength.integers import elias_delta_bits
from lm_bounds.codelength.ledger import LedgerItem
from lm_bounds.compressors.histogram import use_torch
from lm_bounds.compressors.modes import Mode, shortest
from lm_bounds.weights.parallel import in_parallel
from lm_bounds.weights.protocol import Tensor, Weights

_ZLIB_LEVEL = 9
_TERMINATION_BITS = 2.0
_BYTE_BITS = 8


class TensorCompressor:
    """Adaptive arithmetic coding of every tensor, measured in closed form.

    Configuration and schema are deflated, each preceded by the Elias delta code of its length; one arithmetic-code
    stream holds all tensors. Its length is below ``ceil(-log2 P) + 2`` bits, ``P`` the product of the probabilities
    that the models assign: two bits end the stream, and each tensor is rounded up to whole bits. Each tensor names its
    mode in ``mode_bits`` bits.

    Reference: R. Krichevsky and V. Trofimov, "The performance of universal encoding", IEEE Trans. Inf. Theory
    27(2), 1981, for the estimator; I. Witten, R. Neal and J. Cleary, "Arithmetic coding for data
    compression", Commun. ACM 30(6), 1987, for the coder.
    """

    name: str
    exact = True
    models: ClassVar[str]
    modes: ClassVar[tuple[Mode, ...]]
    mode_bits: ClassVar[int]

    def version(self) -> str:
        """The models, and the zlib build that the configuration and the schema depend on."""
        return f"{self.models}; zlib {zlib.ZLIB_RUNTIME_VERSION}, level {_ZLIB_LEVEL}"

    def ledger(self, weights: Weights) -> tuple[LedgerItem, ...]:
        """``config.json``, ``schema``, one item per tensor under the tensor's name, ``coder termination``."""
        use_torch(weights.stored_bytes)
        lengths = in_parallel(self.tensor_bits, weights.tensors)
        return (
            LedgerItem("config.json", _deflated_bits(weights.config)),
            LedgerItem("schema", _deflated_bits(schema(weights))),
            *(
                LedgerItem(tensor.name, float(math.ceil(bits)))
                for tensor, bits in zip(weights.tensors, lengths, strict=True)
            ),
            LedgerItem("coder termination", _TERMINATION_BITS),
        )

    def tensor_bits(self, tensor: Tensor) -> float:
        """The number of the mode and the shortest mode's code, in bits, before rounding up."""
        _, length = shortest(tensor, self.modes)
        return self.mode_bits + length


def schema(weights: Weights) -> bytes:
    """Names, dtypes and shapes in order, and the aliases, as compact JSON.

    >>> import numpy as np
    >>> schema(Weights("example", (Tensor.of_bytes("w", "F32", (2, 3), np.zeros(24, np.uint8)),)))
    b'{"tensors":[["w","F32",[2,3]]],"aliases":[]}'
    """
    table = {
        "tensors": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in weights.tensors],
        "aliases": [list(alias) for alias in weights.aliases],
    }
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()


def _deflated_bits(content: bytes) -> float:
    """Deflated size in bits, with the Elias delta code of the number of bytes plus one, so that 0 has one."""
    n_bytes = len(zlib.compress(content, _ZLIB_LEVEL))
    return float(_BYTE_BITS * n_bytes + elias_delta_bits(n_bytes + 1))
