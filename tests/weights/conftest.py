"""A server on this machine that answers as the Hub does, for the repositories in a folder, and notes what it sends."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAGGED = "89abcdef0123456789abcdef0123456789abcdef"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": TAGGED, TAGGED: TAGGED}
GATED = "org/gated"
_FILE = re.compile(r"/(?P<id>[^/]+(/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")


@dataclass
class Hub:
    """Repositories in the folders ``ORG/NAME/COMMIT`` of a root.

    Args:
        root: the folder.
        address: to set as HF_ENDPOINT.
        sent: names of the files whose content was sent, in order.
        broken: whether every request is answered with an error.
    """

    root: Path
    address: str = ""
    sent: list[str] = field(default_factory=list)
    broken: bool = False

    def publish(self, name: str, folder: Path, commit: str = COMMIT) -> None:
        """Puts the files of a folder into a repository."""
        shutil.copytree(folder, self.root / name / commit)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.hub.broken:
            return self._refuse(500, "", with_body)
        if wanted := _INFO.fullmatch(self.path):
            return self._info(wanted["id"], wanted["revision"] or "main", with_body)
        wanted = _FILE.fullmatch(self.path)
        if not wanted or not (self.hub.root / wanted["id"]).is_dir():
            return self._refuse(404, "RepoNotFound", with_body)
        if wanted["id"] == GATED:
            return self._refuse(403, "GatedRepo", with_body)
        commit = REVISIONS.get(wanted["revision"])
        if commit is None or not (self.hub.root / wanted["id"] / commit).is_dir():
            return self._refuse(404, "RevisionNotFound", with_body)
        file = self.hub.root / wanted["id"] / commit / wanted["file"]
        if not file.is_file():
            return self._refuse(404, "EntryNotFound", with_body, commit)
        content = file.read_bytes()
        if with_body:
            self.hub.sent.append(wanted["file"])
        return self._send(200, content, with_body, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, commit)

    def _info(self, repository: str, revision: str, with_body: bool) -> None:
        commit = REVISIONS.get(revision)
        folder = self.hub.root / repository / str(commit)
        if not folder.is_dir():
            return self._refuse(404, "RevisionNotFound", with_body)
        names = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        content = json.dumps({"id": repository, "sha": commit, "siblings": names}).encode()
        return self._send(200, content, with_body, {"Content-Type": "application/json"}, str(commit))

    def _refuse(self, status: int, code: str, with_body: bool, commit: str = "") -> None:
        self._send(status, b"", with_body, {"X-Error-Code": code, "X-Error-Message": code}, commit)

    def _send(self, status: int, content: bytes, with_body: bool, headers: dict[str, str], commit: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def running_hub(root: Path) -> Iterator[Hub]:
    """The server, until the block ends."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub on this machine in place of the real one, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running_hub(tmp_path / "repositories") as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the attempts of the library
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub
