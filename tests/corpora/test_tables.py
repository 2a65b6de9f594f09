"""Tables as text of the user's own: each row of the column "text" is a document, however many files it is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_bounds.corpora import TokenCorpus, local
from lm_bounds.corpora.slots import SlotCorpus
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import draw_windows, stream_seed

TEXTS = ["one\n", "zwei é", None, "", "🙂" * 9, "with \0 inside", "one\n", " "]


def table(texts: list[Any], kind: Any = None) -> pa.Table:
    return pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, kind or pa.string())})


@pytest.fixture
def from_lines(text_dir: Path, opened: Any, plain_bytes: Any) -> Callable[..., TokenCorpus]:
    """The corpus of documents in a .jsonl file."""

    def open_them(texts: list[Any]) -> Any:
        path = text_dir.parent / "twin.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text is not None))
        return opened(path, plain_bytes())

    return open_them


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_rows_are_documents(kind: Any, text_dir: Path, opened: Any, plain_bytes: Any, from_lines: Any) -> None:
    pq.write_table(table(TEXTS, kind), text_dir / "t.PARQUET", row_group_size=3)
    for name, make in {"f.arrow": pa.ipc.new_file, "s.arrow": pa.ipc.new_stream}.items():
        with make(text_dir / name, table([], kind).schema) as writer:
            writer.write_table(table(TEXTS[:3], kind))
            writer.write_table(table(TEXTS[3:], kind))
    wanted = from_lines(TEXTS)
    assert wanted.n_documents == 5  # neither null nor empty, and no copies
    for name in ["t.PARQUET", "f.arrow", "s.arrow"]:
        corpus = opened(text_dir / name, plain_bytes())
        assert isinstance(corpus, TokenCorpus)
        assert corpus.sha256() == wanted.sha256()


def test_folders_as_datasets_writes_them(text_dir: Path, opened: Any, plain_bytes: Any, from_lines: Any) -> None:
    import datasets

    texts = [f"document {number}" for number in range(40)]
    split = {"train": texts[:30], "validation": texts[30:]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": part}) for name, part in split.items()})
    saved.save_to_disk(text_dir / "saved", num_shards={"train": 3, "validation": 1})
    names = {path.name for path in (text_dir / "saved").rglob("*.json")}
    assert names == {"dataset_dict.json", "dataset_info.json", "state.json"}
    assert opened(text_dir / "saved", plain_bytes()).sha256() == from_lines(texts).sha256()


def test_folders_as_on_the_hub(text_dir: Path, opened: Any, plain_bytes: Any, from_lines: Any) -> None:
    (text_dir / "data").mkdir()
    for number in range(3):
        pq.write_table(table([f"document {number}"] * 2), text_dir / "data" / f"train-{number:05}-of-00003.parquet")
    (text_dir / "README.md").write_text("---\nlicence: mit\n---")
    (text_dir / ".gitattributes").write_text("*.parquet filter=lfs")
    assert opened(text_dir, plain_bytes()).sha256() == from_lines([f"document {n}" for n in range(3)]).sha256()
    (text_dir / "notes.txt").write_text("a document too")
    assert opened(text_dir, plain_bytes()).n_documents == 4


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.arrow", "t.txt", "t.md", "without_suffix"])
def test_more_text_is_read_where_it_is_drawn(
    name: str, text_dir: Path, cache_dir: Path, opened: Any, plain_bytes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the same document"] * 20 + ["another, a longer one " * 9]
    path = text_dir / name
    if name == "t.parquet":
        pq.write_table(table(texts), path, use_dictionary=False)
    elif name == "t.arrow":
        with pa.ipc.new_stream(path, table([]).schema) as writer:
            writer.write_table(table(texts))
    else:
        path.write_text("\n".join(json.dumps({"text": text}) if name == "t.jsonl" else text for text in texts))
    assert isinstance(opened(path, plain_bytes()), TokenCorpus)
    monkeypatch.setattr(local, "TOKENISED_BYTES", 500)
    for place in (path, text_dir):
        corpus = opened(place, plain_bytes())
        assert isinstance(corpus, SlotCorpus)
        assert corpus.n_tokens_kind == "lower_bound"
        assert len(draw_windows(corpus, 50, 8, stream_seed("certify", 1))) == 50
    with pytest.raises(UsageError, match="lies inside the corpus"):
        opened(text_dir, plain_bytes(), text_dir / "cache")


def test_how_much_text_a_table_holds_is_what_counts(
    text_dir: Path, opened: Any, plain_bytes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = text_dir / "t.parquet"
    pq.write_table(table([f"{'again and ' * 1000}{number}" for number in range(50)]), path, compression="zstd")
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(local, "TOKENISED_BYTES", 100_000)
    assert isinstance(opened(path, plain_bytes()), SlotCorpus)


def test_rows_that_are_no_text(text_dir: Path, opened: Any, plain_bytes: Any) -> None:
    path = text_dir / "t.parquet"
    pq.write_table(table(["fine", "CAFE"]), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"CAFE", b"caf\xe9"))
    with pytest.raises(CorpusError, match=r"t\.parquet is not UTF-8 text"):
        opened(path, plain_bytes())
