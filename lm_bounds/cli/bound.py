"""``lm-bounds bound``."""

from __future__ import annotations

import math

import click

from lm_bounds.cli.output import echo_json


@click.command()
@click.option("--metric", default="bpd", show_default=True, help="bpd or topK, e.g. top10.")
@click.option("--risk", type=float, required=True, help="Empirical risk: smoothed bits per token, or an error rate.")
@click.option("--code-bits", type=float, required=True, help="C: compressed size of the weights in bits.")
@click.option("--tokens", type=float, required=True, help="m: tokens of the corpus, e.g. 1.2e12.")
@click.option("--vocab", type=int, required=True, help="V: size of the vocabulary.")
@click.option("--alpha", type=float, help="Smoothing probability, fixed in advance; bpd needs it.")
@click.option("--samples", type=float, help="n: i.i.d. tokens the risk was measured on; without it, all m of them.")
@click.option("--failure-prob", type=float, default=0.05, show_default=True, help="delta.")
@click.option("--method", default="kl_inf", show_default=True, help="paper, azuma or kl_inf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bound(
    metric: str,
    risk: float,
    code_bits: float,
    tokens: float,
    vocab: int,
    alpha: float | None,
    samples: float | None,
    failure_prob: float,
    method: str,
    as_json: bool,
) -> None:
    """Compute a bound from summary numbers, e.g. those of a paper's table.

    Each method adds its own length prefix to --code-bits. Nothing is verified: the numbers are yours.
    """
    from lm_bounds.bounds import vacuous_at
    from lm_bounds.calculator import Summary, bound_from_summary
    from lm_bounds.certificates.claim import rounded_down, rounded_up
    from lm_bounds.errors import UsageError

    for name, value in (("--tokens", tokens), ("--samples", samples)):
        if value is not None and not (value >= 1 and value.is_integer()):
            raise UsageError(f"{name} must be a whole number of at least 1, {value} was given")
    if not 0 <= code_bits < math.inf:
        raise UsageError(f"--code-bits must be a finite number of bits of at least 0, {code_bits} was given")
    if metric == "bpd" and alpha is None:
        raise UsageError("--metric bpd needs --alpha, the smoothing probability in (0, 1) that was fixed in advance")
    n_samples = None if samples is None else int(samples)
    summary = Summary(metric, risk, code_bits, int(tokens), vocab, alpha, n_samples, failure_prob)
    found, chosen = bound_from_summary(method, summary)
    level = vacuous_at(metric, vocab)
    terms = {"risk": found.risk, "complexity": found.complexity, "sampling": found.sampling}
    vacuous = found.value >= level
    if as_json:
        report = {"bound": found.value, "vacuous_at": level, "vacuous": vacuous, "method": method}
        echo_json({**report, "metric": metric, "terms": terms, "chosen": chosen, "rate": found.rate})
        return
    parts = " + ".join(f"{name} {value:.6g}" for name, value in terms.items())
    verdict = "vacuous" if vacuous else "not vacuous"
    click.echo(f"{metric} <= {rounded_up(found.value)} = {parts}")
    click.echo(f"{verdict}: a uniform guess reaches {rounded_down(level)}")
