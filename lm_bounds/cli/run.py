"""``lm-bounds run``."""

from __future__ import annotations

from typing import Any

import click


def _metadata_options(command: Any) -> Any:
    options = (
        click.option("--corpus_path", "--corpus-path", help="Text file, folder of them, .jsonl or token .bin file."),
        click.option("--windows", type=int, help="Certifying windows.  [default: 1000]"),
        click.option("--pilot", type=int, help="Windows of the pilot.  [default: max(64, windows/10)]"),
        click.option("--context", type=int, help="Scored tokens of a window.  [default: min(1024, model's)]"),
        click.option("--failure_prob", "--failure-prob", type=float, help="delta.  [default: 0.05]"),
        click.option("--family_wise", "--family-wise", help="Divide delta by the corpus' metrics.  [default: true]"),
        click.option("--method", help="kl_inf, freedman, azuma, azuma_lambda, paper or best.  [default: kl_inf]"),
        click.option("--smoothing", help="global or entropy.  [default: global; under best, either]"),
        click.option("--unit", help="What is observed of a draw: window or token.  [default: window]"),
        click.option("--upper", help="Of the sample: kl_inf, hoeffding or bernstein.  [default: kl_inf]"),
        click.option("--compressor", help="arithmetic or gzip, or an installed one.  [default: arithmetic]"),
        click.option("--draw_seed", "--draw-seed", type=int, help="Seed of all draws.  [default: 1234]"),
        click.option("--shared_draws", "--shared-draws", type=int, help="Models that share the draws.  [default: 1]"),
        click.option("--certificates", help="Directory for certificates.  [default: --output_path]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@_metadata_options
@click.pass_context
def run(parsed: click.Context, /, **metadata: Any) -> None:
    """Run lm_eval with bound tasks; takes every option of `lm_eval run` besides these.

    \b
    Example:
      lm-bounds run --model hf --model_args pretrained=DIR --tasks local_bounds --corpus_path book.txt
    """
    from lm_bounds.tasks.harness import run_harness

    run_harness(parsed.args, {name: value for name, value in metadata.items() if value is not None})
