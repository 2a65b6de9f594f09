"""``lm-bounds compress``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.errors import UsageError

if TYPE_CHECKING:
    from lm_bounds.codelength import CodeLength
    from lm_bounds.compressors import Compressor
    from lm_bounds.compressors.registry import OnBytes
    from lm_bounds.weights import Given, Weights

_COMPRESSOR_HELP = "arithmetic, best, gzip, zstd, xz, bz2, brotli, an installed one, or 'all'."
_GIVEN_HELP = "A model whose weights were fixed before the corpus, in the forms of MODEL: only what differs counts."
_PROGRESS_AFTER_S = 1


@click.command()
@click.argument("model")
@click.option("--compressor", default="arithmetic", show_default=True, help=_COMPRESSOR_HELP)
@click.option("--given", "prior", metavar="PRIOR", help=_GIVEN_HELP)
@click.option("--pack", type=click.Path(), help="Also write FILE.lmb, of that size; `unpack` restores the model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole ledger.")
def compress(model: str, compressor: str, prior: str | None, pack: str | None, as_json: bool) -> None:
    """Measure the size of MODEL in bits.

    MODEL is the directory of a checkpoint, one .safetensors, .gguf or packed .lmb file, a Hub id with or without
    @REVISION, a base and its adapter as BASE,peft=ADAPTER, or the name of a model that comes with the package. Tied and
    identical tensors count once, the configuration counts, the tokenizer does not.
    """
    from lm_bounds.compressors import get_compressor, measure_each
    from lm_bounds.compressors.container import pack as write_packed
    from lm_bounds.compressors.container import packing_compressor, read_model
    from lm_bounds.weights import DENSE

    if pack is not None:
        packing_compressor(compressor)
        if prior is not None:
            raise UsageError("--pack holds a whole model, and --given measures a part of one: pass one of them")
    compressors = _all_compressors() if compressor == "all" else [get_compressor(compressor)]
    weights = read_model(model)
    before = None if prior is None else read_model(prior)
    n_compared = 0 if before is None else weights.stored_bytes + before.stored_bytes
    # Given a prior, what is left to code is known after the comparison: at most as many bytes as are stored.
    n_passes = 1 + len(compressors) + (pack is not None)
    with progress_bar(n_compared + weights.stored_bytes * n_passes) as on_bytes:
        given = None if before is None else _compared(weights, before, on_bytes)
        lengths = measure_each(weights, compressors, on_bytes, given)
        packed_bytes = None if pack is None else write_packed(weights, compressor, pack, on_bytes)
    first = lengths[0]
    if as_json:
        packed = {"file": pack, "bytes": packed_bytes, "reported_bits": first.bits}
        report = _report(model, weights, lengths, given, before)
        echo_json(report | ({"packed": packed} if pack else {}))
        return
    size = f"{first.n_parameters:,} parameters in {first.n_tensors} tensors"
    click.echo(f"{weights.source}: {size}, sha256 {first.sha256}")
    if weights.layout != DENSE:
        click.echo(f"layout: {weights.layout}")
    if given is not None and before is not None:
        click.echo(
            f"given {before.source} (sha256 {given.prior_sha256}): {given.n_identical} tensors identical,"
            f" {given.n_differ} differ, {given.n_new} new"
        )
    echo_table(
        ("compressor", "bits", "bits/parameter", "ratio to stored", "seconds", "MB/s"),
        [_row(length) for length in lengths],
    )
    if pack is not None:
        bits = first.bits
        click.echo(f"packed {pack}: {packed_bytes:,} bytes; reported {bits:,.0f} bits = {bits / 8:,.0f} bytes")


def _row(length: CodeLength) -> tuple[str, ...]:
    return (
        length.compressor,
        f"{length.bits:,.0f}",
        f"{length.bits_per_parameter:.3f}",
        f"{length.ratio_to_stored:.3f}",
        f"{length.seconds:.2f}",
        f"{length.stored_bytes / 1e6 / max(length.seconds, 1e-9):.1f}",
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


def _compared(weights: Weights, prior: Weights, on_bytes: OnBytes) -> Given:
    from lm_bounds.weights import relative
    from lm_bounds.weights.watched import watched

    report = partial(on_bytes, "comparing")
    return relative(watched(weights, report), watched(prior, report))


@contextmanager
def progress_bar(n_bytes: int) -> Iterator[OnBytes]:
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


def _report(
    model: str, weights: Weights, lengths: list[CodeLength], given: Given | None, prior: Weights | None
) -> dict[str, Any]:
    best = min(lengths, key=lambda length: length.bits)
    return {
        "model": model,
        "source": weights.source,
        "parameters": best.n_parameters,
        "tensors": best.n_tensors,
        "sha256": best.sha256,
        "layout": weights.layout,
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
        "given": None
        if given is None or prior is None
        else {
            "source": prior.source,
            "sha256": given.prior_sha256,
            "tensors_identical": given.n_identical,
            "tensors_differ": given.n_differ,
            "tensors_coded_as_differences": given.n_differences,
            "tensors_new": given.n_new,
        },
    }
