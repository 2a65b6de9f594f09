"""The compressors by name, and what one of them makes of a set of weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from threading import Lock
from types import MappingProxyType

from lm_bounds.codelength.charges import ARTIFACT, DECLARED
from lm_bounds.codelength.ledger import CodeLength, Prior, total_bits
from lm_bounds.compressors.arithmetic import Arithmetic
from lm_bounds.compressors.best import Best
from lm_bounds.compressors.brotli import Brotli
from lm_bounds.compressors.bz2 import Bz2
from lm_bounds.compressors.gzip import Gzip
from lm_bounds.compressors.protocol import Compressor
from lm_bounds.compressors.xz import Xz
from lm_bounds.compressors.zstd import Zstd
from lm_bounds.errors import UsageError, WeightsError, nearest
from lm_bounds.weights.prior.given import Given, relative
from lm_bounds.weights.protocol import Weights
from lm_bounds.weights.watched import watched

#: The compressors of this package. Others join through the entry-point group below.
COMPRESSORS: Mapping[str, Callable[[], Compressor]] = MappingProxyType(
    {
        "arithmetic": Arithmetic,
        "best": Best,
        "brotli": Brotli,
        "bz2": Bz2,
        "gzip": Gzip,
        "xz": Xz,
        "zstd": Zstd,
    }
)

#: Told what is under way and how many bytes of the weights it has used up since the last time.
OnBytes = Callable[[str, int], None]

#: An entry point of this group names a class, or a function without arguments, that makes a ``Compressor``.
ENTRY_POINT_GROUP = "lm_bounds.compressors"


def compressor_names() -> tuple[str, ...]:
    """Every name that ``get_compressor`` knows, sorted: built-in and installed by others."""
    return tuple(sorted({*COMPRESSORS, *_installed()}))


def get_compressor(name: str) -> Compressor:
    """The compressor of that name; a built-in one wins over an installed one of the same name.

    Raises:
        UsageError: there is none (the message has the nearest name), or an installed one cannot be loaded or is no
            ``Compressor``, or the library of a built-in one is not installed.

    >>> get_compressor("gzip").exact
    True
    """
    if name in COMPRESSORS:
        return COMPRESSORS[name]()
    installed = _installed()
    if name in installed:
        return _load(installed[name])
    raise UsageError(f"no compressor is called {name!r}{nearest(name, compressor_names())}")


def measure(weights: Weights, compressor_name: str) -> CodeLength:
    """Measure weights with one compressor.

    Args:
        weights: with one parameter or more.
        compressor_name: a name that ``get_compressor`` knows.

    Returns:
        The ledger and its sum in bits; ``seconds`` is the time for the ledger alone, not for hashing.

    Raises:
        UsageError: no such compressor.
        WeightsError: there is nothing to measure.
    """
    [measured] = measure_each(weights, (get_compressor(compressor_name),))
    return measured


def measure_given(weights: Weights, prior: Weights, compressor_name: str) -> CodeLength:
    """Measure weights with one compressor, given a prior that was fixed before the corpus.

    Args:
        weights: with one parameter or more.
        prior: of the model that whoever decodes has.
        compressor_name: a name that ``get_compressor`` knows.

    Returns:
        As ``measure``, of all of the weights, except that the ledger is that of the prior, of what becomes of its
        tensors and of what is left.

    Raises:
        UsageError: no such compressor.
        WeightsError: there is nothing to measure.
    """
    compressor, given = get_compressor(compressor_name), relative(weights, prior)
    [measured] = measure_each(weights, (compressor,), given=given)
    return replace(measured, prior=Prior(prior.source, given.prior_sha256))


def measure_each(
    weights: Weights,
    compressors: Sequence[Compressor],
    on_bytes: OnBytes = lambda activity, n_bytes: None,
    given: Given | None = None,
) -> list[CodeLength]:
    """Measure weights with several compressors; the weights are hashed once.

    Args:
        weights: with one parameter or more.
        compressors: in the order of the results.
        on_bytes: called with what is under way, ``"sha256"`` or the name of a compressor, and how many bytes more it
            has used up: together ``weights.stored_bytes`` for the first, and that of what is coded for each other.
        given: the same weights relative to a prior; then what is left of them is coded.

    Raises:
        WeightsError: there is nothing to measure.
    """
    if weights.n_parameters == 0:
        raise WeightsError(f"{weights.source} holds no parameters: there is nothing to measure")
    with _progress(weights, "sha256", on_bytes) as reading:
        sha256 = reading.sha256()
    coded, ahead = (weights, ()) if given is None else (given.rest, given.ledger)
    measured = []
    for compressor in compressors:
        with _progress(coded, compressor.name, on_bytes) as reading:
            started = time.perf_counter()
            ledger = (*ahead, *compressor.ledger(reading))
            seconds = time.perf_counter() - started
        measured.append(
            CodeLength(
                compressor=compressor.name,
                version=compressor.version(),
                bits=total_bits(ledger),
                ledger=ledger,
                n_parameters=weights.n_parameters,
                n_tensors=len(weights.tensors),
                stored_bytes=weights.stored_bytes,
                sha256=sha256,
                seconds=seconds,
                exact=compressor.exact,
            )
        )
    return measured


@contextmanager
def _progress(weights: Weights, activity: str, on_bytes: OnBytes) -> Iterator[Weights]:
    """The weights, watched; at the end what was read in another way counts as used up too."""
    n_left, lock = weights.stored_bytes, Lock()

    def report(n_bytes: int) -> None:
        nonlocal n_left
        with lock:  # threads report
            n_left -= n_bytes
            on_bytes(activity, n_bytes)

    on_bytes(activity, 0)
    yield watched(weights, report)
    if n_left:
        on_bytes(activity, n_left)


def _installed() -> dict[str, EntryPoint]:
    """Entry points by name, without those whose name already says that nothing was compressed."""
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: point for name, point in found.items() if name not in (ARTIFACT, DECLARED)}


def _load(point: EntryPoint) -> Compressor:
    try:
        compressor = point.load()()
    # Other people's code may fail in any way; the message says whose it was.
    except Exception as error:
        raise UsageError(f"compressor {point.name!r} ({point.value}) cannot be loaded: {error!r}") from error
    if not isinstance(compressor, Compressor):
        raise UsageError(f"compressor {point.name!r} ({point.value}) lacks name, exact, version() or ledger()")
    return compressor
