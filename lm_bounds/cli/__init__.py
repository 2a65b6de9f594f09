"""The command line: parses, calls one function, prints."""

from __future__ import annotations

import os
import sys

import click

from lm_bounds._version import __version__
from lm_bounds.cli.bound import bound
from lm_bounds.cli.compress import compress
from lm_bounds.cli.corpora import corpora
from lm_bounds.cli.demo import demo
from lm_bounds.cli.installation import doctor, tasks_path
from lm_bounds.cli.models import models
from lm_bounds.cli.run import run
from lm_bounds.cli.start import echo_first_steps
from lm_bounds.cli.unknown import Commands, no_such_option
from lm_bounds.cli.unpack import unpack
from lm_bounds.cli.verify import verify
from lm_bounds.errors import LmBoundsError

__all__ = ["lm_bounds_command", "main"]


@click.group(
    name="lm-bounds",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="lm-bounds")
@click.pass_context
def lm_bounds_command(context: click.Context) -> None:
    """Token-level generalization bounds for language models.

    Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 verification failed.
    """
    if context.invoked_subcommand is None:
        echo_first_steps(context, lm_bounds_command)


for _command in (demo, run, compress, unpack, bound, verify, corpora, models, doctor, tasks_path):
    lm_bounds_command.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; an error is one line on standard error and a non-zero exit code.

    With LM_BOUNDS_DEBUG set, errors keep their traceback.

    Args:
        arguments: what was typed after the program's name; ``sys.argv[1:]`` when None.
    """
    try:
        code = lm_bounds_command.main(arguments, prog_name="lm-bounds", standalone_mode=False)
    except click.NoSuchOption as error:
        _fail(no_such_option(error), 2)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), 2)
    except click.Abort:
        _fail("interrupted", 1)
    except LmBoundsError as error:
        if os.environ.get("LM_BOUNDS_DEBUG"):
            raise
        _fail(str(error), error.exit_code)
    except Exception as error:  # what no one foresaw is one line as well
        if os.environ.get("LM_BOUNDS_DEBUG"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(f"{what} (set LM_BOUNDS_DEBUG=1 to see where it happened)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)
