"""Opens files of text whose tokens nobody counts."""

from __future__ import annotations

from pathlib import Path

from lm_bounds.corpora.byte_source import ByteSource, LocalBytes, refuse_pointers
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.slots.arrow import ArrowRows
from lm_bounds.corpora.slots.corpus import SlotCorpus
from lm_bounds.corpora.slots.json_lines import json_lines
from lm_bounds.corpora.slots.parquet import ParquetRows
from lm_bounds.corpora.slots.plain_text import PlainText
from lm_bounds.corpora.slots.protocol import Cells
from lm_bounds.corpora.slots.texts import TextReader
from lm_bounds.corpora.source_files import is_plain_text, is_skipped, suffix_of, without_descriptions
from lm_bounds.errors import CorpusError

TEXT_SUFFIXES = (".jsonl", ".parquet", ".txt")
_PLAIN = ".txt"


def open_texts(
    corpus_id: str,
    source: ByteSource,
    column: str,
    tokenizer: Tokenizer,
    *,
    tokenizer_hash: str,
    end_of_text_id: int | None,
    n_ids: int,
    cache_dir: Path,
) -> SlotCorpus:
    """Documents of text of any size, drawn by their slots, in the order of the names of their files.

    Args:
        corpus_id: its id in the registry.
        source: files of one kind: ``.jsonl``, ``.parquet`` or ``.txt``; on this machine also ``.arrow``, and any other
            suffix stands for a file of text. Hidden files, and the card and the JSON files beside tables, are left out.
        column: the field or column that is the text.
        tokenizer: of the language model.
        tokenizer_hash: of that tokenizer.
        end_of_text_id: the id that ends a document; None where the model has none.
        n_ids: every id must be below it.
        cache_dir: folder in which the number of tokens is kept.

    Raises:
        CorpusError: the files cannot be read, are pointers of git-lfs, or are of no kind or of several.
    """
    cells = _cells(source, column)
    if not cells.number:
        raise CorpusError(f"{source.source} holds no text; point at text that is not empty")
    reader = TextReader(tokenizer, end_of_text_id)
    return SlotCorpus(corpus_id, cells, reader, tokenizer_hash, end_of_text_id, n_ids, Path(cache_dir))


def _cells(source: ByteSource, column: str) -> Cells:
    order = _order(source)
    if not order:
        raise CorpusError(f"{source.source} has no file of text: their names end in {', '.join(TEXT_SUFFIXES)}")
    kinds = {_kind(source, number): source.files[number].name for number in order}
    if len(kinds) > 1:
        raise CorpusError(
            f"{source.source} holds files of several kinds, such as {' and '.join(sorted(kinds.values())[:2])}: keep "
            "those of one kind in a folder of their own"
        )
    [kind] = kinds
    if kind == ".arrow" and not isinstance(source, LocalBytes):
        raise CorpusError(f"{kinds[kind]}: .arrow files are read on this machine alone: download them, or use .parquet")
    refuse_pointers(source, order)
    if kind == ".arrow":
        return ArrowRows(source, order, column)
    if kind == ".parquet":
        return ParquetRows(source, order, column)
    return json_lines(source, order, column) if kind == ".jsonl" else PlainText(source, order)


def _order(source: ByteSource) -> list[int]:
    """Numbers of the files that hold text, in the order of their names."""
    numbers = {file.name: number for number, file in enumerate(source.files)}
    if len(numbers) < len(source.files):  # two servers may have files of one name
        numbers = {file.place: number for number, file in enumerate(source.files)}
    visible = [name for name in sorted(numbers) if not any(is_skipped(part) for part in name.split("/"))]
    return [numbers[name] for name in without_descriptions(visible, is_data_set=not isinstance(source, LocalBytes))]


def _kind(source: ByteSource, number: int) -> str:
    name = source.files[number].name
    suffix = suffix_of(name)
    if not is_plain_text(name):
        return suffix
    if suffix != _PLAIN and not isinstance(source, LocalBytes):
        raise CorpusError(
            f"{source.files[number].place}: {suffix or 'a name without a suffix'} is no kind of text that is read from "
            f"afar ({', '.join(TEXT_SUFFIXES)}): name the files that are, or download it"
        )
    return _PLAIN
