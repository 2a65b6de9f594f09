"""``lm-bounds verify``."""

from __future__ import annotations

from pathlib import Path

import click

from lm_bounds.cli.output import echo_json


@click.command()
@click.argument("certificates", nargs=-1, required=True, metavar="CERTIFICATE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(certificates: tuple[str, ...], as_json: bool) -> int:
    """Recompute certificates from what is stored in them, with numpy alone.

    CERTIFICATE is a certificate file, or a folder: then every certificate below it.

    Proves arithmetic and integrity, not that the observations were made honestly. Exit code 3 when anything does not
    hold.
    """
    from lm_bounds.certificates import verify as verify_certificate

    found = [verify_certificate(path) for path in _expanded(certificates)]
    if as_json:
        echo_json(
            [
                {"certificate": str(one.path), "ok": one.ok, "bound": one.bound, "failures": list(one.failures)}
                for one in found
            ]
        )
    for one in found:
        if not as_json and one.ok:
            click.echo(f"{one.path}: holds. {one.claim}")
        for failure in one.failures:
            click.echo(f"Error: {one.path}: {failure}", err=True)
    return 0 if all(one.ok for one in found) else 3


def _expanded(given: tuple[str, ...]) -> list[Path]:
    """The files, folders replaced by the certificates below them, observations left out."""
    from lm_bounds.errors import UsageError

    paths = [path for name in given for path in (sorted(Path(name).rglob("*_bound.json")) or [Path(name)])]
    kept = [path for path in paths if path.suffix != ".npz"]
    if not kept:
        raise UsageError("only observations were named: name the certificates beside them, or their folder")
    return kept
