"""Several processes that share one evaluation: what they tell each other, and how one's failure stops them all.

Between two exchanges a process works alone, inside ``together``: an error there becomes everyone's, and nobody waits
for a process that has gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from lm_bounds.errors import LmBoundsError, UsageError

T = TypeVar("T")

_SHOWN_CHARS = 80


class Processes(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """The number of this one, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...

    def exchange(self, value: T) -> list[T]:
        """The values of all processes, by rank; every process has to take part."""
        ...


@dataclass(frozen=True)
class OneProcess:
    """A run of one process.

    >>> OneProcess().exchange("a")
    ['a']
    """

    rank: int = 0
    world_size: int = 1

    def exchange(self, value: T) -> list[T]:
        """The value alone."""
        return [value]


ONE_PROCESS = OneProcess()


@dataclass(frozen=True)
class TorchProcesses:
    """The processes that ``torch.distributed`` connects.

    Args:
        rank: the global one of this process.
        world_size: of the default group.
    """

    rank: int
    world_size: int

    def exchange(self, value: T) -> list[T]:
        """The values of all processes, by rank, as pickle copies them."""
        import torch.distributed

        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, value)
        return found


def processes_of(lm: Any) -> Processes:
    """The processes that lm-eval shares the requests to a language model among; every process has to ask.

    Args:
        lm: a language model of lm-eval.

    Raises:
        UsageError: when lm-eval and torch.distributed do not agree on who they are and how many.
    """
    import torch.distributed

    backend, n_processes = type(lm).__name__, int(getattr(lm, "world_size", 1))
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    n_connected = torch.distributed.get_world_size() if connected else 1
    if n_processes == 1:
        _refuse_unaware(lm, backend, max(n_connected, n_launched()))
        return ONE_PROCESS
    if not connected:
        raise UsageError(
            f"{backend} counts {n_processes} processes, which torch.distributed does not connect: use --model hf, "
            "started by accelerate launch"
        )
    processes = TorchProcesses(torch.distributed.get_rank(), n_connected)
    for rank, (own_rank, own_count) in enumerate(processes.exchange((int(lm.rank), n_processes))):
        if (own_rank, own_count) != (rank, n_connected):
            raise UsageError(
                f"{backend} takes process {rank} of {n_connected} for process {own_rank} of {own_count}: it counts "
                "within one machine, so run all processes on one machine"
            )
    return processes


def n_launched() -> int:
    """Processes that torchrun or accelerate launch started, 1 without them."""
    given = os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdecimal() else 1


def _refuse_unaware(lm: Any, backend: str, n_started: int) -> None:
    if n_started == 1:
        return
    on_cpu = getattr(getattr(lm, "device", None), "type", None) == "cpu"
    where = "on the CPU" if on_cpu else "except for checkpoints that it loads onto several GPUs, without tp_plan"
    raise UsageError(
        f"{n_started} processes were started, and each takes itself for the only one: {backend} has no data "
        f"parallelism {where}: run one process, without torchrun or accelerate launch and with WORLD_SIZE unset"
    )


@dataclass(frozen=True)
class _Failure:
    """An error, as one line that every process can raise."""

    kind: type[LmBoundsError]
    message: str


def _failure(error: Exception) -> _Failure:
    if isinstance(error, LmBoundsError):
        return _Failure(type(error), str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _Failure(LmBoundsError, ": ".join([type(error).__name__, *lines[:1]]))


def together(processes: Processes, step: Callable[[], T]) -> T:
    """This process's outcome of a step that all of them take, once none of them has failed in it.

    Raises:
        LmBoundsError: in every process, the error of the first one that failed; of several processes each says which
            that was, unless all failed alike. One process alone raises whatever the step raises.

    >>> together(ONE_PROCESS, lambda: 3)
    3
    """
    if processes.world_size == 1:
        return step()
    outcome: list[T] = []
    own: Exception | None = None
    try:
        outcome.append(step())
    except Exception as error:  # of whatever kind: the others are told, they would wait for this process forever
        own = error
    found = processes.exchange(None if own is None else _failure(own))
    failures = [(rank, failure) for rank, failure in enumerate(found) if failure is not None]
    if failures:
        rank, first = failures[0]
        where = "" if set(found) == {first} else f"process {rank} of {processes.world_size}: "
        raise first.kind(where + first.message) from own
    return outcome[0]


def leader_first(processes: Processes, step: Callable[[], T]) -> T:
    """This process's outcome of a step that rank 0 takes before the others, which find done what it leaves behind.

    Raises:
        LmBoundsError: as ``together``.
    """
    if processes.rank == 0:
        outcome = together(processes, step)
        together(processes, _nothing)
    else:
        together(processes, _nothing)
        outcome = together(processes, step)
    return outcome


def from_leader(processes: Processes, step: Callable[[], T]) -> T:
    """What a step gives to rank 0, which alone takes it, in every process.

    Raises:
        LmBoundsError: as ``together``.
    """
    mine: Any = together(processes, step if processes.rank == 0 else _nothing)
    outcome: T = processes.exchange(mine)[0]
    return outcome


def _nothing() -> None:
    """What a process does whose turn it is not."""


def check_alike(processes: Processes, facts: Mapping[str, Any]) -> None:
    """Refuses, in every process, facts that are not those of rank 0.

    Args:
        processes: of the run.
        facts: what has to be the same everywhere, by name.

    Raises:
        UsageError: naming the facts that differ.
    """
    wanted, *others = processes.exchange(dict(facts))
    for rank, found in enumerate(others, start=1):
        names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if names:
            shown = ", ".join(name + _values(wanted.get(name), found.get(name)) for name in names)
            raise UsageError(
                f"processes 0 and {rank} of {processes.world_size} differ in {shown}: start all of them with the same "
                "model, corpus, settings and software"
            )


def _values(one: Any, other: Any) -> str:
    """Two values in brackets, unless they are long: hashes and ledgers say nothing to a reader."""
    both = f" ({one} and {other})"
    return both if len(both) <= _SHOWN_CHARS else ""
