"""A server on this machine that sends ranges of files, lists data sets as the Hub does, and fails as it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lm_bounds.corpora.byte_source import range_requests
from lm_bounds.corpora.byte_source.range_requests import Patience, RangeReader

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUICK = Patience(attempts=4, connect_timeout=5.0, read_timeout=0.15, least_rate=1e6)
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_API = re.compile(r"/api/datasets/(?P<id>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/?]+)(?P<rest>.*)")
_RESOLVE = re.compile(r"/datasets/(?P<id>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<file>.+)")


@dataclass
class Server:
    """What it has and does.

    Args:
        files: content by path.
        repositories: by id, files by name.
        faults: of the next requests for bytes, in their order; None for none.
        always: the fault of every request for bytes.
        asked: path and range of every request for bytes.
        listed: paths of the requests for lists.
        tokens: the Authorization headers that came.
        refuses_lists: status and X-Error-Code of every request for a list; None where they are answered.
        no_mark: whether ETag and Last-Modified are left out.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: list[str | None] = field(default_factory=list)
    always: str | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    refuses_lists: tuple[int, str] | None = None
    no_mark: bool = False
    sent_bytes: int = 0
    busy: int = 0
    most_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *arguments: object) -> None:
        self.state = server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        """Nothing on standard error."""

    def do_GET(self) -> None:
        self.state.tokens.add(self.headers.get("Authorization"))
        listing = _API.fullmatch(self.path)
        if listing:
            return self.list_files(listing)
        resolved = _RESOLVE.fullmatch(self.path)
        if resolved:
            content = self.state.repositories.get(resolved["id"], {}).get(resolved["file"])
        else:
            content = self.state.files.get(self.path.partition("?")[0].lstrip("/"))
        if content is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        with self.state.lock:
            self.state.asked.append((self.path, self.headers.get("Range", "")))
            fault = self.state.faults.pop(0) if self.state.faults else self.state.always
            self.state.busy += 1
            self.state.most_busy = max(self.state.most_busy, self.state.busy)
        try:
            self.send_content(content, fault)
        except OSError:  # who asked has gone
            self.close_connection = True
        finally:
            with self.state.lock:
                self.state.busy -= 1

    def send_content(self, content: bytes, fault: str | None) -> None:
        if fault and fault[:3].isdigit():
            status, _, wait = fault.partition(" ")
            headers = {"Retry-After": wait} if wait else {}
            return self.answer(int(status), b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        mark = {} if self.state.no_mark else {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or fault == "ignores range":
            return self.answer(200, content, mark)
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        if first >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        shift = 1 if fault == "shifts" else 0
        mark["Content-Range"] = f"bytes {first + shift}-{last}/{len(content)}"
        if fault == "drops":
            return self.connection.close()
        if fault == "stalls":
            return self.state.stopped.wait(1.0) and None
        body = content[first : last + 1]
        return self.answer(206, body, mark, fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str], fault: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        if fault in ("ends early", "stalls halfway"):
            self.wfile.write(body[:half])
            if fault == "stalls halfway":
                self.state.stopped.wait(1.0)
            self.close_connection = True
            return
        if fault == "trickles":
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                self.state.stopped.wait(0.1)
            return
        for at in range(0, len(body), 1 << 16):
            self.wfile.write(body[at : at + (1 << 16)])
            self.state.sent_bytes += min(1 << 16, len(body) - at)

    def list_files(self, wanted: re.Match[str]) -> None:
        self.state.listed.append(self.path)
        if self.state.refuses_lists is not None:
            status, code = self.state.refuses_lists
            return self.answer(status, b"", {"X-Error-Code": code})
        files = self.state.repositories.get(wanted["id"])
        if files is None or wanted["revision"] not in ("main", COMMIT, "refs%2Fpr%2F1"):
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound" if files is None else "RevisionNotFound"})
        if wanted["what"] == "revision":
            return self.answer(200, json.dumps({"id": wanted["id"], "sha": COMMIT}).encode(), {})
        folder, _, query = wanted["rest"].strip("/").partition("?")
        names = sorted(name for name in files if name.startswith(folder and folder + "/"))
        half = len(names) // 2  # two pages
        shown, headers = names[half:], {}
        if "page=2" not in query:
            shown = names[:half]
            headers = {"Link": f'<{self.state.address}{self.path}&page=2>; rel="next"'}
        entries: list[dict[str, object]] = [{"type": "directory", "oid": "d", "size": 0, "path": "a folder"}]
        for name in shown:
            oid = hashlib.sha1(files[name]).hexdigest()
            size = len(files[name])
            lfs = {"lfs": {"oid": oid + "f", "size": size, "pointerSize": 1}} if name.endswith("bin") else {}
            entries.append({"type": "file", "oid": oid, "size": size, "path": name, **lfs})
        return self.answer(200, json.dumps(entries).encode(), headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, waited for impatiently."""
    state = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state))
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{running.server_address[1]}"
    monkeypatch.setattr(range_requests, "Patience", lambda: QUICK)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    state.stopped.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited between attempts, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def reader(pauses: list[float]) -> RangeReader:
    return RangeReader(QUICK)


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server in place of the Hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return server


@pytest.fixture
def blocks(tmp_path: Path) -> Callable[[], list[Path]]:
    """The files of the cache of blocks."""
    return lambda: [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".json"]
