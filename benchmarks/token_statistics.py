"""Token statistics in row chunks against the obvious way: log_softmax of all logits, an argsort for the rank.

    python benchmarks/token_statistics.py [--quick] [--json]

Prints seconds and the largest additional memory of each, on the same logits in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lm_bounds.scoring import token_statistics


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes; views of the logits are not made.

    Args:
        logits: what is there already.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.n_bytes, self._given = 0, logits.untyped_storage().data_ptr()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = operation(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self._given:
                self.n_bytes = max(self.n_bytes, tensor.numel() * tensor.element_size())
        return result


def chunked(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """What this package does."""
    token_statistics(logits, targets, [logits.shape[1]] * logits.shape[0])


def log_softmax(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Log-probability, entropy, largest probability and rank from one log_softmax."""
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    log_probabilities.gather(-1, targets[..., None])
    probabilities = log_probabilities.exp()
    -(probabilities * log_probabilities).sum(dim=-1)
    probabilities.amax(dim=-1)
    (logits.argsort(dim=-1, descending=True) == targets[..., None]).int().argmax(dim=-1)


def measured(function: Callable[[torch.Tensor, torch.Tensor], None], logits: torch.Tensor, repeats: int) -> list[float]:
    """Median seconds, and MB of the largest tensor made on the way."""
    targets = torch.randint(logits.shape[-1], logits.shape[:2])
    with LargestTensor(logits) as largest:
        function(logits, targets)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function(logits, targets)
        seconds.append(time.perf_counter() - started)
    return [sorted(seconds)[repeats // 2], largest.n_bytes / 1e6]


def main() -> None:
    """Measures both for two vocabularies and two number formats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    for vocab_size in (32_000, 128_256):
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            logits = torch.randn(1 if options.quick else 4, 128, vocab_size).to(dtype)
            repeats = 3 if options.quick else 5
            row = {
                "vocab_size": vocab_size,
                "dtype": str(dtype).removeprefix("torch."),
                "logits_mb": logits.nbytes / 1e6,
            }
            for function in (chunked, log_softmax):
                row[f"{function.__name__}_s"], row[f"{function.__name__}_mb"] = measured(function, logits, repeats)
            rows.append(row)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            f"V={row['vocab_size']:>7} {row['dtype']:>8}, logits {row['logits_mb']:.0f} MB: "
            f"chunked {row['chunked_s']:.3f} s, {row['chunked_mb']:.0f} MB; "
            f"log_softmax {row['log_softmax_s']:.3f} s, {row['log_softmax_mb']:.0f} MB; "
            f"{row['log_softmax_s'] / row['chunked_s']:.1f} times faster"
        )


if __name__ == "__main__":
    main()
