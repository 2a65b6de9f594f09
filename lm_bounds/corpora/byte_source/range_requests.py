"""Bytes of a file behind a URL, by HTTP range requests that are repeated where that can help.

Repeated with growing, jittered pauses: status 408, 425, 429 and 5xx (a Retry-After is obeyed), timeouts, dropped
connections, answers that end early (what came is kept) or trickle. Never repeated, since it cannot help: other 4xx, a
server that ignores Range (its answer is closed unread: it may be hundreds of gigabytes), a file that changed.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from lm_bounds.errors import CorpusError

CURE = "try again later (what was read is kept), or download the files and pass corpus_path=FOLDER"
CONNECTIONS = 8
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_REPEATED = {408, 425, 429}
_CHUNK_BYTES = 1 << 16

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Args:
        attempts: of one request, >= 1.
        first_pause: seconds after the first failure; doubled each time, times a random number in [0.5, 1.5].
        longest_pause: seconds.
        longest_retry_after: seconds that a server may ask to wait for.
        connect_timeout: seconds.
        read_timeout: seconds without a byte.
        least_rate: bytes per second of an answer, below which it counts as stalled.
    """

    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 30.0
    longest_retry_after: float = 300.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    least_rate: float = 20_000.0

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt."""
        longest: float = min(self.longest_pause, self.first_pause * 2 ** (failures - 1))
        return longest * random.uniform(0.5, 1.5)


class _Transient(Exception):
    """A failure that another attempt may not have."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Resource:
    """A file behind a URL.

    Args:
        url: of the file.
        headers: of each request, such as a token.
        n_bytes: its size; None where it is not known yet.
        etag: that the server gave it; None where none is known, or the URL names content that cannot change.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    n_bytes: int | None = None
    etag: str | None = None

    @property
    def place(self) -> str:
        """The URL without user, password and query."""
        return public_url(self.url)


def public_url(url: str) -> str:
    """A URL without user, password and query, which may hold secrets.

    >>> public_url("https://me:key@host:8080/a.bin?signature=1")
    'https://host:8080/a.bin'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class RangeReader:
    """Reads ranges of bytes; may be used by several threads at once.

    Args:
        patience: with the servers.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self._patience = patience or Patience()
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS))

    def opened(self, resource: Resource) -> Resource:
        """The resource with its size and ETag, from a request for its first byte.

        Raises:
            CorpusError: it cannot be read by ranges.
        """

        def ask() -> Resource:
            with self._answer(resource, {"Range": "bytes=0-0"}, 1) as answer:
                if answer.status_code == 416:
                    raise CorpusError(f"{resource.place} is empty")
                _, _, n_bytes = _content_range(resource, answer)
                etag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                return Resource(resource.url, resource.headers, n_bytes, etag)

        return self._patiently(resource.place, ask)

    def read(self, resource: Resource, start: int, stop: int) -> bytes:
        """Bytes ``start .. stop - 1`` of a resource that was opened.

        Raises:
            CorpusError: they cannot be had, or the file is no longer the one that was opened.
        """
        content = bytearray()

        def ask() -> bytes:
            first = start + len(content)
            with self._answer(resource, {"Range": f"bytes={first}-{stop - 1}"}, stop - first) as answer:
                _check_unchanged(resource, answer, first)
                for chunk in self._chunks(answer, stop - first):
                    content.extend(chunk[: stop - start - len(content)])
            if len(content) < stop - start:
                raise _Transient(f"the answer ended after {len(content)} of {stop - start} bytes")
            return bytes(content)

        return self._patiently(f"{resource.place}, bytes {start} to {stop - 1}", ask)

    def json(self, resource: Resource) -> tuple[Any, str | None]:
        """A JSON answer, and the URL of the page after it; None where there is none.

        Raises:
            CorpusError: it cannot be had.
        """

        def ask() -> tuple[Any, str | None]:
            with self._answer(resource, {}, 1 << 20) as answer:
                try:
                    return answer.json(), answer.links.get("next", {}).get("url")
                except ValueError as error:
                    raise _Transient("the answer is not JSON") from error

        return self._patiently(resource.place, ask)

    def _patiently(self, what: str, ask: Callable[[], _Value]) -> _Value:
        for failures in range(1, self._patience.attempts + 1):
            try:
                return ask()
            except _Transient as error:
                reason, retry_after = str(error), error.retry_after
            if failures < self._patience.attempts:
                if (retry_after or 0) > self._patience.longest_retry_after:
                    raise CorpusError(f"{what}: the server asks to wait for {retry_after:.0f} s ({reason}): {CURE}")
                time.sleep(self._patience.pause(failures) if retry_after is None else retry_after)
        n = self._patience.attempts
        raise CorpusError(f"{what}: not to be had in {n} attempts, the last one: {reason}: {CURE}")

    @contextmanager
    def _answer(self, resource: Resource, headers: Mapping[str, str], n_bytes: int) -> Iterator[Any]:
        """The answer to a GET request, its body unread; closed when the block ends."""
        from requests import exceptions

        sent = {**resource.headers, "Accept-Encoding": "identity", **headers}
        timeouts = (self._patience.connect_timeout, self._patience.read_timeout)
        try:
            with self._session.get(resource.url, headers=sent, stream=True, timeout=timeouts) as answer:
                _check_status(resource, answer, "Range" in headers)
                yield answer
        except (exceptions.SSLError, exceptions.TooManyRedirects, ValueError) as error:  # the last: malformed URLs
            raise CorpusError(f"{resource.place} cannot be read: {error}: {CURE}") from error
        except exceptions.RequestException as error:
            raise _Transient(_in_short(error)) from error

    def _chunks(self, answer: Any, n_bytes: int) -> Iterator[bytes]:
        """The body, as long as it comes fast enough and is not longer than it should be."""
        deadline = time.monotonic() + self._patience.read_timeout + n_bytes / self._patience.least_rate
        for chunk in answer.iter_content(_CHUNK_BYTES):
            yield chunk
            n_bytes -= len(chunk)
            if n_bytes <= 0:
                return
            if time.monotonic() > deadline:
                raise _Transient(f"the answer came more slowly than {self._patience.least_rate:.0f} bytes a second")


def _check_status(resource: Resource, answer: Any, is_range: bool) -> None:
    status = answer.status_code
    if status in _REPEATED or status >= 500:
        raise _Transient(f"status {status}", _retry_after(answer.headers.get("Retry-After")))
    if status == 200 and is_range:
        raise CorpusError(
            f"{resource.place}: the server ignores range requests and would send the whole file: download it and pass "
            "corpus_path=FOLDER"
        )
    if status in (401, 403, 404, 410):
        code = answer.headers.get("X-Error-Code")
        why = {401: "set HF_TOKEN where it needs one", 403: "it is not open to you: accept its terms and set HF_TOKEN"}
        said = why.get(status, "there is no such file or repository, or a private one (set HF_TOKEN for that)")
        raise CorpusError(
            f"{resource.place}: status {status}{f' ({code})' if code else ''}: {said}; or pass corpus_path=FOLDER with "
            "a copy of the files"
        )
    if status not in (200, 206, 416):
        raise CorpusError(f"{resource.place}: unexpected status {status}: {CURE}")


def _content_range(resource: Resource, answer: Any) -> tuple[int, int, int]:
    given = answer.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(given)
    encoding = answer.headers.get("Content-Encoding", "identity")
    if answer.status_code != 206 or found is None or encoding != "identity":
        raise CorpusError(
            f"{resource.place}: the server answers a range request with status {answer.status_code}, Content-Range "
            f"{given!r}, encoding {encoding!r}: download the file and pass corpus_path=FOLDER"
        )
    first, last, n_bytes = (int(text) for text in found.groups())
    return first, last, n_bytes


def _check_unchanged(resource: Resource, answer: Any, first: int) -> None:
    changed = CorpusError(f"{resource.place} was changed while it was read: run again")
    if answer.status_code == 416:
        raise changed
    start, _, n_bytes = _content_range(resource, answer)
    if start != first:
        raise _Transient(f"bytes from {first} on were asked for, bytes from {start} on came")
    etag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if n_bytes != resource.n_bytes or (resource.etag is not None and etag != resource.etag):
        raise changed


def _retry_after(given: str | None) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date; None where it is neither."""
    if given is None:
        return None
    if given.strip().isdigit():
        return float(given)
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())


_REFUSED = re.compile("Connection refused|actively refused")
_LONGEST_REASON = 120
_NO_NAME = re.compile("NameResolution|Name or service not known|getaddrinfo|nodename nor servname")


def _in_short(error: Exception) -> str:
    """What went wrong with a connection, without the URL, which is said already."""
    text = str(error)
    for pattern, meaning in ((_NO_NAME, "the server's name is not known"), (_REFUSED, "the connection was refused")):
        if pattern.search(text):
            return meaning
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + '...'}"
