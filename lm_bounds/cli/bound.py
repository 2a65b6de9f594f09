"""``lm-bounds bound``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from lm_bounds.cli.output import echo_json, echo_table
from lm_bounds.errors import UsageError

if TYPE_CHECKING:
    from lm_bounds.bounds import Bound

_PLANNED_RISKS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


@click.command()
@click.option("--metric", default="bpd", show_default=True, help="bpd or topK, e.g. top10.")
@click.option("--risk", type=float, help="Empirical risk: smoothed bits per token, or an error rate.")
@click.option("--losses", type=click.Path(), help="Instead of --risk: .npy of losses, or .npz of loss and entropy.")
@click.option("--whole-corpus", is_flag=True, help="The losses are those of every token of the corpus.")
@click.option("--code-bits", type=float, help="C: compressed size of the weights in bits.")
@click.option("--tokens", type=float, help="m: tokens of the corpus, e.g. 1.2e12.")
@click.option("--vocab", type=int, required=True, help="V: size of the vocabulary.")
@click.option("--alpha", type=float, help="With --risk: smoothing probability, fixed in advance; bpd needs it.")
@click.option("--samples", type=float, help="With --risk: n, i.i.d. tokens it was measured on; without it, all m.")
@click.option("--failure-prob", type=float, default=0.05, show_default=True, help="delta.")
@click.option("--method", default="kl_inf", show_default=True, help="paper, azuma, kl_inf; with losses any of a run.")
@click.option("--smoothing", help="With --losses: global or entropy.")
@click.option("--compare", is_flag=True, help="With --losses: every method's gap at seven complexity rates.")
@click.option("--parameters", type=float, help="Plan: how many bits may each of so many weights have?")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bound(as_json: bool, compare: bool, **given: Any) -> None:
    """Compute a bound from numbers or losses that you have, e.g. those of a paper's table.

    \b
    --risk R --code-bits C --tokens M --vocab V --alpha A   a bound from summary numbers
    --losses FILE --code-bits C --tokens M --vocab V        a bound from -log2 p of an i.i.d. sample of tokens
    --losses FILE --vocab V --compare                       the gap of every method, by complexity rate
    --losses FILE --method document --tokens M --alpha A    the same of documents: mean smoothed losses of M documents
    --parameters N --tokens M --vocab V                     how many bits a weight may have

    Each method adds its own length prefix to --code-bits. Losses are in bits and unsmoothed; the first tenth of them is
    the pilot. Nothing is verified: the numbers are yours.
    """
    for name in ("tokens", "samples", "parameters"):
        given[name] = _whole(f"--{name}", given[name])
    if given["vocab"] < 2:
        raise UsageError(f"--vocab must be at least 2, {given['vocab']} was given")
    if given["parameters"] is not None:
        _plan(given, as_json)
    elif compare:
        _compare(given, as_json)
    elif given["losses"] is not None:
        _from_losses(given, as_json)
    else:
        _from_summary(given, as_json)


def _whole(option: str, value: float | None) -> int | None:
    if value is not None and not (1 <= value < math.inf and value.is_integer()):
        raise UsageError(f"{option} must be a whole number of at least 1, {value} was given")
    return None if value is None else int(value)


def _require(given: dict[str, Any], *names: str) -> None:
    for name in names:
        if given[name] is None:
            raise UsageError(f"--{name.replace('_', '-')} is missing: see `lm-bounds bound --help`")
    bits = given["code_bits"]
    if bits is not None and not 0 <= bits < math.inf:
        raise UsageError(f"--code-bits must be a finite number of bits of at least 0, {bits} was given")


def _from_summary(given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.calculator import Summary, bound_from_summary

    _require(given, "risk", "code_bits", "tokens")
    if given["metric"] == "bpd" and given["alpha"] is None:
        raise UsageError("--metric bpd needs --alpha, the smoothing probability in (0, 1) that was fixed in advance")
    summary = Summary(
        given["metric"],
        given["risk"],
        given["code_bits"],
        given["tokens"],
        given["vocab"],
        given["alpha"],
        given["samples"],
        given["failure_prob"],
    )
    found, chosen = bound_from_summary(given["method"], summary)
    _report(found, chosen, given, as_json)


def _from_losses(given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.calculator import DOCUMENT, LossProblem, bound_from_losses, read_losses

    whole = given["whole_corpus"]
    _require(given, "code_bits", *(() if whole else ("tokens",)))
    if given["method"] == DOCUMENT:
        _from_documents(given, as_json)
        return
    problem = LossProblem(
        given["metric"], given["vocab"], given["code_bits"], None if whole else given["tokens"], given["failure_prob"]
    )
    sample = read_losses(given["losses"])
    if whole and given["tokens"] not in (None, len(sample.losses)):
        raise UsageError(f"--whole-corpus: the file has {len(sample.losses)} losses, not --tokens {given['tokens']}")
    found, method = bound_from_losses(given["method"], given["smoothing"], sample, problem)
    chosen = {name: value for name, value in method.to_dict().items() if name not in ("metric", "vocab_size")}
    _report(found, chosen, given, as_json)


def _from_documents(given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.calculator import DocumentProblem, document_bound, read_losses

    if given["metric"] == "bpd":
        _require(given, "alpha")
    n_documents = None if given["whole_corpus"] else given["tokens"]
    problem = DocumentProblem(
        given["metric"], given["vocab"], given["alpha"], given["code_bits"], n_documents, given["failure_prob"]
    )
    found, chosen = document_bound(read_losses(given["losses"]).losses, problem)
    _report(found, chosen, given, as_json)


def _report(found: Bound, chosen: dict[str, Any], given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.bounds import vacuous_at
    from lm_bounds.certificates.claim import rounded_down, rounded_up

    level = vacuous_at(given["metric"], given["vocab"])
    terms = {"risk": found.risk, "complexity": found.complexity, "sampling": found.sampling}
    vacuous = found.value >= level
    if as_json:
        report = {"bound": found.value, "vacuous_at": level, "vacuous": vacuous, "method": found.method}
        echo_json({**report, "metric": given["metric"], "terms": terms, "chosen": chosen, "rate": found.rate})
        return
    parts = " + ".join(f"{name} {value:.6g}" for name, value in terms.items())
    verdict = "vacuous" if vacuous else "not vacuous"
    click.echo(f"{given['metric']} <= {rounded_up(found.value)} = {parts}")
    click.echo(f"{verdict}: a uniform guess reaches {rounded_down(level)}")


def _compare(given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.calculator import RATES, gap_table, read_losses

    _require(given, "losses")
    table = gap_table(read_losses(given["losses"]), given["metric"], given["vocab"])
    if as_json:
        echo_json({"metric": given["metric"], "rates": RATES, "gaps": table})
        return
    azuma = table["azuma"]
    click.echo("gap over the mean loss (and its ratio to azuma's), by complexity rate in nats per token")
    echo_table(
        ("method", *(f"{rate:g}" for rate in RATES)),
        [
            (name, *(f"{gap:.3f} ({gap / other:.2f})" for gap, other in zip(gaps, azuma, strict=True)))
            for name, gaps in table.items()
        ],
    )


def _plan(given: dict[str, Any], as_json: bool) -> None:
    from lm_bounds.calculator import CALCULATED_METHODS, PlannedCorpus, affordable_bits

    _require(given, "tokens")
    if given["metric"] != "bpd":
        raise UsageError("a plan is made for --metric bpd")
    corpus = PlannedCorpus(given["tokens"], given["vocab"], given["samples"], given["failure_prob"])
    asked = (given["risk"],) if given["risk"] is not None else _PLANNED_RISKS
    risks = [risk for risk in asked if risk < math.log2(given["vocab"]) or given["risk"] is not None]
    rows = [
        {
            "risk": risk,
            **{name: affordable_bits(name, risk, corpus) / given["parameters"] for name in CALCULATED_METHODS},
        }
        for risk in risks
    ]
    if as_json:
        echo_json({"parameters": given["parameters"], "tokens": given["tokens"], "bits_per_parameter": rows})
        return
    click.echo(f"bits that each of {given['parameters']:,} weights may have before the bpd bound is vacuous, by method")
    echo_table(
        ("risk in bits", *CALCULATED_METHODS),
        [(f"{row['risk']:g}", *(f"{row[name]:.3g}" for name in CALCULATED_METHODS)) for row in rows],
    )
