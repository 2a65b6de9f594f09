"""Trains the two models that come with the package, each on the corpus of its name.

    python examples/train_models.py structured OUT [--steps N]
    python examples/train_models.py random OUT [--steps N]

Both are Llamas of transformers over the twelve tokens of digits, comma and beginning. They are trained on rows of the
very corpus that they are certified on, which costs nothing but the bits of the weights. After training every weight is
rounded to a few bits of mantissa: what is rounded away is not paid for. Takes less than half an hour on two cores.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lm_bounds.corpora import SyntheticCorpus, corpus_spec, number_tokenizer, parameters

LONGEST = 256  # positions: more than any document has tokens
BATCH = 96  # documents
ROWS_AT_ONCE = 500
RECIPES = {
    "structured": {"hidden_size": 64, "intermediate_size": 160, "layers": 4, "steps": 6000, "mantissa_bits": 4},
    "random": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "steps": 3000, "mantissa_bits": 4},
}
LEARNING_RATE = 4e-3
HEADS = 4


def batches(corpus: SyntheticCorpus, n_batches: int, prefix: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels of documents of about one length: the prefix and the document, padding ignored.

    The rows are drawn uniformly from the corpus, those that are cut at a row's end left out.
    """
    generator = np.random.default_rng(0)
    n_rows = corpus.n_tokens // corpus.parameters.row_tokens
    made = 0
    while made < n_batches:
        rows = corpus.rows(generator.integers(n_rows, size=ROWS_AT_ONCE).tolist())
        documents = [tokens[start:stop] for tokens, starts in rows for start, stop in pairwise(starts)]
        documents.sort(key=len)
        groups = [documents[first : first + BATCH] for first in range(0, len(documents) - BATCH + 1, BATCH)]
        for position in generator.permutation(len(groups))[: n_batches - made]:
            group = groups[position]
            inputs = np.full((BATCH, 1 + len(group[-1])), prefix, dtype=np.int64)
            labels = np.full_like(inputs, -100)
            for row, document in enumerate(group):
                inputs[row, 1 : 1 + len(document)] = labels[row, 1 : 1 + len(document)] = document
            made += 1
            yield torch.from_numpy(inputs), torch.from_numpy(labels)


def round_mantissas(model: torch.nn.Module, bits: int) -> None:
    """Rounds every weight to ``bits`` bits of mantissa after the leading one."""
    with torch.no_grad():
        for weight in model.parameters():
            mantissa, exponent = torch.frexp(weight)
            scale = 2.0 ** (bits + 1)
            weight.copy_(torch.ldexp(torch.round(mantissa * scale) / scale, exponent))


def train(name: str, steps: int) -> LlamaForCausalLM:
    """The model after ``steps`` batches."""
    torch.manual_seed(0)
    recipe = RECIPES[name]
    corpus = SyntheticCorpus(name, parameters(corpus_spec(name)), "")
    tokenizer = number_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe["hidden_size"],
            intermediate_size=recipe["intermediate_size"],
            num_hidden_layers=recipe["layers"],
            num_attention_heads=HEADS,
            max_position_embeddings=LONGEST,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
            attn_implementation="eager",  # at these lengths the fastest
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    started, recent = time.perf_counter(), []
    for step, (inputs, labels) in enumerate(batches(corpus, steps, tokenizer.bos_token_id), start=1):
        loss = model(inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item() / math.log(2))
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - started
            print(f"step {step} of {steps}: {np.mean(recent):.3f} bits per token, {seconds:.0f} s", flush=True)
            recent = []
    return model


def main() -> None:
    """Trains one model and saves it with its tokenizer."""
    parser = argparse.ArgumentParser(description="Train a model that comes with lm-bounds.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="batches of documents")
    arguments = parser.parse_args()
    model = train(arguments.name, arguments.steps or RECIPES[arguments.name]["steps"])
    round_mantissas(model, RECIPES[arguments.name]["mantissa_bits"])
    model.save_pretrained(arguments.folder)
    number_tokenizer(LONGEST).save_pretrained(arguments.folder)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters in {arguments.folder}")


if __name__ == "__main__":
    main()
