"""Trains a byte-level language model on the Python standard library's source and certifies it on that text.

Everything is made on this machine: the corpus is the source of the interpreter that runs this script, the tokenizer is
one token per byte, and the model is a small Llama of transformers, trained for about a minute on two cores. Then plain
`lm_eval` prints the bounds, and `lm-bounds verify` recomputes them from the certificates.

    python examples/certify_own_text.py [FOLDER]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from train_models import round_mantissas
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 256
BATCH = 24
STEPS = 450
LEARNING_RATE = 6e-3
MANTISSA_BITS = 2  # of the 23 of a float32: the others are rounded away after training and cost nothing
END_OF_TEXT = "<|endoftext|>"


def collect_corpus(folder: Path) -> None:
    """Copies every .py file of the standard library that is UTF-8 text, keeping the layout."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for source in sorted(library.rglob("*.py")):
        relative = source.relative_to(library)
        if "site-packages" in relative.parts or "__pycache__" in relative.parts:
            continue
        content = source.read_bytes()
        if content and b"\0" not in content and _is_utf8(content):
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end-of-text token: 257 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END_OF_TEXT: 0, **{letter: number for number, letter in enumerate(alphabet, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, model_max_length=CONTEXT, clean_up_tokenization_spaces=False
    )


def corpus_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The token ids of all files, each followed by the end-of-text token; shape (tokens,)."""
    rows = []
    for path in sorted(folder.rglob("*.py")):
        ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
        rows.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.int16))
    return torch.from_numpy(np.concatenate(rows))


def train(tokens: torch.Tensor, vocab_size: int) -> LlamaForCausalLM:
    """A small Llama after STEPS batches of random stretches of the corpus."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    started = time.perf_counter()
    for step in range(STEPS):
        starts = torch.randint(len(tokens) - CONTEXT, (BATCH, 1))
        batch = tokens[starts + torch.arange(CONTEXT)].long()
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            bits = loss.item() / np.log(2)
            print(f"  step {step + 1} of {STEPS}: {bits:.2f} bits per byte, {time.perf_counter() - started:.0f} s")
    return model


def main() -> None:
    """Makes the corpus and the model, certifies, verifies, and says what to type next."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "own_text")
    corpus, checkpoint, output = folder / "corpus", folder / "model", folder / "certificates"
    tokenizer = byte_tokenizer()
    if not (checkpoint / "model.safetensors").is_file():
        print(f"Collecting the standard library's source in {corpus}", flush=True)
        shutil.rmtree(corpus, ignore_errors=True)
        collect_corpus(corpus)
        tokens = corpus_tokens(corpus, tokenizer)
        print(f"Training a byte-level Llama on {len(tokens):,} tokens", flush=True)
        model = train(tokens, len(tokenizer))
        round_mantissas(model, MANTISSA_BITS)
        tokenizer.save_pretrained(checkpoint)
        model.save_pretrained(checkpoint)
    command = [
        "lm_eval",
        "--model=hf",
        f"--model_args=pretrained={checkpoint},dtype=float32",
        "--tasks=local_bounds",
        "--metadata",
        f"corpus_path={corpus}",
        f"certificates={output}",
        "--batch_size=16",
        "--device=cpu",
    ]
    print("\n$ " + " ".join(command), flush=True)
    programs = Path(sys.executable).parent
    subprocess.run([str(programs / command[0]), *command[1:]], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    latest = max(output.glob("*/*"), key=lambda path: path.name)
    certificates = [str(path) for path in sorted(latest.glob("*.json"))]
    print("\n$ lm-bounds verify " + " ".join(certificates), flush=True)
    subprocess.run([str(programs / "lm-bounds"), "verify", *certificates], check=True)
    print(f"\nNext: lm-bounds compress {checkpoint} --compressor all")


if __name__ == "__main__":
    main()
