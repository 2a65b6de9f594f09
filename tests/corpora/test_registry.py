"""The registry: exactly the fields it says, and a name for every miss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_bounds.corpora import CorpusSpec, corpus_spec, corpus_specs, read_registry, registry
from lm_bounds.errors import CorpusError, UsageError

FIELDS: dict[str, Any] = {
    "id": "tales",
    "title": "Tales",
    "description": "Tales of old.",
    "layout": "files",
    "metrics": ["bpd", "top1"],
    "n_tokens_kind": "declared",
    "document_rule": "A tale is a document.",
    "end_of_text_rule": "None.",
    "licence": "CC0",
    "caveats": [],
    "parameters": {},
}


def spec(**changes: Any) -> CorpusSpec:
    values = {**FIELDS, "metrics": ("bpd", "top1"), "caveats": (), **changes}
    return CorpusSpec(**values)


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_local_is_registered() -> None:
    local = corpus_specs()["local"]
    assert local == corpus_spec("local")
    assert local.metrics == ("bpd", "top1", "top10", "top100")
    assert local.n_tokens_kind == "exact"
    with pytest.raises(FrozenInstanceError):
        local.id = "other"  # type: ignore[misc]


def test_miss_has_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"^unknown corpus 'locl': did you mean 'local'\?$") as caught:
        corpus_spec("locl")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"^unknown corpus 'qqq': use one of fineweb_edu, local, "):
        corpus_spec("qqq")


def test_registry_round_trip(tmp_path: Path) -> None:
    assert read_registry(written(tmp_path, [FIELDS])) == {"tales": spec()}
    assert read_registry(written(tmp_path, [{k: v for k, v in FIELDS.items() if k != "parameters"}])) == {
        "tales": spec()
    }
    assert asdict(spec()).keys() == FIELDS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- [", "cannot be read"),
        ("id: x", "must be a list of corpora, found dict"),
        ("", "must be a list of corpora, found NoneType"),
        (["local"], "entry 0 must be a mapping"),
        ([{**FIELDS, "tokens": 3}], "missing: none; unknown: tokens"),
        (
            [{k: v for k, v in FIELDS.items() if k not in ("licence", "title")}],
            "missing: licence, title; unknown: none",
        ),
        ([FIELDS, FIELDS], "two corpora with the id 'tales'"),
        ([{**FIELDS, "metrics": "bpd"}], "metrics must be"),
        ([{**FIELDS, "title": None}], "title must be a non-empty string"),
    ],
)
def test_malformed_registry(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_registry(written(tmp_path, content))


def test_missing_registry(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_registry(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "Tales"),
        ("id", "two words"),
        ("id", "tales\n"),
        ("id", 3),
        ("title", " "),
        ("licence", None),
        ("n_tokens_kind", "roughly"),
        ("n_tokens_kind", ["exact"]),
        ("layout", "tape"),
        ("parameters", {"seed": 3}),
        ("parameters", None),
        ("metrics", ()),
        ("metrics", ("bpd", "bpd")),
        ("metrics", ("perplexity",)),
        ("metrics", ["bpd"]),
        ("metrics", (["bpd"],)),
        ("caveats", "one"),
        ("caveats", ("",)),
    ],
)
def test_malformed_spec(field: str, value: object) -> None:
    with pytest.raises(CorpusError, match=f"{field} must be"):
        spec(**{field: value})


def plug_in(monkeypatch: pytest.MonkeyPatch, *loaded: object) -> None:
    class Loaded:
        def __init__(self, name: str, value: object) -> None:
            self.name, self.value, self._loaded = name, f"other_package:{name}", value

        def load(self) -> object:
            return self._loaded

    def entry_points(*, group: str) -> list[Loaded]:
        assert group == "lm_bounds.corpora"
        return [Loaded(f"plugin{number}", value) for number, value in enumerate(loaded)]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_entry_points_add_specs_and_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, [FIELDS, {**FIELDS, "id": "fables"}])
    plug_in(monkeypatch, spec(id="sagas"), lambda: read_registry(path).values())
    assert {"local", "sagas", "tales", "fables"} <= set(corpus_specs())
    assert corpus_spec("sagas").title == "Tales"


def fails() -> list[CorpusSpec]:
    raise RuntimeError("no network")


def gives_a_name() -> list[str]:
    return ["local"]


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (spec(id="local"), "adds corpus 'local', which is already registered"),
        (fails, "plugin0 = other_package:plugin0 .* RuntimeError: no network"),
        (gives_a_name, "must give CorpusSpec objects, gave str"),
        ("local", "a CorpusSpec or a function is needed, found str"),
    ],
)
def test_entry_points_that_fail(
    monkeypatch: pytest.MonkeyPatch, loaded: CorpusSpec | Callable[[], object] | str, message: str
) -> None:
    plug_in(monkeypatch, loaded)
    with pytest.raises(CorpusError, match=message):
        corpus_specs()


def test_entry_point_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "lm_bounds_no_such_package:spec", "lm_bounds.corpora")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [broken])
    with pytest.raises(CorpusError, match=r"lm_bounds_no_such_package.*uninstall the package"):
        corpus_specs()
