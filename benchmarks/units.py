"""How much less computing a window needs than a token for the same certified width.

For each unit a run of each built-in model is certified with about as many forwarded tokens, and the sampling term of
its bound, the half-width, is compared. A half-width shrinks like one over the root of the number of draws, so that the
ratio of the squares, at equal computing, is how many times more a token costs than a window for equal width.

    python benchmarks/units.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_bounds
from lm_bounds.models import BUILT_IN_MODELS, built_in_model


def forwarded_tokens(certificate: lm_bounds.Certificate) -> int:
    """Positions that the network computed for the certifying windows, prefix tokens included."""
    fields = certificate.fields
    with np.load(certificate.path.parent / fields["sample"]["observations"]) as arrays:
        return int((arrays["stop"] - arrays["start"]).sum())


def half_width(name: str, unit: str, windows: int, folder: str) -> tuple[float, int]:
    """(sampling term of the bpd bound, forwarded tokens) of one run of a built-in model on the corpus of its name."""
    path = built_in_model(name).path
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    [certificate] = lm_bounds.certify(
        model,
        tokenizer,
        name,
        ["bpd"],
        batch_size=32,
        windows=windows,
        unit=unit,
        upper="kl_inf",
        certificates=folder,
    )
    return float(certificate.fields["terms"]["sampling"]), forwarded_tokens(certificate)


def main() -> None:
    """Prints one row for each unit, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the windows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    windows = 200 if arguments.quick else 2000
    report = {}
    for name in BUILT_IN_MODELS:
        rows = {}
        with tempfile.TemporaryDirectory() as folder:
            # a token is on average in the middle of its window: twice as many draws are about as many forwarded tokens
            for unit, n in (("window", windows), ("token", 2 * windows)):
                width, tokens = half_width(name, unit, n, folder)
                rows[unit] = {"draws": n, "forwarded_tokens": tokens, "half_width_bits": width}
        of_window, of_token = (
            row["half_width_bits"] ** 2 * row["forwarded_tokens"] for row in (rows["window"], rows["token"])
        )
        report[name] = {"units": rows, "compute_ratio_for_equal_width": of_token / of_window}
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    for name, found in report.items():
        for unit, row in found["units"].items():
            numbers = (
                f"{row['draws']:6} draws {row['forwarded_tokens']:9,} tokens  +- {row['half_width_bits']:.4f} bits"
            )
            print(f"{name:11} {unit:7} {numbers}")
        ratio = found["compute_ratio_for_equal_width"]
        print(f"{name:11} for equal width a token costs {ratio:.1f} times the computing of a window")


if __name__ == "__main__":
    main()
