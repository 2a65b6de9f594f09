"""``lm-bounds corpora``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.cli.unknown import Commands

if TYPE_CHECKING:
    from lm_bounds.corpora import CorpusSpec

_WIDTH = 100
_FIRST = ("id", "title", "description", "tokens", "metrics", "layout", "stored_in", "hub", "models")


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
        ("corpus", "tokens", "stored in", "metrics", "title"),
        [
            (spec.id, _tokens(spec.n_tokens, spec.n_tokens_kind), _stored_in(spec), " ".join(spec.metrics), spec.title)
            for spec in specs
        ],
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
    fields["tokens"] = _tokens(fields.pop("n_tokens"), fields.pop("n_tokens_kind"))
    shown = {name: fields[name] for name in _FIRST} | fields
    for name, value in shown.items():
        if value:
            _echo_field(name.replace("_", " "), list(_lines(value)))


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
    unit, number = ("token", corpus.n_tokens) if corpus.slots is None else ("place", corpus.slots.number)
    if corpus.slots is not None:
        click.echo(f"at least {corpus.n_tokens:,} tokens, one for each of as many of {number:,} places\n")
    for window in windows:
        click.echo(f"{unit} {window.token_index:,} of {number:,}, window {window.start:,} to {window.stop - 1:,}:")
        click.echo("".join(f"  {line}\n" for line in window.text.splitlines() or [""]))


def _echo_field(name: str, lines: list[str]) -> None:
    """A field on a line of its own where it is short, else below its name."""
    if len(lines) == 1 and len(lines[0]) + len(name) + 2 <= _WIDTH:
        click.echo(f"{name}: {lines[0]}")
        return
    click.echo(f"{name}:")
    for line in lines:
        inset = "    " if line.startswith("- ") else "  "
        click.echo(textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent=inset, break_on_hyphens=False))


def _tokens(number: int | None, kind: str) -> str:
    """How many tokens a corpus has, and how that is known."""
    unknown = {"exact": "counted", "declared": "declared", "lower_bound": "estimated"}
    return unknown[kind] if number is None else f"{number:,} {kind.replace('_', ' ')}"


def _stored_in(spec: CorpusSpec) -> str:
    if spec.stored_in is not None:
        return spec.stored_in.name.partition(" (")[0]
    return "text" if spec.layout == "texts" else "-"


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            if isinstance(member, Mapping):
                yield f"{name}:"
                yield from (f"  {line}" for line in _lines(member))
            elif member is not None:
                yield f"{name}: {' '.join(map(str, member)) if isinstance(member, (list, tuple)) else member}"
    elif isinstance(value, (list, tuple)) and all(" " not in each for each in value):
        yield " ".join(value)
    elif isinstance(value, (list, tuple)):
        yield from (f"- {each}" for each in value)
    else:
        yield str(value)
