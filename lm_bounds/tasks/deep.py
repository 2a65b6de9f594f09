"""Deep verification: the model and the corpus are loaded again, and what a certificate states is measured again.

``lm_bounds.certificates.verify`` proves that a bound follows from what is stored. Here the weights, their code, the
corpus and the draws are compared with what is stated, and a random share of the windows is scored again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_bounds.bounds.statistics import IntArray
from lm_bounds.certificates import Certificate, Observations, Plan, read_certificate
from lm_bounds.certificates.remeasured import Check, check_draws, check_scores
from lm_bounds.certificates.restore import restore_plan
from lm_bounds.certificates.verify import read_observations
from lm_bounds.errors import LmBoundsError
from lm_bounds.passes import Progress, certifying_windows, no_progress
from lm_bounds.pipeline import Session
from lm_bounds.tasks.reload import Places, corpus_place, load_model, measure_again

SHARE = 0.1
# Where a draw is one token, a near-tie that another kernel decides otherwise is a whole error: it takes many to tell.
_FEWEST = {"window": 10, "token": 1000}


@dataclass(frozen=True)
class DeepVerification:
    """What came of measuring again what the certificates of one run state.

    Args:
        paths: of the certificates.
        checks: in the order in which they were made.
    """

    paths: tuple[Path, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return all(check.ok for check in self.checks)


def verify_deep(
    paths: Iterable[str | Path],
    places: Places | None = None,
    share: float = SHARE,
    progress: Progress = no_progress,
) -> list[DeepVerification]:
    """Measures again what certificates state; those of one run are checked with one model load and one pass.

    Args:
        paths: of certificates that hold, see ``lm_bounds.certificates.verify``.
        places: of the model and the corpus, over those that the certificates name.
        share: of the windows that are scored again, in (0, 1]; at least 10 windows (1000 where a window is one token),
            or all of fewer.
        progress: is told how far the scoring is.

    Returns:
        one verification for each run, in the order of their first certificates.

    Raises:
        LmBoundsError: when a model or a corpus cannot be loaded.
    """
    runs = [(run, restore_plan([certificate.fields for certificate in run])) for run in _runs(paths)]
    chosen = places or Places()
    cure = "pass --corpus_path FILE-OR-FOLDER"
    corpus_paths = [corpus_place(plan, chosen.corpus_path, cure) for _, plan in runs]
    return [
        DeepVerification(
            tuple(certificate.path for certificate in run),
            tuple(_checks(run[0], plan, chosen, corpus_path, share, progress)),
        )
        for (run, plan), corpus_path in zip(runs, corpus_paths, strict=True)
    ]


def windows_to_score(n_windows: int, share: float, fewest: int = 10) -> IntArray:
    """Numbers of windows, chosen by the operating system's randomness: whoever made a certificate cannot foresee them.

    Args:
        n_windows: of the run.
        share: of them, in (0, 1].
        fewest: so many at least, or all.

    >>> len(windows_to_score(400, 0.1)), len(windows_to_score(50, 0.1)), windows_to_score(3, 0.1).tolist()
    (40, 10, [0, 1, 2])
    """
    n_chosen = min(n_windows, max(fewest, math.ceil(share * n_windows)))
    return np.array(sorted(random.SystemRandom().sample(range(n_windows), n_chosen)), dtype=np.int64)


def _runs(paths: Iterable[str | Path]) -> list[list[Certificate]]:
    """Certificates of the same observations, weights and time."""
    runs: dict[tuple[str, ...], list[Certificate]] = {}
    for path in map(Path, paths):
        fields = read_certificate(path)
        observations = path.parent.resolve() / str(fields["sample"]["observations"])
        key = (str(observations), str(fields["complexity"]["sha256"]), str(fields["created"]))
        runs.setdefault(key, []).append(Certificate(fields, path))
    return list(runs.values())


def _checks(
    certificate: Certificate, plan: Plan, places: Places, corpus_path: str | None, share: float, progress: Progress
) -> Sequence[Check]:
    sample = certificate.fields["sample"]
    stored = read_observations(certificate.path.parent / str(sample["observations"]), sample["unit"])
    checks, session = measure_again(plan, load_model(plan, places), corpus_path)
    if session is not None:
        checks.append(_draws(session, stored))
    if session is None or not checks[-1].ok:
        return [*checks, Check("scores", False, "no window was scored again, because of what differs before")]
    rows = windows_to_score(stored.n_windows, share, _FEWEST[stored.unit])
    try:
        found = session.observe(rows.tolist(), progress)
    except LmBoundsError as error:
        return [*checks, Check("scores", False, str(error))]
    return [*checks, check_scores(plan, stored.rows(rows), found, stored.n_windows)]


def _draws(session: Session, stored: Observations) -> Check:
    try:
        return check_draws(stored, certifying_windows(session.plan, session.corpus))
    except LmBoundsError as error:
        return Check("draws", False, str(error))
