"""What ``lm-bounds`` alone prints."""

from __future__ import annotations

from collections.abc import Iterable

import click

_WHAT = """\
lm-bounds certifies language models: with probability 95%, a model's expected next-token loss on the contexts of a
corpus is at most the number that it prints, and anyone can recompute the certificate."""
OWN_TEXT = (
    "lm-bounds run --model hf --model_args pretrained=DIR --device cpu --tasks local_bounds --corpus_path book.txt "
    "--windows 100",
    "your own model on your own text",
)
_FIRST_STEPS = (
    ("lm-bounds demo", "the built-in model on the built-in corpus; needs no network"),
    (
        'lm_eval --model hf --model_args pretrained="$(lm-bounds models path structured)" --device cpu '
        "--tasks structured_bounds --metadata windows=100",
        "the same model with lm_eval itself",
    ),
    OWN_TEXT,
    ("lm-bounds verify CERTIFICATE...", "recompute certificates, whose places every run prints, or a folder of them"),
)


def echo_first_steps(context: click.Context, group: click.Group) -> None:
    """What this package is, what to type first, in order, and the list of commands as ``--help`` has it.

    Args:
        context: of the group.
        group: of all commands.
    """
    click.echo(f"{_WHAT}\n\nFirst steps:")
    echo_steps(_FIRST_STEPS)
    formatter = context.make_formatter()
    group.format_commands(context, formatter)
    click.echo(f"\n{formatter.getvalue()}", nl=False)


def echo_steps(steps: Iterable[tuple[str, str]]) -> None:
    """Lines to type, each with what it does below it."""
    for line, what in steps:
        click.echo(f"  {line}\n      {what}")
