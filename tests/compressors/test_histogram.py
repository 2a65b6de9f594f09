"""Both ways to count, and the same sizes with any number of threads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lm_bounds.compressors import Arithmetic, Best
from lm_bounds.compressors.histogram import histogram
from lm_bounds.weights import Weights

WITHOUT_TORCH = """
import sys
import numpy as np
from lm_bounds.compressors.histogram import histogram
symbols = (np.arange(1000, dtype="<u2") ** 2) % 997
print(*histogram(symbols.reshape(10, 100), 1000))
assert "torch" not in sys.modules
"""


def test_torch_counts_as_numpy_does() -> None:
    symbols = (np.arange(1000, dtype="<u2") ** 2) % 997
    __import__("torch")
    counted = histogram(symbols.reshape(10, 100), 1000)
    apart = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True).stdout
    assert counted.tolist() == list(map(int, apart.split()))
    assert counted.sum() == 1000
    assert histogram(np.empty(0, np.uint8), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("compressor", [Arithmetic(), Best()], ids=lambda each: each.name)
def test_threads_change_nothing(compressor: Arithmetic | Best, mixed: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers, hashes = set(), set()
    for threads in (1, 2, 7):
        monkeypatch.setattr("lm_bounds.weights.parallel.n_processors", lambda threads=threads: threads)
        ledgers.add(compressor.ledger(mixed))
        hashes.add(Weights(mixed.source, mixed.tensors, mixed.aliases, mixed.config).sha256())
    assert len(ledgers) == len(hashes) == 1
