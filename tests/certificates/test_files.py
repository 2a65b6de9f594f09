"""Canonical JSON, digests, and files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.certificates.files import SCHEMA, canonical_json, digest, read_certificate
from lm_bounds.errors import VerificationError
from lm_bounds.home import write_atomically

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), values, max_size=6)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], order) for key in order.sample(sorted(value), len(value))}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(objects, st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(fields: dict[str, Any], order: random.Random) -> None:
    assert digest(shuffled(fields, order)) == digest(fields)


@settings(deadline=None)
@given(objects, objects)
def test_digest_tells_contents_apart(left: dict[str, Any], right: dict[str, Any]) -> None:
    left, right = ({k: v for k, v in fields.items() if k != "digest"} for fields in (left, right))
    assert (digest(left) == digest(right)) == (canonical_json(left) == canonical_json(right))
    assert digest({**left, "digest": "0"}) == digest(left)
    assert digest({**left, "digest0": 1}) != digest({**left, "digest0": 2})


@settings(deadline=None)
@given(number=finite)
def test_floats_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers.json"
    path.write_text(json.dumps({"schema": SCHEMA, "x": number}, indent=1), encoding="utf-8")
    found = read_certificate(path)["x"]
    assert type(found) is float
    assert (found, math.copysign(1.0, found)) == (number, math.copysign(1.0, number))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_json_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"x": value})


@pytest.mark.parametrize("text", ["0.10", "0.30000000000000001", "1E3", "1e999", "-0", "NaN", "Infinity"])
def test_a_number_can_be_written_in_one_way_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "numbers.json"
    path.write_text(f'{{"schema": "{SCHEMA}", "x": {text}}}', encoding="utf-8")
    with pytest.raises(VerificationError, match=r"is not written with its shortest digits|is no number of JSON"):
        read_certificate(path)


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for content in (b"first", b"second, longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


class _FullDisk:
    """A stream that takes half of what it is given."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def write(self, content: bytes) -> int:
        os.write(self.descriptor, content[: len(content) // 2])
        raise OSError(28, "No space left on device")


def _no_replace(source: str, target: str) -> None:
    raise PermissionError(13, "Permission denied", target)


def _interrupt(source: str, target: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize(
    ("name", "failure", "error"),
    [
        ("fdopen", lambda descriptor, mode: _FullDisk(descriptor), OSError),
        ("replace", _no_replace, PermissionError),
        ("replace", _interrupt, KeyboardInterrupt),
    ],
    ids=["full disk", "no permission", "interrupted"],
)
def test_a_failure_leaves_nothing_behind_and_the_old_file_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    failure: Callable[..., Any],
    error: type[BaseException],
    there_before: bool,
) -> None:
    path = tmp_path / "file.json"
    if there_before:
        write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failure)
        with pytest.raises(error):
            write_atomically(path, b"new content")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([b"old"] if there_before else [])


def test_a_certificate_prints_in_one_line(run: Any) -> None:
    certificate = run.certificates["bpd"]
    assert repr(certificate) == f"Certificate(bpd <= {certificate.bound:.6g}, not vacuous, {str(certificate.path)!r})"
