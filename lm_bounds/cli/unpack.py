"""``lm-bounds unpack``."""

from __future__ import annotations

import click

from lm_bounds.cli.compress import progress_bar
from lm_bounds.cli.output import echo_json


@click.command()
@click.argument("file", type=click.Path())
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--max-bytes",
    type=click.IntRange(0),
    help="Refuse more bytes of tensors; without it 2000 times the file's size, 1 GiB at least.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def unpack(file: str, folder: str, max_bytes: int | None, as_json: bool) -> None:
    """Restore the model that `lm-bounds compress MODEL --pack FILE` has packed.

    DIR gets model.safetensors, in shards where it is large, and config.json. Every tensor is what it was, bit for bit:
    DIR appears when the SHA-256 in FILE has been found right. The tokenizer is not part of FILE.
    """
    from lm_bounds.compressors.container import unpack as restore
    from lm_bounds.compressors.container import unpacked_bytes

    with progress_bar(unpacked_bytes(file)) as on_bytes:
        done = restore(file, folder, max_bytes, on_bytes)
    if as_json:
        report = {"tensors": done.n_tensors, "bytes": done.stored_bytes, "sha256": done.sha256}
        echo_json({"file": file, "folder": folder, **report})
        return
    click.echo(f"{folder}: {done.n_tensors} tensors, {done.stored_bytes:,} bytes, sha256 {done.sha256}")
