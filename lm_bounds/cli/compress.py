"""``lm-bounds compress``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.errors import UsageError

if TYPE_CHECKING:
    from lm_bounds.codelength import CodeLength
    from lm_bounds.compressors import Compressor
    from lm_bounds.compressors.registry import OnBytes

_COMPRESSOR_HELP = "arithmetic, best, gzip, zstd, xz, bz2, brotli, an installed one, or 'all'."
_PROGRESS_AFTER_S = 1


@click.command()
@click.argument("model")
@click.option("--compressor", default="arithmetic", show_default=True, help=_COMPRESSOR_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole ledger.")
def compress(model: str, compressor: str, as_json: bool) -> None:
    """Measure the size of MODEL in bits.

    MODEL is the directory of a checkpoint or one .safetensors file. Tied and identical tensors count once, the
    configuration counts, the tokenizer does not.
    """
    from lm_bounds.compressors import get_compressor, measure_each
    from lm_bounds.weights import read_checkpoint

    compressors = _all_compressors() if compressor == "all" else [get_compressor(compressor)]
    weights = read_checkpoint(model)
    with _progress(weights.stored_bytes * (1 + len(compressors))) as on_bytes:
        lengths = measure_each(weights, compressors, on_bytes)
    if as_json:
        echo_json(_report(model, lengths))
        return
    first = lengths[0]
    click.echo(f"{model}: {first.n_parameters:,} parameters in {first.n_tensors} tensors, sha256 {first.sha256}")
    echo_table(
        ("compressor", "bits", "bits/parameter", "ratio to stored", "seconds", "MB/s"),
        [
            (
                length.compressor,
                f"{length.bits:,.0f}",
                f"{length.bits_per_parameter:.3f}",
                f"{length.ratio_to_stored:.3f}",
                f"{length.seconds:.2f}",
                f"{length.stored_bytes / 1e6 / max(length.seconds, 1e-9):.1f}",
            )
            for length in lengths
        ],
    )


def _all_compressors() -> list[Compressor]:
    """Every compressor that there is, without those that lack their library, which are named."""
    from lm_bounds.compressors import compressor_names, get_compressor

    found = []
    for name in compressor_names():
        try:
            found.append(get_compressor(name))
        except UsageError as error:
            click.echo(f"left out: {error}", err=True)
    return found


@contextmanager
def _progress(n_bytes: int) -> Iterator[OnBytes]:
    """A bar on a terminal, where it takes longer than a second."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    hidden = not sys.stderr.isatty()
    delay = _PROGRESS_AFTER_S
    with tqdm(
        total=n_bytes, unit="B", unit_scale=True, file=sys.stderr, disable=hidden, delay=delay, leave=False
    ) as bar:

        def advance(activity: str, n_more: int) -> None:
            bar.set_description(activity, refresh=False)
            bar.update(n_more)

        yield advance


def _report(model: str, lengths: list[CodeLength]) -> dict[str, Any]:
    best = min(lengths, key=lambda length: length.bits)
    return {
        "model": model,
        "parameters": best.n_parameters,
        "tensors": best.n_tensors,
        "sha256": best.sha256,
        "results": [
            {
                "compressor": length.compressor,
                "version": length.version,
                "bits": length.bits,
                "bits_per_parameter": length.bits_per_parameter,
                "ratio_to_stored": length.ratio_to_stored,
                "seconds": length.seconds,
                "exact": length.exact,
                "ledger": [asdict(entry) for entry in length.ledger],
            }
            for length in lengths
        ],
        "best": best.compressor,
    }
