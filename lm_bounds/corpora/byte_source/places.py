"""From what a user points at to a source of bytes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from lm_bounds.corpora.byte_source.block_cache import BlockCache
from lm_bounds.corpora.byte_source.files import ByteSource, FileFacts, LocalBytes
from lm_bounds.corpora.byte_source.hub_files import HUB_SCHEME, open_hub, parse_place
from lm_bounds.corpora.byte_source.range_requests import CONNECTIONS, RangeReader, Resource, public_url
from lm_bounds.corpora.byte_source.remote import RemoteBytes, RemoteFile
from lm_bounds.errors import CorpusError, UsageError

_SCHEMES = ("http://", "https://", HUB_SCHEME)
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_URLS = 100_000


def is_remote(place: str) -> bool:
    """Whether a place is a URL or on the Hub, not a path.

    >>> is_remote("https://host/a.bin"), is_remote("data/a.bin")
    (True, False)
    """
    return place.startswith(_SCHEMES)


def numbered_urls(pattern: str) -> Iterator[str]:
    """The URLs that ``{FIRST..LAST}`` stands for, numbers as wide as they are written.

    Raises:
        UsageError: the numbers fall, or are too many.

    >>> list(numbered_urls("https://host/part_{08..10}.bin"))
    ['https://host/part_08.bin', 'https://host/part_09.bin', 'https://host/part_10.bin']
    """
    found = _NUMBERS.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_URLS:
        raise UsageError(f"{found[0]} must rise, to at most {_MOST_URLS} numbers")
    for number in range(first, last + 1):
        yield from numbered_urls(f"{pattern[: found.start()]}{number:0{len(found[1])}}{pattern[found.end() :]}")


def open_bytes(place: str, cache_dir: Path, pattern: str = "*") -> ByteSource:
    """The files at a place, in the order of their names.

    Args:
        place: a file or a folder; ``http://`` or ``https://``, with ``{000..123}`` for numbered files;
            ``hf://datasets/ORG/NAME@REVISION/PATH`` for a file, a folder or a pattern on the Hub.
        cache_dir: folder for what is read from afar.
        pattern: that the names of the files must fit; others in a folder are left alone, and others that are named are
            refused.

    Raises:
        CorpusError: there is nothing, or it cannot be read.
        UsageError: the place is malformed.
    """
    if place.startswith(HUB_SCHEME):
        return open_hub(parse_place(place), cache_dir, pattern)
    if is_remote(place):
        return _open_urls(place, cache_dir, pattern)
    location = Path(place).expanduser()
    if not location.is_dir():
        check_name(location.name, pattern)
        return LocalBytes(place, [(location.name, location)])
    paths = sorted(location.iterdir(), key=lambda path: path.name)
    fitting = [(path.name, path) for path in paths if fnmatchcase(path.name, pattern) and _is_visible_file(path)]
    if not fitting:
        raise CorpusError(f"{place} has no file whose name fits {pattern!r}; name the folder that has them")
    return LocalBytes(place, fitting)


def check_name(name: str, pattern: str) -> None:
    """Refuses a file that is none of those that are wanted.

    Raises:
        CorpusError: the last part of its name does not fit.
    """
    if not fnmatchcase(name.rpartition("/")[2], pattern):
        raise CorpusError(
            f"{name} is no file of this corpus, whose names fit {pattern!r}; name the folder that has them"
        )


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _open_urls(place: str, cache_dir: Path, pattern: str) -> RemoteBytes:
    urls = list(islice(numbered_urls(place), _MOST_URLS + 1))
    if len(urls) > _MOST_URLS:
        raise UsageError(f"{public_url(place)} stands for more than {_MOST_URLS} files; name fewer")
    for url in urls:
        check_name(urlsplit(url).path, pattern)
    reader = RangeReader()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        resources = list(pool.map(reader.opened, map(Resource, urls)))
    return RemoteBytes(public_url(place), [_remote_file(each) for each in resources], reader, BlockCache(cache_dir))


def _remote_file(resource: Resource) -> RemoteFile:
    n_bytes = resource.n_bytes or 0
    # Without a mark of the server's nothing tells a changed file from an unchanged one: it is kept for this run alone.
    identity = f"{resource.url} {resource.etag or secrets.token_hex(16)}"
    name = urlsplit(resource.url).path.lstrip("/")
    return RemoteFile(FileFacts(name, resource.place, n_bytes, identity), resource)
