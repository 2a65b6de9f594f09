"""``lm-bounds models``."""

from __future__ import annotations

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.cli.unknown import Commands


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models that come with the package."""
    from lm_bounds.models import BUILT_IN_MODELS

    if context.invoked_subcommand is not None:
        return
    found = list(BUILT_IN_MODELS.values())
    if as_json:
        echo_json([{"name": model.name, "title": model.title, "path": str(model.path)} for model in found])
        return
    echo_table(("model", "title"), [(model.name, model.title) for model in found])
    click.echo('\nIn --model_args: pretrained="$(lm-bounds models path structured)"')


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the folder of a model, for pretrained= in --model_args."""
    from lm_bounds.models import built_in_model

    click.echo(built_in_model(name).path)
