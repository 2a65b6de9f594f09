"""More windows for a run that is over: everything but their number stays what its certificates say.

The stream of draws of a seed goes on where it stopped, and the bound without replacement holds after every number of
windows at once (docs/theory.md, section 4), so that windows can be added after a look at the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lm_bounds.bounds.statistics import IntArray
from lm_bounds.certificates import Certificate, Observations, Plan, verify, write_certificates
from lm_bounds.certificates.remeasured import check_draws
from lm_bounds.certificates.restore import restore_plan, run_certificates
from lm_bounds.certificates.verify import read_observations
from lm_bounds.errors import UsageError, VerificationError
from lm_bounds.home import certificate_root, check_writable
from lm_bounds.passes import Progress, certifying_windows, no_progress, sample_size
from lm_bounds.pipeline import Session, utc_now
from lm_bounds.sampling import Windows
from lm_bounds.tasks.reload import Places, corpus_place, load_model, measure_again
from lm_bounds.tasks.results import certificate_directory


@dataclass(frozen=True)
class Extension:
    """A run and what it became.

    Args:
        old: its certificates.
        new: those of all its windows, in the same order.
        n_added: windows that were scored.
        n_asked: windows that were asked for.
        unit: ``window`` or ``token``, whichever was observed of a draw.
    """

    old: tuple[Certificate, ...]
    new: tuple[Certificate, ...]
    n_added: int
    n_asked: int
    unit: str


def extend_run(
    path: str | Path,
    n_more: int,
    certificates: str | None = None,
    places: Places | None = None,
    progress: Progress = no_progress,
) -> Extension:
    """Adds windows to the run of a certificate, and certifies again every metric whose certificate is beside it.

    The windows that were scored before are kept as they are. The new certificates go to a folder of their own.

    Args:
        path: of a certificate.
        n_more: windows to add, >= 1; all that are left where those are fewer.
        certificates: directory for the new certificates; None as in ``Settings``.
        places: of the model and the corpus, over those which the certificate names.
        progress: is told how far the scoring is.

    Raises:
        VerificationError: when a certificate of the run does not hold, or its windows are not those of its seed.
        UsageError: when windows cannot be added to such a run, or the model or the corpus is another one.
        LmBoundsError: when the model or the corpus cannot be loaded.
    """
    if n_more < 1:
        raise UsageError(f"the number of windows to add must be at least 1, {n_more} was given")
    old = _verified(path)
    plan = restore_plan([certificate.fields for certificate in old])
    stored = read_observations(old[0].path.parent / str(old[0].fields["sample"]["observations"]), plan.settings.unit)
    _check_extensible(plan, stored)
    check_writable(certificate_root(certificates))
    chosen = places or Places()
    corpus_path = corpus_place(plan, chosen.corpus_path, "pass --corpus_path FILE-OR-FOLDER")
    session = _session(plan, load_model(plan, chosen), corpus_path)
    drawn = check_draws(stored, certifying_windows(plan, session.corpus))
    if not drawn.ok:
        raise VerificationError(f"{old[0].path} cannot be extended: {drawn.detail}")
    longer = _longer(session, n_more, certificates)
    observations = _observed(longer, stored, progress)
    extends = {certificate.metric: str(certificate.fields["digest"]) for certificate in old}
    folder = certificate_directory(longer.plan)
    new = write_certificates(longer.plan, observations, list(extends), folder, extends)
    n_added = observations.n_windows - stored.n_windows
    return Extension(tuple(old), tuple(new), n_added, n_more, plan.settings.unit)


def _verified(path: str | Path) -> list[Certificate]:
    """The certificates of a run, each of which holds."""
    _check_holds(Path(path))
    found = run_certificates(path)
    for certificate in found:
        _check_holds(certificate.path)
    return found


def _check_holds(path: Path) -> None:
    failures = verify(path).failures
    if failures:
        raise VerificationError(f"{path} does not hold and cannot be extended: {failures[0]}")


def _check_extensible(plan: Plan, stored: Observations) -> None:
    settings = plan.settings
    if settings.method == "paper":
        raise UsageError(
            "method=paper: its split of the failure probability depends on the number of windows, which must not be "
            "changed after a look at the result: start a new run"
        )
    if settings.replacement:
        raise UsageError(
            f"upper={settings.upper}: its bound holds for the number of windows that was fixed in advance alone: start "
            "a new run, with upper=kl_inf if windows shall be added later"
        )
    if int(stored.window_sizes.sum()) == plan.corpus.n_tokens:
        raise UsageError(
            f"all {stored.n_windows} {settings.unit}s of the corpus are scored already: there is none left to add"
        )


def _session(plan: Plan, lm: object, corpus_path: str | None) -> Session:
    checks, session = measure_again(plan, lm, corpus_path)
    if session is None:
        differences = "; ".join(str(check) for check in checks if not check.ok)
        raise UsageError(f"the run can be extended with the model and corpus that were certified alone: {differences}")
    return session


def _longer(session: Session, n_more: int, certificates: str | None) -> Session:
    """The session of the same run with more windows."""
    plan, scorer = session.plan, session.scorer
    n_windows = sample_size(plan.settings, session.corpus, plan.model.context, plan.n_windows + n_more)
    settings = replace(plan.settings, windows=n_windows, pilot=plan.settings.n_pilot, certificates=certificates)
    model = replace(plan.model, batch_size=scorer.batch_size, device=str(scorer.lm.device))
    longer = replace(plan, settings=settings, model=model, n_windows=n_windows, created=utc_now())
    return replace(session, plan=longer)


def _observed(session: Session, stored: Observations, progress: Progress) -> Observations:
    """All windows of a plan: those that were observed before with their stored sums, the others scored now.

    Where the windows become the whole corpus they are in its order, see ``certifying_windows``: those that were
    observed before are then not the first ones.
    """
    unit = session.plan.settings.unit
    windows = certifying_windows(session.plan, session.corpus)
    before = _places_in(stored, windows, unit)
    missing = np.flatnonzero(before < 0)
    found = session.observe(missing.tolist(), progress)
    sums = {}
    for name, values in found.sums.items():
        if name not in stored.sums:
            raise VerificationError(f"the observations have no column {name}, which the run observed")
        sums[name] = np.where(before >= 0, stored.sums[name][np.maximum(before, 0)], 0.0)
        sums[name][missing] = values
    return Observations(windows, sums, unit)


def _places_in(stored: Observations, windows: Windows, unit: str) -> IntArray:
    """For each window its row in earlier observations, -1 where it is not there."""
    identity = "token_index" if unit == "token" else "start"
    rows: Mapping[int, int] = {int(value): row for row, value in enumerate(getattr(stored.windows, identity))}
    return np.array([rows.get(int(value), -1) for value in getattr(windows, identity)], dtype=np.int64)
