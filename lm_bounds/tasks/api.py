"""Certificates from Python, without lm-eval's evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_bounds.certificates import Certificate, write_certificates
from lm_bounds.errors import UsageError
from lm_bounds.pipeline import open_session
from lm_bounds.processes import processes_of
from lm_bounds.settings import parse_settings
from lm_bounds.tasks.results import certificate_directory


def certify(
    model: Any,
    tokenizer: Any,
    corpus: str = "local",
    metrics: Sequence[str] | None = None,
    *,
    batch_size: int = 1,
    **settings: Any,
) -> list[Certificate]:
    """Certifies a loaded transformers model; the same numbers as the lm-eval tasks print.

    Args:
        model: a causal language model of transformers, loaded.
        tokenizer: its tokenizer.
        corpus: id of a corpus.
        metrics: names of metrics; all that the corpus offers for this vocabulary when None.
        batch_size: windows of one forward pass.
        settings: the metadata keys of the tasks, e.g. ``corpus_path="book.txt", windows=200``.

    Returns:
        one certificate for each metric; their files are under the directory ``certificates``.

    Raises:
        LmBoundsError: one line that says what to do.
    """
    from lm_eval.models.huggingface import HFLM

    parsed = parse_settings({f"lm_bounds.{name}": value for name, value in settings.items()})
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    session = open_session(lm, corpus, parsed, parsed.windows, processes=processes_of(lm))
    offered = list(session.plan.methods)
    chosen = offered if metrics is None else list(metrics)
    if not chosen or not set(chosen) <= set(offered):
        raise UsageError(f"metrics {chosen} were asked for: this corpus and vocabulary offer {', '.join(offered)}")
    observations = session.observe(range(session.plan.n_windows))
    return write_certificates(session.plan, observations, chosen, certificate_directory(session.plan))
