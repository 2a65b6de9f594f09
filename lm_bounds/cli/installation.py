"""``lm-bounds doctor`` and ``lm-bounds tasks-path``."""

from __future__ import annotations

from dataclasses import asdict

import click

from lm_bounds.cli.output import echo_json


@click.command()
@click.option("--fix", "mend", is_flag=True, help="Mend what can be mended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(mend: bool, as_json: bool) -> int:
    """Check that lm-eval finds the tasks of this package."""
    from lm_bounds.doctor import diagnose, fix

    done = fix() if mend else []
    diagnosis = diagnose()
    if as_json:
        echo_json({"ok": diagnosis.ok, "done": done, "checks": [asdict(check) for check in diagnosis.checks]})
    else:
        for line in done:
            click.echo(f"mended: {line}")
        for check in diagnosis.checks:
            click.echo(f"{'ok ' if check.ok else 'BAD'} {check.name}: {check.detail}")
            if not check.ok and check.fix:
                click.echo(f"    {check.fix}")
    return 0 if diagnosis.ok else 1


@click.command(name="tasks-path")
def tasks_path() -> None:
    """Print the folder of the task files, for lm_eval's --include_path."""
    from lm_bounds.doctor import tasks_path as folder

    click.echo(folder())
