"""Which files a data set on the Hub has at one commit.

``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are heeded through huggingface_hub. The commit that a branch stands
for is looked up once for each source that is opened, and every byte is read at that commit. The list of files is kept,
so that with ``HF_HUB_OFFLINE`` what was read before can be read again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from lm_bounds.corpora.byte_source.block_cache import BlockCache
from lm_bounds.corpora.byte_source.files import FileFacts
from lm_bounds.corpora.byte_source.range_requests import RangeReader, Resource
from lm_bounds.corpora.byte_source.remote import RemoteBytes, RemoteFile
from lm_bounds.errors import CorpusError, UsageError

HUB_SCHEME = "hf://"
_PLACE = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")
_WILD = "*?["


@dataclass(frozen=True)
class HubPlace:
    """Files of a data set.

    Args:
        repository: ``ORG/NAME``.
        revision: branch, tag or commit.
        path: of a file, a folder, or a pattern with ``*``; empty for all.
    """

    repository: str
    revision: str
    path: str

    def __str__(self) -> str:
        revision = quote(self.revision, safe="")
        return f"hf://datasets/{self.repository}@{revision}{'/' + self.path if self.path else ''}"

    def holds(self, name: str) -> bool:
        """Whether a file of the repository is one of these."""
        if any(character in self.path for character in _WILD):
            return fnmatchcase(name, self.path)
        return not self.path or name == self.path or name.startswith(self.path.rstrip("/") + "/")

    @property
    def folder(self) -> str:
        """The folder that has all of them."""
        parts = self.path.split("/")
        wild = [number for number, part in enumerate(parts) if any(character in part for character in _WILD)]
        return "/".join(parts[: wild[0]] if wild else parts[:-1])


class _Entry(NamedTuple):
    path: str
    n_bytes: int
    object_id: str


def parse_place(text: str) -> HubPlace:
    """``hf://datasets/ORG/NAME@REVISION/PATH``, the revision and the path optional.

    Raises:
        UsageError: for another form.

    >>> parse_place("hf://datasets/org/name@v1/part-*.bin").folder
    ''
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise UsageError(f"a place on the Hub is hf://datasets/ORG/NAME@REVISION/PATH, given {text!r}")
    return HubPlace(found["repository"], unquote(found["revision"] or "main"), found["path"] or "")


def open_hub(place: HubPlace, cache_dir: Path, pattern: str = "*") -> RemoteBytes:
    """The files of a data set, at the commit that its revision has at this time.

    Raises:
        CorpusError: the Hub cannot be reached, or has no such repository, revision or file.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    cache, endpoint = BlockCache(cache_dir), constants.ENDPOINT
    kept = cache_dir / "listings" / f"{hashlib.sha256(f'{endpoint} {place}'.encode()).hexdigest()}.json"
    headers: dict[str, str] = build_hf_headers(library_name="lm-bounds")
    reader = None
    if constants.HF_HUB_OFFLINE:
        commit, entries = _listed_before(place, kept)
    else:
        reader = RangeReader()
        commit, entries = _list(place, endpoint, headers, reader)
        cache.write(kept, json.dumps({"commit": commit, "files": entries}).encode())
    entries = [entry for entry in entries if fnmatchcase(entry.path.rpartition("/")[2], pattern)]
    if not entries:
        raise CorpusError(f"{place} holds no file at commit {commit} whose name fits {pattern!r}; check the path")
    files = []
    for entry in sorted(entries):
        url = hf_hub_url(place.repository, entry.path, repo_type="dataset", revision=commit, endpoint=endpoint)
        # Another endpoint may serve other bytes under the same id.
        facts = FileFacts(entry.path, url, entry.n_bytes, f"{endpoint} {place.repository} {entry.object_id}")
        files.append(RemoteFile(facts, Resource(url, headers, entry.n_bytes)))
    return RemoteBytes(str(HubPlace(place.repository, commit, place.path)), files, reader, cache)


def _list(place: HubPlace, endpoint: str, headers: Mapping[str, str], reader: RangeReader) -> tuple[str, list[_Entry]]:
    api = f"{endpoint}/api/datasets/{place.repository}"
    about, _ = reader.json(Resource(f"{api}/revision/{quote(place.revision, safe='')}", headers))
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not commit:
        raise CorpusError(f"{api} does not say which commit {place.revision!r} is; check HF_ENDPOINT")
    folder = "/" + quote(place.folder) if place.folder else ""
    page: str | None = f"{api}/tree/{commit}{folder}?recursive=true"
    entries = []
    while page is not None:
        listed, page = reader.json(Resource(page, headers))
        entries += [_entry(each) for each in listed if each.get("type") == "file" and place.holds(each["path"])]
    return commit, entries


def _entry(listed: Mapping[str, Any]) -> _Entry:
    content = listed.get("lfs") or listed
    return _Entry(listed["path"], int(listed["size"]), f"hub {content['oid']}")


def _listed_before(place: HubPlace, kept: Path) -> tuple[str, list[_Entry]]:
    try:
        listing = json.loads(kept.read_text(encoding="utf-8"))
        return listing["commit"], [_Entry(*entry) for entry in listing["files"]]
    except FileNotFoundError as error:
        raise CorpusError(
            f"{place}: HF_HUB_OFFLINE is set and it was not opened before: unset it, or pass corpus_path=FOLDER with a "
            "copy of the files"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{place}: HF_HUB_OFFLINE is set and {kept} cannot be read: {error}; unset it") from error
