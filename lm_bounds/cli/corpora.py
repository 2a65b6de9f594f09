"""``lm-bounds corpora``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.cli.unknown import Commands


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def corpora(context: click.Context, as_json: bool) -> None:
    """List the corpora."""
    from lm_bounds.corpora import corpus_specs

    if context.invoked_subcommand is not None:
        return
    specs = list(corpus_specs().values())
    if as_json:
        echo_json([asdict(spec) for spec in specs])
        return
    echo_table(
        ("corpus", "metrics", "tokens", "title"),
        [(spec.id, " ".join(spec.metrics), spec.n_tokens_kind, spec.title) for spec in specs],
    )


@corpora.command()
@click.argument("corpus_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(corpus_id: str, as_json: bool) -> None:
    """Explain a corpus."""
    from lm_bounds.corpora import corpus_spec, derived_facts

    fields = {**asdict(corpus_spec(corpus_id)), **derived_facts(corpus_spec(corpus_id))}
    if as_json:
        echo_json(fields)
        return
    for name, value in fields.items():
        if value:
            click.echo(f"{name.replace('_', ' ')}:")
        for line in _lines(value):
            click.echo(f"  {line}")


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            if isinstance(member, Mapping):
                yield f"{name}:"
                yield from (f"  {line}" for line in _lines(member))
            else:
                yield f"{name}: {' '.join(map(str, member)) if isinstance(member, (list, tuple)) else member}"
    elif isinstance(value, (list, tuple)):
        yield from map(str, value)
    else:
        yield str(value)
