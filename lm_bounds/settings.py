"""What a user may set of a run: the metadata keys of the tasks, which are the options of ``lm-bounds run``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lm_bounds.bounds import SMOOTHINGS, UPPER_BOUNDS
from lm_bounds.codelength import ARTIFACT, DECLARED
from lm_bounds.errors import UsageError, nearest

PREFIX = "lm_bounds."
UNITS = ("window", "token")


def _whole(low: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        if not number >= low or not number.is_integer():
            raise UsageError(f"{name} must be a whole number of at least {low}, {value!r} was given")
        return int(number)

    return parse


def _probability(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise UsageError(f"{name} must be a probability between 0 and 1 (both excluded), {value!r} was given")
    return float(value)


def _bits(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < math.inf:
        raise UsageError(f"{name} must be a number of bits of at least 1, {value!r} was given")
    bits = float(math.ceil(value))
    return bits if bits >= value else math.nextafter(bits, math.inf)


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in words:
        raise UsageError(f"{name} must be true or false, {value!r} was given")
    return words[str(value).lower()]


def _text(name: str, value: Any) -> str:
    if value is None or str(value).strip() == "":
        raise UsageError(f"{name} must not be empty")
    return str(value)


def _one_of(*names: str) -> Callable[[str, Any], str]:
    def parse(name: str, value: Any) -> str:
        if value not in names:
            raise UsageError(f"{name}={value!r} is unknown{nearest(value, names)}")
        return str(value)

    return parse


@dataclass(frozen=True)
class Settings:
    """The parameters of a run.

    Args:
        corpus_path: file, folder or URL of a ``local`` corpus, or of a copy of another one; data units of ``oas``; a
            YAML file of parameters.
        corpus: the registered corpus that the tasks of ``local`` are run on; None for text or tokens of the user's.
        windows: certifying windows, >= 1.
        pilot: windows of the pilot in addition, >= 2; None for max(64, windows/10).
        context: scored tokens of a window; None for the smaller of 1024 and what the model allows.
        failure_prob: delta in (0, 1).
        family_wise: whether delta is divided by the number of metrics that the corpus offers.
        method: name of a bounding method, or ``best`` for the one with the lowest bound predicted on the pilot.
        smoothing: ``global`` or ``entropy``; None for ``global``, and for either of them under ``best``.
        unit: what is observed of a draw: the whole ``window`` or the drawn ``token`` alone.
        upper: upper confidence bound of the sample: ``kl_inf``, ``hoeffding`` or ``bernstein``.
        compressor: name of a compressor.
        code_bits: an upper bound on the size of the weights that the user declares, in bits, >= 1; None to measure.
        given: a model whose weights were fixed before the corpus, in any form that ``lm-bounds compress`` takes: the
            size is relative to it.
        artifact: a file from which the model can be made, whose size counts in place of a measured one.
        draw_seed: seed of all draws, >= 0.
        shared_draws: G >= 1: the same draws for up to G models, paid in delta_2; 1: draws depend on the model.
        certificates: directory for certificates; None for LM_BOUNDS_HOME or the user's cache.
    """

    corpus_path: str | None = None
    corpus: str | None = None
    windows: int = 1000
    pilot: int | None = None
    context: int | None = None
    failure_prob: float = 0.05
    family_wise: bool = True
    method: str = "kl_inf"
    smoothing: str | None = None
    unit: str = "window"
    upper: str = "kl_inf"
    compressor: str = "arithmetic"
    given: str | None = None
    code_bits: float | None = None
    artifact: str | None = None
    draw_seed: int = 1234
    shared_draws: int = 1
    certificates: str | None = None

    def corpus_of(self, task_corpus: str) -> str:
        """The corpus that a task is run on, given that of its file.

        >>> Settings(corpus="tales").corpus_of("local"), Settings(corpus="tales").corpus_of("pile")
        ('tales', 'pile')
        """
        return self.corpus if self.corpus is not None and task_corpus == "local" else task_corpus

    @property
    def replacement(self) -> bool:
        """Whether a window can be drawn twice: only where the upper confidence bound is for independent draws."""
        return self.method == "paper" or self.upper != "kl_inf"

    @property
    def coder(self) -> str:
        """What the size of the weights comes from: the compressor's name, ``artifact`` or ``declared``."""
        if self.code_bits is not None:
            return DECLARED
        return self.compressor if self.artifact is None else ARTIFACT

    @property
    def n_pilot(self) -> int:
        """Windows of the pilot.

        >>> Settings(windows=5000).n_pilot, Settings().n_pilot, Settings(pilot=7).n_pilot
        (500, 100, 7)
        """
        return self.pilot if self.pilot is not None else max(64, self.windows // 10)

    def to_dict(self) -> dict[str, Any]:
        """All keys and values, JSON types only."""
        return asdict(self)


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "corpus_path": _text,
    "corpus": _text,
    "windows": _whole(1),
    "pilot": _whole(2),
    "context": _whole(1),
    "failure_prob": _probability,
    "family_wise": _truth,
    "method": _text,
    "smoothing": _one_of(*SMOOTHINGS),
    "unit": _one_of(*UNITS),
    "upper": _one_of(*UPPER_BOUNDS),
    "compressor": _text,
    "given": _text,
    "code_bits": _bits,
    "artifact": _text,
    "draw_seed": _whole(0),
    "shared_draws": _whole(1),
    "certificates": _text,
}


def parse_settings(metadata: Mapping[str, Any]) -> Settings:
    """The settings in a task's metadata; keys of others are left alone.

    Args:
        metadata: keys as in ``Settings``, with or without the prefix ``lm_bounds.``.

    Raises:
        UsageError: for a value that is not allowed, a prefixed key that does not exist, or a key that is given twice.

    >>> parse_settings({"windows": 200, "pretrained": "gpt2"}).windows
    200
    """
    values: dict[str, Any] = {}
    for key, value in metadata.items():
        name = key.removeprefix(PREFIX)
        if name in _PARSERS:
            parsed = None if value is None else _PARSERS[name](name, value)
            if values.setdefault(name, parsed) != parsed:
                raise UsageError(f"{name} and {PREFIX}{name} were both given, with different values: pass one of them")
        elif key != name:
            raise UsageError(f"unknown metadata key {key!r}{nearest(name, _PARSERS, PREFIX)}")
    return Settings(**{name: value for name, value in values.items() if value is not None})


def check_unknown_keys(metadata: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """The metadata keys that are neither ours nor ``known``; a key that is nearly one of ours is an error.

    Args:
        metadata: all keys of a run, model arguments among them.
        known: parameters of the model class, and keys that lm-eval adds.

    Raises:
        UsageError: for a key within edit distance 2 of one of ours.
    """
    strangers = [key for key in metadata if key not in _PARSERS and key not in known and not key.startswith(PREFIX)]
    for key in strangers:
        distance, meant = min((edit_distance(key, name, 2), name) for name in _PARSERS)
        if distance <= 2:
            raise UsageError(f"unknown metadata key {key!r}: did you mean {meant!r}?")
    return strangers


def edit_distance(left: str, right: str, limit: int) -> int:
    """Levenshtein distance of two words, or ``limit + 1`` when it is larger.

    >>> edit_distance("windws", "windows", 2), edit_distance("dtype", "windows", 2)
    (1, 3)
    """
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return min(row[-1], limit + 1)


KEYS: tuple[str, ...] = tuple(field.name for field in fields(Settings))
