"""The canonical form of configurations."""

from __future__ import annotations

import enum

import pytest

from lm_bounds.errors import WeightsError
from lm_bounds.weights import canonical_config


class Kind(str, enum.Enum):
    LORA = "LORA"


def test_order_version_paths_and_dtype_do_not_matter() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "dtype": "float32"}, "_name_or_path": "x", "torch_dtype": "float16"}
    other = {"b": {"c": (1, 2), "_commit_hash": "f"}, "transformers_version": "5", "a": 1}
    assert canonical_config(one) == canonical_config(other) == b'{"a":1,"b":{"c":[1,2]}}'


def test_whatever_changes_the_model_stays() -> None:
    base = canonical_config({"hidden_size": 4, "_remove_final_layer_norm": False, "architectures": ["A"]})
    for change in ({"hidden_size": 5}, {"_remove_final_layer_norm": True}, {"architectures": ["B"]}):
        config = {"hidden_size": 4, "_remove_final_layer_norm": False, "architectures": ["A"], **change}
        assert canonical_config(config) != base


def test_sets_and_enumerations_have_one_form() -> None:
    assert canonical_config({"modules": {"v", "q"}, "kind": Kind.LORA}) == b'{"kind":"LORA","modules":["q","v"]}'
    assert canonical_config({Kind.LORA: 1, 3: "\u00e4"}) == '{"3":"ä","LORA":1}'.encode()


def test_values_without_a_form_are_refused() -> None:
    with pytest.raises(WeightsError, match="cannot be written as JSON"):
        canonical_config({"a": object()})
    with pytest.raises(WeightsError, match="cannot be written as JSON"):
        canonical_config({"a": "\ud800"})
