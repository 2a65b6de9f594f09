"""``lm-bounds demo``."""

from __future__ import annotations

import os

import click

from lm_bounds.cli.start import OWN_TEXT, echo_steps


@click.command()
@click.option("--windows", type=click.IntRange(1), default=1000, show_default=True, help="Certifying windows.")
def demo(windows: int) -> None:
    """Certify the built-in model on the built-in corpus, without a network.

    The model's loss and error rate on 10^9 tokens of integer sequences are bounded from its size and a sample.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_bounds.certificates import latest_certificates
    from lm_bounds.home import certificate_root
    from lm_bounds.models import built_in_model
    from lm_bounds.tasks.harness import run_harness

    model = built_in_model("structured")
    options = "--device cpu --batch_size 32 --tasks structured_bounds"
    command = f'lm_eval --model hf --model_args pretrained="$(lm-bounds models path {model.name})" {options}'
    command += f" --metadata windows={windows}"
    click.echo(f"$ {command}")
    run_harness(["--model=hf", f"--model_args=pretrained={model.path}", *options.split()], {"windows": windows})
    found = latest_certificates(certificate_root(None) / model.name)
    for certificate in found:
        click.echo(f"\n{certificate.claim}\n  {certificate.path}")
    click.echo("\nNext:")
    echo_steps(
        (
            (f"lm-bounds verify {found[0].path.parent}", "recompute the certificates"),
            (f'lm-bounds compress "$(lm-bounds models path {model.name})" --compressor all', "what the model weighs"),
            (command.replace("structured_bounds", "random_bounds"), "the same model where there is nothing to learn"),
            OWN_TEXT,
        )
    )
