"""Text behind a URL or on the Hub: the draws are those of a local copy, and few bytes are read for them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_bounds.corpora import FlatTokens, local, open_local
from lm_bounds.corpora.slots import SlotCorpus
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import draw_windows, stream_seed


def texts(n: int) -> list[str]:
    made = random.Random(n)
    return ["".join(made.choices("abcde fgé", k=made.choice([5, 300, 4_000]))) for _ in range(n)]


def written(suffix: str, documents: list[str]) -> bytes:
    if suffix == "jsonl":
        return "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in documents).encode()
    if suffix == "txt":
        return "\n".join(documents).encode()
    stream = io.BytesIO()
    other = pa.array([bytes(random.Random(0).randbytes(3_000))] * len(documents))
    table = pa.table({"image": other, "text": documents, "more": other})
    pq.write_table(table, stream, row_group_size=7, use_dictionary=False)
    return stream.getvalue()


@pytest.fixture
def open_it(tmp_path: Path, plain_bytes: Any) -> Callable[..., Any]:
    def opened(place: str, cache: str = "cache") -> Any:
        return open_local(place, plain_bytes(), end_of_text_id=256, n_logits=None, cache_dir=tmp_path / cache)

    return opened


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "txt"])
def test_draws_are_those_of_a_local_copy(
    suffix: str, server: Any, pauses: Any, tmp_path: Path, open_it: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "TOKENISED_BYTES", 1)
    (tmp_path / "copy").mkdir()
    for number in range(3):
        content = written(suffix, texts(60 + number))
        (tmp_path / "copy" / f"{number}.{suffix}").write_bytes(content)
        server.files[f"a/{number}.{suffix}"] = content
    near, far = open_it(str(tmp_path / "copy")), open_it(server.url(f"a/{{0..2}}.{suffix}?key=1"))
    seed = stream_seed("certify", 1)
    server.faults += [None, "503", "ends early", "drops", None, "429 0"]
    one, other = (draw_windows(corpus, 60, 9, seed) for corpus in (near, far))
    for name in ("token_index", "start", "stop", "attempt", "voided"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for start, stop in zip(one.start.tolist(), one.stop.tolist(), strict=True):
        np.testing.assert_array_equal(near.read(start, stop), far.read(start, stop))
    assert isinstance(far, SlotCorpus)
    assert near.n_tokens == far.n_tokens
    assert near.sha256() == far.sha256()
    asked = len(server.asked)
    again = open_it(server.url(f"a/{{0..2}}.{suffix}?key=1"))
    np.testing.assert_array_equal(draw_windows(again, 60, 9, seed).start, one.start)
    assert len(server.asked) == asked + 3  # the ETags are looked at, and nothing is read again


def test_of_a_parquet_file_footers_and_row_groups_of_the_column_are_read(server: Any, open_it: Any) -> None:
    documents = texts(4_000)
    server.files["t.parquet"] = content = written("parquet", documents)
    footer = pq.read_metadata(io.BytesIO(content))
    corpus = open_it(server.url("t.parquet"))
    cells = corpus.cells
    assert cells.number > sum(len(text.encode()) for text in documents)
    asked = len(server.asked)
    assert asked < 6
    group = footer.row_group(300)
    before = sum(footer.row_group(k).column(1).total_uncompressed_size + 2 * 7 for k in range(300))
    server.sent_bytes = 0
    [cell] = cells.at(np.array([before]))
    assert cell.content.text == documents[2100]
    assert server.sent_bytes < group.column(1).total_compressed_size + (1 << 17)
    assert len(server.asked) <= asked + 2
    server.most_busy = 0
    cells.at(np.linspace(0, cells.number - 1, 40).astype(np.int64))
    assert 2 <= server.most_busy <= 8  # several row groups at a time


def test_data_sets_on_the_hub(hub: Any, open_it: Any, tmp_path: Path) -> None:
    files = {f"data/train-{number}.parquet": written("parquet", texts(30 + number)) for number in range(2)}
    hub.repositories["org/set"] = {"README.md": b"card", ".gitattributes": b"lfs", "dataset_infos.json": b"{}", **files}
    for place in ("hf://datasets/org/set", "hf://datasets/org/set@main/data", "hf://datasets/org/set/data/*.parquet"):
        corpus = open_it(place)
        assert isinstance(corpus, SlotCorpus)
        assert len(draw_windows(corpus, 20, 8, stream_seed("certify", 1))) == 20
    hub.repositories["org/lines"] = {"README.md": b"card", "a.jsonl": written("jsonl", texts(20))}
    assert open_it("hf://datasets/org/lines").n_tokens > 0
    hub.repositories["org/tokens"] = {"README.md": b"card", "a.bin": np.arange(99, dtype="<u2").tobytes()}
    assert isinstance(open_it("hf://datasets/org/tokens"), FlatTokens)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", r"a\.csv: \.csv is no kind of text that is read from afar"),
        ("a.jsonl.gz", r"\.gz is no kind of text"),
        ("plain", "a name without a suffix is no kind of text"),
        ("a.arrow", r"\.arrow files are read on this machine alone"),
        ("a.parquet", r"a\.parquet is a pointer of git-lfs"),
        ("a.jsonl", r"a\.jsonl is a pointer of git-lfs"),
        ("a.txt", r"a\.txt is a pointer of git-lfs"),
    ],
)
def test_what_is_no_text_is_refused(name: str, message: str, server: Any, open_it: Any) -> None:
    server.files[name] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    with pytest.raises(CorpusError, match=message):
        _ = open_it(server.url(name)).n_tokens


def test_a_server_that_fails_is_named(server: Any, pauses: Any, open_it: Any) -> None:
    server.files["t.parquet"] = written("parquet", texts(400))
    corpus = open_it(server.url("t.parquet"))
    assert corpus.cells.number
    server.always = "500"
    with pytest.raises(CorpusError, match=r"t\.parquet, bytes .*: not to be had in 4 attempts"):
        corpus.cells.at(np.array([0]))
