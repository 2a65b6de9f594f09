"""``lm-bounds corpora``."""

from __future__ import annotations

from dataclasses import asdict

import click

from lm_bounds.cli.output import echo_json, echo_table


@click.group(invoke_without_command=True)
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
    from lm_bounds.corpora import corpus_spec

    spec = corpus_spec(corpus_id)
    if as_json:
        echo_json(asdict(spec))
        return
    for name, value in asdict(spec).items():
        lines = [str(line) for line in value] if isinstance(value, (list, tuple)) else [str(value)]
        click.echo(f"{name.replace('_', ' ')}:")
        for line in lines:
            click.echo(f"  {line}")
