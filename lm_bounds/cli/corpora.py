"""``lm-bounds corpora``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

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


@corpora.command()
@click.argument("corpus_id", metavar="ID")
@click.option("--n", "n_windows", type=click.IntRange(1), default=3, show_default=True, help="How many windows.")
@click.option("--context", type=click.IntRange(1), default=64, show_default=True, help="Tokens of a full window.")
@click.option("--corpus_path", "--corpus-path", help="As for a run.")
@click.option("--tokenizer", help="Directory or Hub id; not needed for text and for corpora that have their own.")
@click.option(
    "--draw_seed", "--draw-seed", type=click.IntRange(0), default=1234, show_default=True, help="Other draws."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sample(corpus_id: str, n_windows: int, as_json: bool, **chosen: Any) -> None:
    """Print windows around tokens that are drawn uniformly.

    Text is cut into bytes unless a tokenizer is named. The draws are others than those of a run.
    """
    from lm_bounds.corpora import corpus_spec
    from lm_bounds.corpora.sample import sample_windows
    from lm_bounds.home import home

    corpus, windows = sample_windows(
        corpus_spec(corpus_id),
        chosen["corpus_path"],
        n_windows,
        context=chosen["context"],
        draw_seed=chosen["draw_seed"],
        cache_dir=home() / "tokens",
        tokenizer_name=chosen["tokenizer"],
    )
    if as_json:
        echo_json({"corpus": corpus_id, "tokens": corpus.n_tokens, "windows": [asdict(window) for window in windows]})
        return
    for window in windows:
        click.echo(
            f"token {window.token_index:,} of {corpus.n_tokens:,}, window {window.start:,} to {window.stop - 1:,}:"
        )
        click.echo("".join(f"  {line}\n" for line in window.text.splitlines() or [""]))


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
