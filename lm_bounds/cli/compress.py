"""``lm-bounds compress``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json, echo_table

if TYPE_CHECKING:
    from lm_bounds.codelength import CodeLength


@click.command()
@click.argument("model")
@click.option("--compressor", default="arithmetic", show_default=True, help="arithmetic, gzip, or 'all'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole ledger.")
def compress(model: str, compressor: str, as_json: bool) -> None:
    """Measure the size of MODEL in bits.

    MODEL is the directory of a checkpoint or one .safetensors file. Tied and identical tensors count once, the
    configuration counts, the tokenizer does not.
    """
    from lm_bounds.compressors import compressor_names, get_compressor, measure
    from lm_bounds.weights import read_checkpoint

    names = compressor_names() if compressor == "all" else (get_compressor(compressor).name,)
    weights = read_checkpoint(model)
    lengths = [measure(weights, name) for name in names]
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
