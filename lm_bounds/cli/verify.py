"""``lm-bounds verify``."""

from __future__ import annotations

import click

from lm_bounds.cli.output import echo_json


@click.command()
@click.argument("certificates", nargs=-1, required=True, metavar="CERTIFICATE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(certificates: tuple[str, ...], as_json: bool) -> int:
    """Recompute certificates from what is stored in them, with numpy alone.

    Proves arithmetic and integrity, not that the observations were made honestly. Exit code 3 when anything does not
    hold.
    """
    from lm_bounds.certificates import verify as verify_certificate

    found = [verify_certificate(path) for path in certificates]
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
