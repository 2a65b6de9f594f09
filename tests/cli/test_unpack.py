"""``lm-bounds compress --pack`` and ``lm-bounds unpack``: there and back on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.weights import read_checkpoint


@pytest.fixture
def folder(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("llama")


@pytest.mark.parametrize("compressor", ["arithmetic", "best"])
def test_there_and_back(command: Callable[..., Any], folder: Path, tmp_path: Path, compressor: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    done = command("compress", folder, "--compressor", compressor, "--pack", "model.lmb")
    assert (done.code, done.err) == (0, "")
    measured = done.out.splitlines()[:-1]
    n_bytes = (tmp_path / "model.lmb").stat().st_size
    bits = int(measured[-1].split()[1].replace(",", ""))
    assert done.out.splitlines()[-1] == (
        f"packed model.lmb: {n_bytes:,} bytes; reported {bits:,} bits = {bits / 8:,.0f} bytes"
    )
    assert n_bytes <= 1.001 * bits / 8 + 1000

    done = command("unpack", "model.lmb", "restored")
    assert (done.code, done.err) == (0, "")
    weights = read_checkpoint(folder)
    assert weights.sha256() in done.out
    assert read_checkpoint("restored").sha256() == weights.sha256()
    loaded, original = (AutoModelForCausalLM.from_pretrained(each) for each in ("restored", folder))
    assert loaded.dtype == original.dtype
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in original.state_dict().items())

    again = command("compress", "model.lmb", "--compressor", compressor).out.splitlines()
    assert again[0].split(": ")[1] == measured[0].split(": ")[1]
    assert again[-1].split()[:2] == measured[-1].split()[:2]


def test_json(command: Callable[..., Any], folder: Path) -> None:
    packed = json.loads(command("compress", folder, "--pack", "model.lmb", "--json").out)
    n_bytes = Path("model.lmb").stat().st_size
    reported = packed["results"][0]["bits"]
    assert packed["packed"] == {"file": "model.lmb", "bytes": n_bytes, "reported_bits": reported}
    report = json.loads(command("unpack", "model.lmb", "restored", "--json").out)
    assert (report["sha256"], report["tensors"]) == (packed["sha256"], packed["tensors"])
    assert "packed" not in json.loads(command("compress", folder, "--json").out)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("unpack", "model.lmb", "taken"), 1, "taken is there and not an empty folder"),
        (("unpack", "nowhere.lmb", "out"), 1, "cannot read nowhere.lmb"),
        (("unpack", "text.lmb", "out"), 1, "this is not a packed model"),
        (("unpack", "model.lmb", "out", "--max-bytes", "10"), 1, "more than the 10 that are allowed"),
        (("unpack", "model.lmb", "out", "--max-bytes", "-1"), 2, "max-bytes"),
        (("compress", "text.lmb"), 1, "this is not a packed model"),
        (("compress", "model.lmb", "--compressor", "gzip", "--pack", "out"), 2, "arithmetic, best, not with 'gzip'"),
        (("compress", "model.lmb", "--compressor", "all", "--pack", "out"), 2, "arithmetic, best, not with 'all'"),
        (("compress", "model.lmb", "--pack", "taken"), 1, "cannot write taken"),
    ],
)
def test_errors_are_one_line(
    command: Callable[..., Any], folder: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, error: str
) -> None:
    assert command("compress", folder, "--pack", "model.lmb").code == 0
    Path("taken").mkdir()
    Path("taken/file").touch()
    Path("text.lmb").write_text("not a model, but long enough to have a header")
    before = sorted(tmp_path.rglob("*"))
    done = command(*arguments)
    assert done.code == code
    assert error in done.error
    assert sorted(tmp_path.rglob("*")) == before
