"""``lm-bounds run``."""

from __future__ import annotations

from typing import Any

import click

from lm_bounds.cli.output import echo_table
from lm_bounds.errors import UsageError


def _metadata_options(command: Any) -> Any:
    options = (
        click.option(
            "--corpus_path", "--corpus-path", help="Text, .jsonl, tokens, data units, a folder or URL of them, or YAML."
        ),
        click.option("--corpus", metavar="ID", help="Registered corpus on which the tasks local_... are run."),
        click.option("--windows", type=int, help="Certifying windows.  [default: 1000]"),
        click.option("--pilot", type=int, help="Windows of the pilot.  [default: max(64, windows/10)]"),
        click.option("--context", type=int, help="Scored tokens of a window.  [default: min(1024, model's)]"),
        click.option("--failure_prob", "--failure-prob", type=float, help="delta.  [default: 0.05]"),
        click.option("--family_wise", "--family-wise", help="Divide delta by the corpus' metrics.  [default: true]"),
        click.option("--method", help="kl_inf, freedman, azuma, azuma_lambda, paper or best.  [default: kl_inf]"),
        click.option("--smoothing", help="global or entropy.  [default: global; under best, either]"),
        click.option("--unit", help="What is observed of a draw: window or token.  [default: window]"),
        click.option("--upper", help="Of the sample: kl_inf, hoeffding or bernstein.  [default: kl_inf]"),
        click.option("--compressor", help="arithmetic, best, gzip, zstd, xz, bz2, brotli, ...  [default: arithmetic]"),
        click.option(
            "--given", metavar="MODEL", help="Model that was fixed before the corpus: only what differs counts."
        ),
        click.option("--code_bits", "--code-bits", type=float, help="Declared size of the weights, not measured."),
        click.option("--artifact", help="File that holds the model: its size counts."),
        click.option("--draw_seed", "--draw-seed", type=int, help="Seed of all draws.  [default: 1234]"),
        click.option("--shared_draws", "--shared-draws", type=int, help="Models that share the draws.  [default: 1]"),
        click.option("--certificates", help="Directory for certificates.  [default: --output_path]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


# what of lm_eval's own options goes with --extend
_EXTENSION = click.Command(
    "run --extend",
    params=[
        click.Option(["--model", "-M"]),
        click.Option(["--model_args", "-a"], multiple=True),
        click.Option(["--output_path", "-o"]),
        click.Option(["--batch_size", "-b"]),
        click.Option(["--device"]),
    ],
    add_help_option=False,
)
_KEPT = "a run keeps all its choices when windows are added"


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--extend", metavar="CERTIFICATE", help="Add --windows to the run of this certificate.")
@_metadata_options
@click.pass_context
def run(parsed: click.Context, /, extend: str | None, **metadata: Any) -> None:
    """Run lm_eval with bound tasks; takes every option of `lm_eval run` besides these.

    With --extend, --windows are added to a run that is over: its windows are kept, and nothing is chosen again. Of the
    other options it takes --model_args, --corpus_path, --device, --batch_size, --output_path and --certificates.

    \b
    Example:
      lm-bounds run --model hf --model_args pretrained=DIR --tasks local_bounds --corpus_path book.txt
      lm-bounds run --extend CERTIFICATE --windows 1000
    """
    given = {name: value for name, value in metadata.items() if value is not None}
    if extend is not None:
        _extend(extend, given, parsed.args)
        return
    from lm_bounds.tasks.harness import run_harness

    run_harness(parsed.args, given)


def _extend(path: str, metadata: dict[str, Any], arguments: list[str]) -> None:
    from lm_bounds.certificates.claim import rounded_up
    from lm_bounds.tasks.extend import extend_run
    from lm_bounds.tasks.progress import progress_report
    from lm_bounds.tasks.reload import Places

    options = _extension_options(metadata, arguments)
    folder = metadata.get("certificates") or (options["output_path"] or "").removesuffix(".json") or None
    model_args = ",".join(options["model_args"]) or None
    places = Places(model_args, metadata.get("corpus_path"), options["device"], options["batch_size"])
    extension = extend_run(path, metadata["windows"], folder, places, progress_report())
    if extension.n_added < extension.n_asked:
        left = f"{extension.n_added} {extension.unit}s were left in the corpus, {extension.n_asked} were asked for"
        click.echo(f"{left}: now each is scored", err=True)
    for certificate in extension.new:
        click.echo(f"certificate: {certificate.path}", err=True)
    echo_table(
        ("metric", "old bound", "new bound", "old windows", "new windows"),
        [
            (
                new.metric,
                *(rounded_up(each.bound) for each in (old, new)),
                *(f"{each.fields['sample']['windows']:,}" for each in (old, new)),
            )
            for old, new in zip(extension.old, extension.new, strict=True)
        ],
    )


def _extension_options(metadata: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The options of lm_eval that were given with --extend.

    Raises:
        UsageError: for an option that would choose something again, by name, or no number of windows.
    """
    from lm_bounds.tasks.harness import HF_BACKENDS

    for name in metadata:
        if name not in ("windows", "certificates", "corpus_path"):
            raise UsageError(f"--{name} does not go with --extend: {_KEPT}")
    try:
        options = _EXTENSION.make_context("lm-bounds run --extend", list(arguments)).params
    except click.NoSuchOption as error:
        raise UsageError(f"{error.option_name} does not go with --extend: {_KEPT}") from error
    if options["model"] not in (None, *HF_BACKENDS):
        raise UsageError(f"--model {options['model']} does not go with --extend: windows are added with --model hf")
    if "windows" not in metadata:
        raise UsageError("--extend needs the number of windows to add: pass --windows N")
    return options
