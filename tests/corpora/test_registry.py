"""The registry: exactly the fields it says, and a name for every miss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_bounds.corpora import CorpusSpec, HubFiles, StoredTokens, corpus_spec, corpus_specs, read_registry, registry
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
    "hub": None,
    "stored_in": None,
    "n_tokens": None,
    "models": ["org/teller"],
}
OPTIONAL = {"parameters", "hub", "stored_in", "n_tokens", "models"}
HUB: dict[str, Any] = {"repository": "org/tales", "revision": "main", "files": "ids/*.bin", "n_files": 3}
STORED_IN: dict[str, Any] = {
    "name": "Tellers",
    "tokenizer": "org/teller",
    "entries": 300,
    "vocabulary_sha256": "0" * 64,
    "end_of_text_id": 299,
}


def spec(**changes: Any) -> CorpusSpec:
    values = {**FIELDS, "metrics": ("bpd", "top1"), "caveats": (), "models": ("org/teller",), **changes}
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
    with pytest.raises(UsageError, match=r"^unknown corpus 'qqq': use one of amber, fineweb_edu, local, "):
        corpus_spec("qqq")


def test_registry_round_trip(tmp_path: Path) -> None:
    assert read_registry(written(tmp_path, [FIELDS])) == {"tales": spec()}
    assert read_registry(written(tmp_path, [{k: v for k, v in FIELDS.items() if k not in OPTIONAL}])) == {
        "tales": spec(models=())
    }
    assert asdict(spec()).keys() == FIELDS.keys()
    stored = {**FIELDS, "layout": "flat_tokens", "hub": HUB, "stored_in": STORED_IN, "n_tokens": 7}
    found = read_registry(written(tmp_path, [stored]))["tales"]
    assert found == spec(layout="flat_tokens", hub=HubFiles(**HUB), stored_in=StoredTokens(**STORED_IN), n_tokens=7)
    assert (found.hub.folder, found.hub.pattern) == ("ids", "*.bin")  # type: ignore[union-attr]


def test_every_entry_of_the_package_says_everything() -> None:
    entries = yaml.safe_load(Path(registry.__file__).with_name("registry.yaml").read_text(encoding="utf-8"))
    assert all(set(entry) == set(FIELDS) for entry in entries)
    assert {"openwebtext", "amber", "pile", "oas", "structured", "random", "local"} <= {
        entry["id"] for entry in entries
    }
    for spec in corpus_specs().values():
        if spec.layout in ("structured", "random"):
            assert spec.n_tokens == spec.parameters["tokens"]
        assert not spec.models or spec.hub is not None


def test_what_is_known_of_amber() -> None:
    """All ids of the rows are 1,259.13 billion, rounded; of 2,049 of a row 2,048 count."""
    amber = corpus_spec("amber")
    assert amber.n_tokens == 1_259_125_000_000 * 2048 // 2049
    assert (amber.hub.n_files, amber.hub.pattern) == (360, "train_*.jsonl")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("field", "changes", "message"),
    [
        ("hub", {"repository": "tales"}, r"'tales': hub\.repository must be ORG/NAME, given 'tales'"),
        ("hub", {"files": " "}, r"hub\.files must be a non-empty string"),
        ("hub", {"n_files": 0}, r"hub\.n_files must be a number of at least 1, or null, given 0"),
        ("hub", {"branch": "main"}, "hub must have exactly the fields of HubFiles; missing: none; unknown: branch"),
        ("stored_in", {"entries": True}, r"stored_in\.entries must be a number of at least 1, given True"),
        ("stored_in", {"vocabulary_sha256": "0" * 63}, r"vocabulary_sha256 must be 64 hexadecimal digits"),
        ("stored_in", {"end_of_text_id": 300}, r"stored_in\.end_of_text_id must be an id below 300, given 300"),
        ("stored_in", {"tokenizer": None}, r"stored_in\.tokenizer must be a non-empty string"),
    ],
)
def test_malformed_storage(tmp_path: Path, field: str, changes: dict[str, Any], message: str) -> None:
    entry = {**FIELDS, "layout": "token_rows", "hub": HUB, "stored_in": STORED_IN}
    entry[field] = {**entry[field], **changes}
    with pytest.raises(CorpusError, match=message):
        read_registry(written(tmp_path, [entry]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub": HubFiles(**HUB)}, "hub must be null for files"),
        ({"layout": "texts"}, "hub must be a HubFiles for texts, given None"),
        ({"layout": "flat_tokens", "hub": HubFiles(**HUB)}, "stored_in must be a StoredTokens for flat_tokens"),
        (
            {"layout": "texts", "hub": HubFiles(**HUB), "stored_in": StoredTokens(**STORED_IN)},
            "stored_in must be null for texts",
        ),
        ({"layout": "texts", "hub": HUB}, "hub must be a HubFiles for texts, given {"),
    ],
)
def test_what_a_layout_needs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        spec(**changes)


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
        ("models", ["org/teller"]),
        ("n_tokens", 0),
        ("n_tokens", 1.5),
        ("n_tokens", True),
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
    plug_in(monkeypatch, spec(id="sagas"), lambda: read_registry(path).values(), [spec(id="myths")])
    assert {"local", "sagas", "tales", "fables", "myths"} <= set(corpus_specs())
    assert read_registry(str(path)) == read_registry(path)
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
        ("local", "a CorpusSpec, several, or a function is needed, found str"),
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
