"""Documents of hostile shapes, how they are written to files, and where the slots of each are, worked out by hand."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_bounds.corpora import slots
from lm_bounds.corpora.byte_source import LocalBytes

Documents = list[str | None]
EXTRA = 2
END = 0
GROUPS = [1, 3, 2, 50]  # rows of the row groups and record batches, in turn


def shuffled(letters: str, n: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(letters, k=n))


# The words of the training text take a token each, other letters a token a byte, so that tokens are long or short.
WORDS = "the cat sat on the mat and the dog ran to the house of the king "
FILES: list[Documents] = [
    ["a", "", "the", None, WORDS * 12, "b", "c"],
    ["é🙂漢字 ü", "\n\n", shuffled("qxzjvw", 150, 1), "tail\r\n", " ", '"\\\t\x07"'],
    [],
    ["x"] * 7 + ["z" * 40, "漢" * 25, WORDS * 3, shuffled("qzéж🙂", 60, 2)] + ["", None, "k"],
]


def lines(documents: Documents) -> bytes:
    """Lines of JSON, nulls as blank lines; other fields, escapes and ends of lines vary, the last line has no end."""
    written = []
    for number, text in enumerate(documents):
        row: dict[str, Any] = {"text": text} if number % 3 else {"meta": "m" * 5 * number, "text": text, "n": number}
        line = json.dumps(row, ensure_ascii=number % 2 == 0) if text is not None else " " * number
        written.append(line + "\r" * (number % 4 == 1))
    return "\n".join(written).encode()


def groups(documents: Documents) -> list[Documents]:
    """Documents cut into row groups of different sizes."""
    found, first = [], 0
    while first < len(documents):
        size = GROUPS[len(found) % len(GROUPS)]
        found.append(documents[first : first + size])
        first += size
    return found


def table(documents: Documents, kind: Any = None) -> pa.Table:
    return pa.table(
        {"id": pa.array(range(len(documents)), pa.int64()), "text": pa.array(documents, kind or pa.string())}
    )


def write_parquet(path: Path, documents: Documents, **options: Any) -> None:
    with pq.ParquetWriter(path, table([]).schema, **options) as writer:
        for group in groups(documents):
            writer.write_table(table(group), row_group_size=1 << 20)


def write_arrow(path: Path, documents: Documents, *, stream: bool = True, kind: Any = None) -> None:
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(path, table([], kind).schema) as writer:
        for group in groups(documents):
            writer.write_table(table(group, kind))


def write(folder: Path, layout: str, files: Sequence[Documents]) -> Path:
    """Documents in files of a layout; of plain text, each in a file of its own."""
    folder.mkdir(exist_ok=True)
    for number, documents in enumerate(files):
        path = folder / f"{number}.{layout}"
        if layout == "jsonl":
            path.write_bytes(lines(documents))
        elif layout == "parquet":
            write_parquet(path, documents)
        elif layout == "arrow":
            write_arrow(path, documents, stream=number % 2 == 0)
        else:
            for place, text in enumerate(documents):
                (folder / f"{number}-{place:03}.txt").write_bytes((text or "").encode())
    return folder


def bases(layout: str, files: Sequence[Documents], folder: Path) -> list[tuple[int, str]]:
    """The first slot of every document that is in the corpus, by another way than that of the package."""
    found, base = [], 0
    for number, documents in enumerate(files):
        if layout == "jsonl":
            content = lines(documents)
            for line in content.split(b"\n"):
                if line.strip():
                    found.append((base, json.loads(line)["text"]))
                base += len(line) + 1
            base -= 1  # the last line has no end
        elif layout == "parquet":
            footer = pq.read_metadata(folder / f"{number}.parquet")
            for place, group in enumerate(groups(documents)):
                stop = base + footer.row_group(place).column(1).total_uncompressed_size + EXTRA * len(group)
                for text in dict.fromkeys(text for text in group if text is not None):
                    found.append((base, text))
                    base += len(text.encode()) + EXTRA
                assert base <= stop
                base = stop
        else:
            for text in documents:
                found.append((base, text or ""))
                base += len((text or "").encode()) + (EXTRA if layout == "arrow" or text else 0)
    return found


def local(folder: Path) -> LocalBytes:
    """The files of a folder, as they are listed."""
    return LocalBytes(str(folder), [(path.name, path) for path in sorted(folder.iterdir())])


def opened(source: Any, tokenizer: Any, cache_dir: Path, end_of_text_id: int | None = END) -> Any:
    return slots.open_texts(
        "local",
        source,
        "text",
        tokenizer,
        tokenizer_hash="0" * 64,
        end_of_text_id=end_of_text_id,
        n_ids=1 << 20,
        cache_dir=cache_dir,
    )


def fallback_tokenizer() -> Any:
    """A tokenizer in the manner of Llama: a space before every text, and bytes for letters that it does not know."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<end>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"thecatson", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")


def byte_level_tokenizer() -> Any:
    """A tokenizer in the manner of GPT-2, trained on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator([WORDS] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    """Tokenizers by their kinds."""
    return {"byte level": byte_level_tokenizer(), "byte fallback": fallback_tokenizer()}


class Expanding:
    """A tokenizer with five tokens for an x and one for any other letter."""

    def __len__(self) -> int:
        return 1 << 17

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[ord(letter) for letter in each.replace("x", "xxxxx")] for each in text]}


@pytest.fixture(scope="session")
def shapes() -> Any:
    """Everything above."""
    return sys.modules[__name__]
