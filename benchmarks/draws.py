"""How long uniform draws take from corpora that are never read as a whole, and how much memory.

10,000 draws from 600 GB of token ids, a sparse file in the shape of the Pile in Pythia's order; and 1,000 draws from
rows of ids in lines of JSON, by this package (with and without the one count that it makes of a corpus) and the obvious
way: looking for the offset of every line first.

    python benchmarks/draws.py [--quick] [--json]

Each is measured in a process of its own. The files are temporary ones; 2 GB are written, with --quick 0.2 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.flat_tokens import FlatTokens, token_files
from lm_bounds.corpora.flat_tokens.documents import FoundDocuments
from lm_bounds.corpora.flat_tokens.stream import Rows, TokenSequence
from lm_bounds.corpora.slots import RowFormat, open_token_rows
from lm_bounds.sampling import draw_windows, stream_seed

FLAT_ROWS = 146_432_000  # of 2,049 ids of 2 bytes: 600 GB
CONTEXT, N_FLAT, N_LINES = 2_048, 10_000, 1_000
SEED = stream_seed("certify", "benchmark")


def flat(folder: Path) -> None:
    """Draws from one long file of ids, and reads every window."""
    source = open_bytes(str(folder / "ids.bin"), folder / "cache")
    sequence = TokenSequence(token_files(source, np.dtype("<u2")), Rows(2049, 2048, 1))
    corpus = FlatTokens("flat", sequence, FoundDocuments(sequence, 1, 2048), "-", 1, 50_277)
    windows = draw_windows(corpus, N_FLAT, CONTEXT, SEED)
    for start, stop in zip(windows.start.tolist(), windows.stop.tolist(), strict=True):
        corpus.read(start, stop)


def lines(folder: Path) -> None:
    """Draws from lines by their bytes; the count of the corpus is kept, and made where there is none yet."""
    source = open_bytes(str(folder / "rows.jsonl"), folder / "cache")
    corpus = open_token_rows(
        "lines",
        source,
        RowFormat(2049, 2048, 1, "token_ids"),
        n_entries=32_000,
        tokenizer_hash="-",
        end_of_text_id=2,
        n_ids=32_000,
        cache_dir=folder / "cache",
        declared=None,
    )
    windows = draw_windows(corpus, N_LINES, CONTEXT, SEED)
    for start, stop in zip(windows.start.tolist(), windows.stop.tolist(), strict=True):
        corpus.read(start, stop)


def offsets(folder: Path) -> None:
    """The obvious way: the offsets of all lines, then uniform lines."""
    with (folder / "rows.jsonl").open("rb") as stream:
        starts = [0]
        for line in stream:
            starts.append(starts[-1] + len(line))
        for number in np.random.default_rng(0).integers(len(starts) - 1, size=N_LINES).tolist():
            stream.seek(starts[number])
            json.loads(stream.readline())


def _measure(function: Callable[[Path], None], folder: Path) -> dict[str, float]:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    function(folder)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 1e6}


def measured(function: Callable[[Path], None], folder: Path) -> dict[str, float]:
    """Seconds, and MB of memory beyond those of the imports, in a new process; it starts with the peak of this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, function, folder).result()


def write_files(n_bytes: int, folder: Path) -> None:
    """A sparse file of ids, and rows in lines of JSON."""
    with (folder / "ids.bin").open("wb") as stream:
        stream.truncate(FLAT_ROWS * 2049 * 2)
    generator = np.random.default_rng(0)
    divisors = generator.choice([1, 1, 1, 10, 100], size=(2000, 2049))
    ids = generator.integers(0, 32_000, size=(2000, 2049)) // divisors
    some = b"".join(json.dumps({"token_ids": each, "source": "web"}).encode() + b"\n" for each in ids.tolist())
    with (folder / "rows.jsonl").open("wb") as stream:
        for _ in range(-(-n_bytes // len(some))):
            stream.write(some)


def main() -> None:
    """Measures all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the lines")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(partial(write_files, 200_000_000 if options.quick else 2_000_000_000), folder)
        sizes = {path.name: path.stat().st_size / 1e9 for path in folder.iterdir()}
        steps = [("ids", flat), ("lines, counted first", lines), ("lines", lines), ("offsets of all lines", offsets)]
        rows = {title: measured(function, folder) for title, function in steps}
    if options.json:
        print(json.dumps({"gigabytes": sizes, "measured": rows}, indent=1))
        return
    for title, row in rows.items():
        size, n = (sizes["ids.bin"], N_FLAT) if title == "ids" else (sizes["rows.jsonl"], N_LINES)
        print(f"{title:>20}: {n:>6,} draws from {size:5.1f} GB, {row['seconds']:6.2f} s, {row['mb']:6.1f} MB")


if __name__ == "__main__":
    main()
