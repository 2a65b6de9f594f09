"""A model's configuration and aliases given those of a prior, as one JSON text.

    {"aliases": null | [[dropped, kept], ...], "config": FORM}

``null`` where the aliases are those that the prior leads to. FORM is the first of the shortest of

    null                                   the prior's configuration
    {"set": {...}, "unset": [...]}         the prior's, some keys set and others removed
    {"prior_as": [...], "set": {...}}      an object of its own, some keys of which hold the prior's configuration
    {"text": "..."}                        the text itself
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lm_bounds.errors import WeightsError

Aliases = tuple[tuple[str, str], ...]


def split_header(config: bytes, aliases: Aliases, prior: bytes, inherited: Aliases) -> bytes:
    """What has to be written down of a configuration and of aliases.

    Args:
        config: canonical JSON.
        aliases: of the weights.
        prior: the prior's configuration.
        inherited: the aliases that hold where none are written down.

    Returns:
        Compact JSON, from which ``merged_header`` makes both again.
    """
    fitting = [form for form in _forms(config, prior) if _merged(form, prior) == config]
    form = min(fitting, key=lambda form: len(_compact(form)))
    return _compact({"aliases": None if aliases == inherited else [list(alias) for alias in aliases], "config": form})


def merged_header(header: bytes, prior: bytes, inherited: Aliases) -> tuple[bytes, Aliases]:
    """The inverse of ``split_header``: configuration and aliases.

    Raises:
        WeightsError: the header is none that ``split_header`` writes.
    """
    try:
        fields = json.loads(header)
        config = _merged(fields["config"], prior)
        aliases = fields["aliases"]
        return config, inherited if aliases is None else tuple((dropped, kept) for dropped, kept in aliases)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"the header of weights given a prior is broken: {error!r}") from error


def _forms(config: bytes, prior: bytes) -> Iterator[Any]:
    """All forms, whether they lead back to the configuration or not; the last one does."""
    yield None
    own, before = _object(config), _object(prior)
    if own is not None and before is not None:
        changed = {key: value for key, value in own.items() if key not in before or value != before[key]}
        yield {"set": changed, "unset": sorted(set(before) - set(own))}
        nested = sorted(key for key, value in own.items() if value == before)
        yield {"prior_as": nested, "set": {key: value for key, value in own.items() if key not in nested}}
    yield {"text": config.decode()}


def _merged(form: Any, prior: bytes) -> bytes:
    if form is None:
        return prior
    if "text" in form:
        return str(form["text"]).encode()
    before = json.loads(prior)
    if "prior_as" in form:
        return _compact({**form["set"], **dict.fromkeys(form["prior_as"], before)})
    kept = {key: value for key, value in before.items() if key not in form["unset"]}
    return _compact({**kept, **form["set"]})


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
