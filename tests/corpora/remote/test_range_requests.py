"""Ranges over HTTP: every failure that a repetition can mend is mended, every other one is said in one line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora.byte_source.range_requests import Patience, RangeReader, Resource
from lm_bounds.errors import CorpusError

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def resource(server: Any, reader: RangeReader) -> Resource:
    server.files["a.bin"] = CONTENT
    opened = reader.opened(Resource(server.url("a.bin")))
    assert (opened.n_bytes, len(server.asked)) == (len(CONTENT), 1)
    server.asked.clear()
    return opened


def test_a_range_is_one_request(server: Any, reader: RangeReader, resource: Resource) -> None:
    assert reader.read(resource, 1_000, 250_000) == CONTENT[1_000:250_000]
    assert server.asked == [("/a.bin", "bytes=1000-249999")]


PASSING = ["429", "500", "503", "408", "drops", "stalls", "ends early", "stalls halfway", "shifts"]


@pytest.mark.parametrize("fault", PASSING)
def test_failures_that_pass_are_repeated(
    fault: str, server: Any, reader: RangeReader, resource: Resource, pauses: list[float]
) -> None:
    server.faults = [fault, fault]
    assert reader.read(resource, 5, 200_005) == CONTENT[5:200_005]
    assert len(server.asked) == 3
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.75 <= 2 * pauses[1] <= 3.0  # 0.5 s and 1 s, each times 0.5 to 1.5


def test_what_came_is_not_fetched_again(server: Any, reader: RangeReader, resource: Resource) -> None:
    server.faults = ["ends early", "ends early"]
    assert reader.read(resource, 0, 200_000) == CONTENT[:200_000]
    firsts = [int(wanted.split("=")[1].split("-")[0]) for _, wanted in server.asked]
    assert firsts[0] == 0 < firsts[1] < firsts[2]


def test_an_answer_that_trickles_counts_as_stalled(server: Any, pauses: list[float]) -> None:
    server.files["a.bin"] = CONTENT
    hasty = RangeReader(Patience(attempts=1, read_timeout=0.15, least_rate=1e9))
    resource = hasty.opened(Resource(server.url("a.bin")))
    server.always = "trickles"
    with pytest.raises(CorpusError, match="in 1 attempts, the last one: the answer came more slowly than"):
        hasty.read(resource, 0, 300_000)


@pytest.mark.parametrize("fault", ["429", "stalls", "drops"])
def test_a_server_that_never_answers_is_one_line(
    fault: str, server: Any, reader: RangeReader, resource: Resource, pauses: list[float]
) -> None:
    server.always = fault
    with pytest.raises(
        CorpusError, match=r"a\.bin, bytes 0 to 9: not to be had in 4 attempts.*corpus_path=FOLDER"
    ) as caught:
        reader.read(resource, 0, 10)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 4
    assert len(pauses) == 3


def test_retry_after_is_obeyed(server: Any, reader: RangeReader, resource: Resource, pauses: list[float]) -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    server.faults = ["429 7", f"503 {date}", "429 soon"]
    assert reader.read(resource, 0, 10) == CONTENT[:10]
    assert pauses[0] == 7.0
    assert 90 < pauses[1] <= 100
    assert pauses[2] <= 3.0  # not a time: as if there were none
    server.faults = ["429 4000"]
    with pytest.raises(CorpusError, match="the server asks to wait for 4000 s"):
        reader.read(resource, 0, 10)
    assert len(pauses) == 3


def test_a_server_that_ignores_ranges_is_refused_without_its_body(server: Any, reader: RangeReader) -> None:
    server.files["a.bin"] = bytes(60_000_000)
    server.always = "ignores range"
    with pytest.raises(CorpusError, match="ignores range requests and would send the whole file: download it and pass"):
        reader.opened(Resource(server.url("a.bin")))
    assert len(server.asked) == 1
    assert server.sent_bytes < 50_000_000


def test_a_server_that_begins_to_ignore_ranges(server: Any, reader: RangeReader, resource: Resource) -> None:
    server.faults = ["ignores range"]
    with pytest.raises(CorpusError, match="ignores range requests"):
        reader.read(resource, 0, 10)


@pytest.mark.parametrize(
    ("status", "message"), [("401", "HF_TOKEN"), ("403", "accept its terms"), ("404", "no such file")]
)
def test_refusals_are_not_repeated(
    status: str, message: str, server: Any, reader: RangeReader, resource: Resource, pauses: list[float]
) -> None:
    server.always = status
    with pytest.raises(CorpusError, match=rf"status {status}: .*{message}.*corpus_path=FOLDER"):
        reader.read(resource, 0, 10)
    assert len(server.asked) == 1
    assert pauses == []


@pytest.mark.parametrize("content", [CONTENT[:-1], bytes(len(CONTENT)), b"short"])
def test_a_file_that_changes_is_noticed(content: bytes, server: Any, reader: RangeReader, resource: Resource) -> None:
    server.files["a.bin"] = content
    with pytest.raises(CorpusError, match=r"a\.bin was changed while it was read: run again"):
        reader.read(resource, 299_000, 300_000)


def test_a_file_that_ended_is_noticed(server: Any, reader: RangeReader, resource: Resource) -> None:
    server.faults = ["416"]
    with pytest.raises(CorpusError, match="was changed while it was read"):
        reader.read(resource, 0, 10)


def test_empty_and_missing_files(server: Any, reader: RangeReader) -> None:
    server.files["empty.bin"] = b""
    with pytest.raises(CorpusError, match=r"empty\.bin is empty"):
        reader.opened(Resource(server.url("empty.bin")))
    with pytest.raises(CorpusError, match=r"missing\.bin: status 404 \(EntryNotFound\)"):
        reader.opened(Resource(server.url("missing.bin")))


def test_secrets_are_not_shown(server: Any, reader: RangeReader) -> None:
    url = server.url("missing.bin?signature=abc").replace("http://", "http://me:key@")
    with pytest.raises(CorpusError) as caught:
        reader.opened(Resource(url))
    assert "abc" not in str(caught.value)
    assert "key" not in str(caught.value)


def test_nobody_there(reader: RangeReader, pauses: list[float]) -> None:
    with pytest.raises(CorpusError, match=r"not to be had in 4 attempts, the last one: the connection was refused"):
        reader.opened(Resource("http://127.0.0.1:9/a.bin"))
    with pytest.raises(CorpusError, match="cannot be read: "):
        reader.opened(Resource("http://"))
