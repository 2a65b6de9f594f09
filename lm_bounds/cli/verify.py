"""``lm-bounds verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json

if TYPE_CHECKING:
    from lm_bounds.certificates import Verification
    from lm_bounds.tasks.deep import DeepVerification


@click.command()
@click.argument("certificates", nargs=-1, required=True, metavar="CERTIFICATE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--deep", is_flag=True, help="Load model and corpus again, and measure again what is stated.")
@click.option("--model_args", "--model-args", help="With --deep: of lm_eval's hf, over what the certificate says.")
@click.option("--corpus_path", "--corpus-path", help="With --deep: where the corpus is now.")
@click.option("--device", help="With --deep: cpu, cuda, ...  [default: the certificate's]")
@click.option("--batch_size", "--batch-size", help="With --deep: windows of a pass.  [default: the certificate's]")
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="With --deep: of the windows, how many are scored again, at least 10.  [default: 0.1]",
)
def verify(certificates: tuple[str, ...], as_json: bool, deep: bool, share: float | None, **places: str | None) -> int:
    """Recompute certificates from what is stored in them, with numpy alone.

    CERTIFICATE is a certificate file, or a folder: then every certificate below it.

    Proves arithmetic and integrity, not that the observations were made honestly. With --deep, the model and the corpus
    are loaded from where the certificate says: weights, code length, corpus and draws have to be those that are stated,
    and a random share of the windows is scored again. Exit code 3 when anything does not hold.
    """
    from lm_bounds.certificates import verify as verify_certificate

    _check_options(deep, {"share": share, **places})
    found = [verify_certificate(path) for path in _expanded(certificates)]
    if not as_json:
        _echo(found)
    measured = _measured_again([one.path for one in found if one.ok], places, share) if deep else []
    if as_json:
        echo_json([_fields(one, _of(one.path, measured), deep) for one in found])
        _echo_failures(found)
    for run in measured:
        _echo_deep(run, as_json)
    return 0 if all(one.ok for one in found) and all(run.ok for run in measured) else 3


def _check_options(deep: bool, options: dict[str, Any]) -> None:
    from lm_bounds.errors import UsageError

    given = [name for name, value in options.items() if value is not None]
    if given and not deep:
        raise UsageError(f"--{given[0]} goes with --deep: add --deep, or leave it out")


def _measured_again(paths: list[Path], places: dict[str, str | None], share: float | None) -> list[DeepVerification]:
    from lm_bounds.tasks.deep import SHARE, verify_deep
    from lm_bounds.tasks.progress import progress_report
    from lm_bounds.tasks.reload import Places

    return verify_deep(paths, Places(**places), SHARE if share is None else share, progress_report())


def _of(path: Path, measured: Sequence[DeepVerification]) -> DeepVerification | None:
    return next((run for run in measured if path in run.paths), None)


def _fields(one: Verification, run: DeepVerification | None, deep: bool) -> dict[str, Any]:
    fields = {"certificate": str(one.path), "ok": one.ok, "bound": one.bound, "failures": list(one.failures)}
    if not deep:
        return fields
    if run is None:
        return {**fields, "deep": None}
    fields["ok"] = run.ok
    fields["failures"] = [str(check) for check in run.checks if not check.ok]
    checks = {check.name: {"ok": check.ok, "detail": check.detail, **check.values} for check in run.checks}
    return {**fields, "deep": checks}


def _echo(found: Sequence[Verification]) -> None:
    for one in found:
        if one.ok:
            click.echo(f"{one.path}: holds. {one.claim}")
    _echo_failures(found)


def _echo_failures(found: Sequence[Verification]) -> None:
    for one in found:
        for failure in one.failures:
            click.echo(f"Error: {one.path}: {failure}", err=True)


def _echo_deep(run: DeepVerification, as_json: bool) -> None:
    folder = run.paths[0].parent
    if not as_json:
        names = ", ".join(path.name for path in run.paths)
        click.echo(f"{folder}: measured again for {names}")
    for check in run.checks:
        if not check.ok:
            click.echo(f"Error: {folder}: {check}", err=True)
        elif not as_json:
            click.echo(str(check))


def _expanded(given: tuple[str, ...]) -> list[Path]:
    """The files, folders replaced by the certificates below them, observations left out."""
    from lm_bounds.errors import UsageError

    paths = [path for name in given for path in (sorted(Path(name).rglob("*_bound.json")) or [Path(name)])]
    kept = [path for path in paths if path.suffix != ".npz"]
    for path in kept:
        if path.is_dir():
            raise UsageError(f"{path} has no certificate in it: name a folder that has, or a certificate file")
    if not kept:
        raise UsageError("only observations were named: name the certificates beside them, or their folder")
    return kept
