"""What a row is, what is malformed and why, and how many tokens there are at least."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.slots import Cell, RowFormat, TokenRowReader, open_token_rows
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import draw_windows, stream_seed

ROWS = RowFormat(stored=6, counted=4, skipped=1, field="ids")
READER = TokenRowReader(ROWS, n_entries=100_000)
GOOD = b'{"ids": [9, 12, 7, 0, 99999, 5], "source": "web"}'


def read(line: bytes, reader: TokenRowReader = READER) -> Any:
    [found] = reader.read([Cell(0, len(line) + 1, line, "there")])
    return found


@pytest.mark.parametrize(
    "line",
    [
        GOOD,
        GOOD + b"\r",
        b' {"source":"\xc3\xa9\\ud83d","ids":[9,12,7,0,99999,5]}',
        b'{"ids": 3, "ids": [9, 12, 7, -0, 99999, 5]}',
    ],
)
def test_rows(line: bytes) -> None:
    found = read(line)
    assert (found.ids.tolist(), found.ids.dtype, found.void, found.n_void) == ([12, 7, 0, 99999], np.int64, None, 0)
    assert found.starts.tolist() == [0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "an empty line"),
        (b" \t\r", "an empty line"),
        (b"[1, 2, 3, 4, 5, 6]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"id": [1, 2, 3, 4, 5, 6]}', "no list in the field 'ids'"),
        (b'{"ids": {"0": 1}}', "no list in the field 'ids'"),
        (b'{"ids": "123456"}', "no list in the field 'ids'"),
        (b'{"ids": []}', "0 ids where a row has 6"),
        (b'{"ids": [1, 2, 3, 4, 5]}', "5 ids where a row has 6"),
        (b'{"ids": [1, 2, 3, 4, 5, 6, 7]}', "7 ids where a row has 6"),
        (b'{"ids": [1, 2, true, 4, 5, 6]}', "the id at position 2 is no whole number"),
        (b'{"ids": [1, 2, 3, 4, 5, 6.0]}', "the id at position 5 is no whole number"),
        (b'{"ids": [1, 2, 3, 4, 5, 1e2]}', "the id at position 5 is no whole number"),
        (b'{"ids": [1, "2", 3, 4, 5, 6]}', "the id at position 1 is no whole number"),
        (b'{"ids": [1, null, 3, 4, 5, 6]}', "the id at position 1 is no whole number"),
        (b'{"ids": [1, 2, 3, 4, 5, 100000]}', "the id at position 5 is 100000, ids must be below 100000"),
        (b'{"ids": [-1, 2, 3, 4, 5, 6]}', "the id at position 0 is -1, ids must be below 100000"),
        (
            b'{"ids": [1' + b"0" * 50 + b", 2, 3, 4, 5, 6]}",
            "the id at position 0 is no whole number",
        ),
        (b'{"ids": [1' + b"0" * 5000 + b", 2, 3, 4, 5, 6]}", "the id at position 0 is no whole number"),
        (b'{"ids": [1, 2, NaN, 4, 5, 6]}', "the id at position 2 is no whole number"),
        (b'{"ids": [1, 2, 3, s4, 5, 6]}', "broken JSON at character 18 of the line: Expecting value"),
        (b'{"ids": [1, 2, 3, 4, 5, 6]} {}', "broken JSON at character 28 of the line: Extra data"),
        (b'{"ids": [1, 2, 3, 4, 5, 6], "source": "cut', "broken JSON at character 38 of the line: Unterminated"),
        (b'{"ids": [1, 2, 3, 4, 5, 6], "x": ' + b"[" * 100_000, "brackets are nested more than 64 deep"),
        (b"\xef\xbb\xbf" + GOOD, "broken JSON at character 0 of the line: Unexpected UTF-8 BOM"),
        (b'{"ids": [1, 2, 3, 4, 5, 6], "x": "\xff"}', "no UTF-8 from byte 34 of the line on"),
        (GOOD.decode().encode("utf-16"), "no UTF-8 from byte 0 of the line on"),
        (GOOD.decode().encode("utf-16-le"), "broken JSON at character 1 of the line"),
    ],
)
def test_malformed_lines(line: bytes, reason: str) -> None:
    found = read(line)
    assert found.void is not None
    assert found.void.startswith(reason)
    assert len(found.void) <= 100
    assert "\n" not in found.void
    assert (found.ids.size, found.n_void) == (0, 8)


NUMBERS = st.one_of(st.integers(-2, 100_001), st.booleans(), st.floats(allow_nan=False), st.none(), st.text(max_size=2))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 99_999), min_size=6, max_size=6) | st.lists(NUMBERS, max_size=8),
    st.sampled_from([",", ", "]),
)
@example([0] * 6, ",")
def test_a_row_has_a_slot_for_every_token_twice(ids: list[Any], comma: str) -> None:
    """The least that a row can be is its list; whether it is one is checked id by id."""
    line = json.dumps({"ids": ids}, separators=(comma, ":")).encode()
    found = read(line)
    is_row = len(ids) == 6 and all(type(each) is int and 0 <= each < 100_000 for each in ids)
    assert found.ids.tolist() == (ids[1:5] if is_row else [])
    assert (found.void is None) == is_row
    if is_row:
        listed = json.dumps(ids, separators=(comma, ":"))
        assert READER.per_token * found.ids.size < 2 * ROWS.stored + 1 <= len(listed) < len(line)


@given(st.binary(max_size=40))
def test_no_bytes_are_an_error(line: bytes) -> None:
    assert read(line).void is not None


@pytest.mark.parametrize("given", [(0, 1, 0), (5, 0, 0), (5, 5, 1), (5, 4, -1), (5, 6, 0)])
def test_there_are_no_such_rows(given: tuple[int, int, int]) -> None:
    with pytest.raises(CorpusError, match="cannot have"):
        RowFormat(*given, field="ids")


def test_there_is_no_such_field_or_vocabulary() -> None:
    with pytest.raises(CorpusError, match="must have a name"):
        RowFormat(6, 4, 1, field="")
    with pytest.raises(CorpusError, match="at least 1 entry, given 0"):
        TokenRowReader(ROWS, 0)


def test_the_rule_covers_what_decides_the_tokens() -> None:
    others = [RowFormat(7, 4, 1, "ids"), RowFormat(6, 3, 1, "ids"), RowFormat(6, 4, 2, "ids"), RowFormat(6, 4, 1, "id")]
    rules = [READER.rule, *[TokenRowReader(each, 100_000).rule for each in others], TokenRowReader(ROWS, 99).rule]
    assert len({json.dumps(each) for each in rules}) == 6


def test_files_follow_each_other_by_number_and_are_checked(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"train_{number}.jsonl").write_bytes(GOOD.replace(b"12", b"%2d" % (10 + number)) + b"\n")

    def opened() -> Any:
        source = open_bytes(str(tmp_path), tmp_path / "cache", "*.jsonl")
        options = {"n_entries": 100_000, "n_ids": 100_000, "end_of_text_id": None, "declared": None}
        return open_token_rows("rows", source, ROWS, tokenizer_hash="-", cache_dir=tmp_path / "cache", **options)

    corpus = opened()
    assert [int(corpus.read(50 * k, 50 * k + 1)[0]) for k in range(3)] == [11, 12, 20]
    assert corpus.count.drawn == 4096
    (tmp_path / "train_2.jsonl").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"train_2\.jsonl is empty"):
        opened()


def test_an_id_that_the_model_does_not_have_is_an_error(write: Callable[..., Any]) -> None:
    written = write([GOOD + b"\n" + GOOD + b"\n"], n_ids=99_999)
    with pytest.raises(CorpusError, match=r"part_0\.jsonl, byte 0: the id 99999, ids must be below 99999; use the mod"):
        written.corpus.tokens_at(np.array([3]))


BROKEN = [b'{"ids": [1, 2, 3], "source": "short"}', b'{"ids": [1, 2, 3, 4, 5, 6', b'{"ids": [1, 2, 3, 4, 5, 100000]}']


def test_every_malformed_line_is_reported_once(write: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    lines = [GOOD, BROKEN[0], GOOD, BROKEN[1], GOOD, BROKEN[2], GOOD]
    written = write([b"\n".join(lines[:4]), b"\n".join(lines[4:])])
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        count = written.corpus.count
        drawn = draw_windows(written.corpus, 3_000, 3, stream_seed("certify", 1))
        written.corpus.tokens_at(np.arange(written.token.size))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert sorted(text.split(": ")[0] for text in said) == sorted(written.malformed)
    assert all(text.endswith("left out, and the number of tokens is lowered for what is like it") for text in said)
    assert drawn.voided is not None
    assert drawn.attempt is not None
    bytes_of_broken = sum(len(each) + 1 for each in BROKEN) - 1  # one of them ends its file
    in_draws = int(drawn.voided[-1])
    assert binom.sf(in_draws - 1, int(drawn.attempt[-1]), bytes_of_broken / written.token.size) > 1e-6
    assert binom.cdf(in_draws, int(drawn.attempt[-1]), bytes_of_broken / written.token.size) > 1e-6
    assert binom.sf(count.void - 1, count.drawn, bytes_of_broken / written.token.size) > 1e-6
    assert binom.cdf(count.void, count.drawn, bytes_of_broken / written.token.size) > 1e-6
    assert binom.sf(count.void_rows - 1, count.rows, 3 / 7) > 1e-6
    assert binom.cdf(count.void_rows, count.rows, 3 / 7) > 1e-6
    assert binom.cdf(count.rows, count.drawn, 7 * 8 / written.token.size) > 1e-6
    assert count.rows > count.drawn / 7


def rows_at_random(generator: np.random.Generator) -> tuple[list[bytes], int]:
    """Lines of very different lengths, and how many of them are rows."""
    n, broken = int(generator.integers(20, 60)), generator.random() * 0.3
    lines, n_rows = [], 0
    for _ in range(n):
        if generator.random() < broken:
            lines.append(BROKEN[int(generator.integers(3))] + b" " * int(generator.integers(60)))
            continue
        ids = generator.integers(0, 10 ** int(generator.integers(1, 6)), size=6).tolist()
        lines.append(json.dumps({"ids": ids, "source": "b" * int(generator.integers(60))}).encode())
        n_rows += 1
    return lines, n_rows


@pytest.mark.parametrize("is_declared", [False, True])
def test_the_number_of_tokens_is_a_lower_confidence_bound(
    write: Callable[..., Any], caplog: pytest.LogCaptureFixture, is_declared: bool
) -> None:
    """Its seed is that of the sizes of the files, so that other files are other draws."""
    caplog.set_level(logging.ERROR, logger="lm_bounds")
    failure_prob, n_corpora, n_too_many, n_guesses_too_many, part = 0.05, 250, 0, 0, 0.0
    for number in range(n_corpora):
        lines, n_rows = rows_at_random(np.random.default_rng(number))
        written = write([b"\n".join(lines)], n_counted=400, declared=4 * len(lines) if is_declared else None)
        count, true = written.corpus.count, 4 * n_rows
        assert (count.drawn, count.slots, count.row_tokens) == (400, written.token.size, 4)
        assert (count.void > 0) == (n_rows < len(lines))
        guess = (
            4 * len(lines) * (1 - count.void_rows / count.rows) if is_declared else count.slots * count.mean_share / 2
        )
        n_too_many += count.at_least(failure_prob) > true
        n_guesses_too_many += guess > true
        part += count.at_least(failure_prob) / true / n_corpora
    assert binom.sf(n_too_many - 1, n_corpora, failure_prob) > 1e-6
    assert binom.sf(n_guesses_too_many - 1, n_corpora, failure_prob) < 1e-6  # what was found, without its confidence
    assert part > 0.7


def test_a_declared_number_is_lowered_by_the_malformed_share(write: Callable[..., Any]) -> None:
    """A number that is below what is found, less the upper bound of Clopper and Pearson."""
    without = write([b"\n".join([GOOD] * 50)], declared=150).corpus
    assert (without.n_tokens_kind, without.count.void_rows) == ("lower_bound", 0)
    # of Clopper and Pearson, for no malformed row among those that were hit
    wanted = 150 * 0.001 ** (1 / without.count.rows)
    assert without.n_tokens == int(wanted)
    some = write([b"\n".join([GOOD] * 45 + [BROKEN[2]] * 5)], declared=150).corpus
    assert 0 < some.n_tokens < 0.95 * without.n_tokens


@pytest.mark.parametrize("declared", [400, 10**12])
def test_more_than_the_files_hold_is_not_taken_at_its_word(write: Callable[..., Any], declared: int) -> None:
    lines = [b"\n".join([GOOD] * 50)]
    assert write(lines, declared=declared).corpus.n_tokens == write(lines).corpus.n_tokens <= 200


def test_files_of_something_else_are_refused(write: Callable[..., Any]) -> None:
    written = write([b'{"text": "a line of text"}\n' * 50])
    with pytest.raises(CorpusError, match=r"hardly any token was found at 4096 uniform places \(4096 of them in malf"):
        assert written.corpus.n_tokens


def test_the_count_is_that_of_the_files_alone(write: Callable[..., Any]) -> None:
    lines = [GOOD, BROKEN[1], GOOD, GOOD]
    one, other = write([b"\n".join(lines)]).corpus, write([b"\n".join(lines)]).corpus
    assert one.count == other.count
    assert one.sha256() == other.sha256()
    assert one.sha256() != write([b"\n".join(lines), GOOD]).corpus.sha256()
    assert one.sha256() != write([b"\n".join([GOOD, BROKEN[1], GOOD, GOOD.replace(b"12", b"13")])]).corpus.sha256()
