"""What docs/corpora.md says: every corpus of the registry is in it, and its example works as it stands there."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.corpora import corpus_spec, corpus_specs, open_corpus, registry
from lm_bounds.tasks.task import BoundTask

DOCS = (Path(__file__).parent.parent / "docs" / "corpora.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)
    return str(found)


def test_every_corpus_is_in_the_table_with_its_number_of_tokens() -> None:
    rows = {line.split("|")[1].strip().strip("`"): line for line in DOCS.splitlines() if re.match(r"\| `[a-z]", line)}
    specs = corpus_specs()
    assert list(rows) == list(specs)
    for corpus_id, row in rows.items():
        tokens = row.split("|")[3]
        number, kind = specs[corpus_id].n_tokens, specs[corpus_id].n_tokens_kind
        written = {None: "", 10**9: "10⁹"}.get(number, f"{number:,}" if number else "")
        assert written in tokens
        assert {"exact": "exact" if number else "counted", "lower_bound": "lower bound"}.get(kind, kind) in tokens
        stored = specs[corpus_id].stored_in
        assert stored is None or stored.tokenizer in DOCS
        assert all(model.partition("/")[0] in row for model in specs[corpus_id].models)


class Letters:
    """A tokenizer of letters."""

    special_tokens_map = {"eos_token": "<eot>"}  # noqa: RUF012

    def __len__(self) -> int:
        return 27

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[ord(letter) - 97 for letter in item] for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + place): place for place in range(27)}


def test_the_example_adds_a_corpus_and_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(block("python").splitlines()) <= 10
    (tmp_path / "my_corpora.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    [group] = re.findall(r'\[project\.entry-points\."(.*)"\]', block("toml"))
    [(name, value)] = re.findall(r'^(\w+) = "(.*)"$', block("toml"), re.MULTILINE)
    assert group == registry.ENTRY_POINT_GROUP
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [EntryPoint(name, value, group)])
    spec = corpus_spec("tales")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "part-1.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("ab", "c")))
    corpus = open_corpus(
        spec, str(tmp_path / "copy"), Letters(), end_of_text_id=26, n_logits=None, cache_dir=tmp_path / "cache"
    )
    assert 3 <= corpus.n_tokens <= 5
    assert corpus.slots is not None

    from lm_eval.tasks import TaskManager

    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tales.yaml").write_text(block("yaml"))
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    [task] = manager.load(["tales_bpd_bound"])["tasks"].values()
    assert isinstance(task, BoundTask)
    assert (task.corpus_id, task.metric) == ("tales", "bpd")
