"""Whatever a file holds, verification answers with its failures and does not raise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.certificates import verify
from lm_bounds.certificates.files import SCHEMA, digest

CONTENTS = {
    "nothing": (b"", "is not JSON"),
    "blank": (b" \n ", "is not JSON"),
    "text": (b"With probability at least 0.95", "is not JSON"),
    "half an object": (b'{"schema": "lm-bounds/certificate/1", "claim": {', "is not JSON"),
    "binary": (bytes(range(256)), "is not JSON"),
    "bytes that are not UTF-8": (b'{"schema": "\xff\xfe"}', "is not JSON"),
    "a list": (b"[]", "is not a certificate"),
    "a list of certificates": (b'[{"schema": "lm-bounds/certificate/1"}]', "is not a certificate"),
    "a number": (b"7", "is not a certificate"),
    "null": (b"null", "is not a certificate"),
    "an empty object": (b"{}", "no field 'schema'"),
    "an unknown schema": (b'{"schema": "lm-bounds/certificate/2"}', "schema 'lm-bounds/certificate/2' is unknown"),
    "a schema that is an object": (b'{"schema": {"a": [1]}}', "is unknown"),
    "deep nesting": (b"[" * 200_000 + b"]" * 200_000, "is not JSON"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is not JSON"),
    "NaN": (b'{"schema": "lm-bounds/certificate/1", "x": NaN}', "NaN is no number of JSON"),
    "infinity": (b'{"schema": "lm-bounds/certificate/1", "x": -Infinity}', "-Infinity is no number of JSON"),
    "a float beyond floats": (b'{"schema": "lm-bounds/certificate/1", "x": 1e999}', "shortest digits"),
    "an endless integer": (b'{"schema": "lm-bounds/certificate/1", "x": 1' + b"0" * 6000 + b"}", "is not JSON"),
    "a key twice": (
        b'{"schema": "lm-bounds/certificate/1", "schema": "lm-bounds/certificate/1"}',
        "a key occurs twice",
    ),
    "no digest": (b'{"schema": "lm-bounds/certificate/1"}', "the digest does not fit"),
    "a digest that is a list": (b'{"schema": "lm-bounds/certificate/1", "digest": []}', "the digest does not fit"),
    "half a character": (b'{"schema": "lm-bounds/certificate/1", "x": "\\ud800"}', "not allowed"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents(tmp_path: Path, case: str) -> None:
    content, words = CONTENTS[case]
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    verification = verify(path)
    [failure] = verification.failures
    assert words in failure
    assert failure.isprintable()
    assert (verification.ok, verification.bound, verification.claim) == (False, None, "")
    assert verification.path == path


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in verify(tmp_path / "missing.json").failures[0]
    assert "cannot be read (Is a directory)" in verify(tmp_path).failures[0]
    assert not verify("a\0b").ok


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    assert verify(path).failures


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = ("corpus", "model", "settings", "sample", "claim", "method", "terms", "rates", "complexity")


@settings(deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(SECTIONS, json_values)))
def test_any_sections(tmp_path_factory: pytest.TempPathFactory, sections: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "sections.json"
    fields = {"schema": SCHEMA, **sections}
    path.write_text(json.dumps({**fields, "digest": digest(fields)}), encoding="utf-8")
    assert verify(path).failures


@pytest.mark.parametrize("section", [*SECTIONS, "software", "created"])
def test_a_section_that_is_missing(run: Any, restated: Callable[..., Any], section: str) -> None:
    verification = restated(run, lambda fields: fields.pop(section))
    if section in ("software", "created"):
        assert verification.ok
    else:
        assert any(section in failure for failure in verification.failures)


def test_all_failures_are_named_even_where_the_rest_cannot_be_computed(run: Any, restated: Callable[..., Any]) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["corpus"]["n_documents"] = 10**9
        fields["complexity"]["compressor"] = None

    first, last = restated(run, change).failures
    assert "n_documents" in first
    assert "TypeError" in last


def test_control_characters_of_others_are_not_printed(run: Any, restated: Callable[..., Any]) -> None:
    name = "model\x1b[2J\nother.json: holds."
    verification = restated(run, lambda fields: fields["model"].update(name=name), consistently=True)
    assert verification.ok
    assert r"'model\x1b[2J\nother.json: holds.'" in verification.claim
    assert verification.claim.isprintable()
    named = restated(run, lambda fields: fields["sample"].update(observations=name))
    assert named.failures[0].isprintable()
