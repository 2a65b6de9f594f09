"""Scoring windows behind lm-eval's HFLM: what the model reads, in which batches, and what is refused."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm_bounds.corpora import TokenCorpus, open_local
from lm_bounds.errors import ModelError, UsageError
from lm_bounds.sampling import Windows, fixed_windows
from lm_bounds.scoring import HFScorer, make_scorer

FAMILIES = ["gpt2", "llama", "gpt_neox"]
END_OF_TEXT = 256
Make = Callable[..., HFScorer]
Spy = Callable[[HFScorer], list[np.ndarray]]


def windows_of(*bounds: tuple[int, int]) -> Windows:
    start, stop = (np.array(column, dtype=np.int64) for column in zip(*bounds, strict=True))
    return Windows(start, start, stop)


def whole_windows(corpus: TokenCorpus, context: int) -> Windows:
    """Every window of a corpus once."""
    every_token = np.arange(corpus.n_tokens)
    around = fixed_windows(*corpus.document_bounds(every_token), every_token, context)
    start = np.unique(around.start)
    return Windows(start, start, around.stop[start])


@pytest.fixture
def corpus(documents_file: Path, byte_tokenizer: Any, tmp_path: Path) -> TokenCorpus:
    return open_local(documents_file, byte_tokenizer, end_of_text_id=END_OF_TEXT, n_logits=260, cache_dir=tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_predicted_from_the_prefix_and_the_earlier_tokens(
    family: str, scorer: Make, random_window: Callable[..., np.ndarray]
) -> None:
    made, window = scorer(family), random_window(12)
    found = made.score_batch([window])
    one_by_one = []
    for position, token in enumerate(window):
        read = torch.tensor([[END_OF_TEXT, *window[:position]]])
        with torch.no_grad():
            row = made.lm.model(read).logits[0, -1].double()
        one_by_one.append(float(torch.log_softmax(row, dim=-1)[token] / np.log(2)))
    np.testing.assert_allclose(found.log2_prob, one_by_one, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_of_unequal_length_score_as_they_do_alone(
    family: str, scorer: Make, random_window: Callable[..., np.ndarray]
) -> None:
    made = scorer(family)
    windows = [random_window(length, seed) for seed, length in enumerate([64, 1, 17, 2, 40])]
    together = made.score_batch(windows)
    assert together.window_sizes.tolist() == [64, 1, 17, 2, 40]
    first = 0
    for window in windows:
        alone, part = made.score_batch([window]), slice(first, first + len(window))
        np.testing.assert_allclose(together.log2_prob[part], alone.log2_prob, atol=1e-4)
        np.testing.assert_allclose(together.entropy_bits[part], alone.entropy_bits, atol=1e-4)
        np.testing.assert_allclose(together.max_prob[part], alone.max_prob, atol=1e-4)
        np.testing.assert_array_equal(together.rank[part], alone.rank)
        first += len(window)
    assert first == together.n_tokens


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_batches_have_the_size_asked_for_and_the_longest_windows_come_first(
    batch_size: int, sizes: list[int], scorer: Make, spied: Spy
) -> None:
    made = scorer(batch_size=batch_size)
    seen = spied(made)
    windows = windows_of((0, 5), (5, 69), (69, 70), (70, 100), (100, 130), (130, 134), (134, 198))
    tokens = np.random.default_rng(0).integers(0, 256, 198).astype(np.uint16)
    numbers = np.concatenate([rows for rows, _ in made.score(lambda start, stop: tokens[start:stop], windows)])
    assert [len(batch) for batch in seen] == sizes
    lengths = (windows.stop - windows.start)[numbers]
    assert lengths.tolist() == [64, 64, 30, 30, 5, 4, 1]
    assert numbers.tolist() == [1, 6, 3, 4, 0, 5, 2]
    # a batch is as wide as its longest window
    assert [batch.shape[1] for batch in seen] == [int(max(lengths[i : i + sizes[0]])) for i in range(0, 7, sizes[0])]


def test_the_largest_batch_is_found_at_the_length_of_a_full_window(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm(batch_size="auto", max_batch_size=4)
    shapes = []
    call = lm._model_call
    lm._model_call = lambda inputs: shapes.append(tuple(inputs.shape)) or call(inputs)
    made = make_scorer(lm, 48)
    assert made.batch_size == 4
    assert set(shapes) == {(4, 48)}


def test_a_process_finds_its_batch_size_without_waiting_for_the_others(tiny_lm: Callable[..., Any]) -> None:
    def wait(tensor: torch.Tensor) -> torch.Tensor:
        raise AssertionError("an exchange was started")

    lm = tampered(tiny_lm(batch_size="auto", max_batch_size=4), world_size=2, all_gather=staticmethod(wait))
    assert make_scorer(lm, 48).batch_size == 4
    with pytest.raises(AssertionError):
        lm.all_gather(torch.zeros(1))


def test_the_batch_size_that_the_backend_detects_is_used(tiny_lm: Callable[..., Any], spied: Spy) -> None:
    lm = tiny_lm(batch_size="auto:3")
    lm._detect_batch_size = lambda requests, position: 2
    made = make_scorer(lm, 16)
    seen = spied(made)
    list(
        made.score(
            lambda start, stop: np.zeros(stop - start, np.int64), windows_of(*((i, i + 16) for i in range(0, 80, 16)))
        )
    )
    assert [batch.shape for batch in seen] == [(2, 16), (2, 16), (1, 16)]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_model_reads_nothing_but_prefix_and_window(
    batch_size: int, scorer: Make, spied: Spy, corpus: TokenCorpus
) -> None:
    made = scorer(batch_size=batch_size, context=32)
    seen = spied(made)
    windows = whole_windows(corpus, 32)
    assert (windows.stop - windows.start).sum() == corpus.n_tokens
    order = np.concatenate([rows for rows, _ in made.score(corpus.read, windows)])
    rows = [row for batch in seen for row in batch]
    assert len(rows) == len(windows)
    ends_document = 0
    for row, number in zip(rows, order, strict=True):
        window = corpus.tokens[windows.start[number] : windows.stop[number]].tolist()
        assert row[: len(window)].tolist() == [END_OF_TEXT, *window[:-1]]
        assert not row[len(window) :].any()  # padding, behind everything that is scored
        assert END_OF_TEXT not in row[1:]
        ends_document += window[-1] == END_OF_TEXT
    assert ends_document == corpus.n_documents  # it is predicted, never read


def test_only_the_slices_of_the_windows_are_read(scorer: Make) -> None:
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return np.arange(start, stop) % 256

    list(scorer().score(read, windows_of((10**12, 10**12 + 64), (5, 9))))
    assert asked == [(10**12, 10**12 + 64), (5, 9)]


def test_another_context_can_be_read_than_the_one_that_is_scored(
    scorer: Make, random_window: Callable[..., np.ndarray]
) -> None:
    made, window, other = scorer(), random_window(10), random_window(10, seed=1)
    mixed = made.score_batch([window], [np.concatenate([window[:5], other[5:]])])
    as_it_is = made.score_batch([window])
    np.testing.assert_array_equal(mixed.log2_prob[:6], as_it_is.log2_prob[:6])
    assert not np.array_equal(mixed.log2_prob[6:], as_it_is.log2_prob[6:])


@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_token_without_a_logit_is_refused_before_the_model_reads_it(position: int, scorer: Make, spied: Spy) -> None:
    made = scorer()
    seen = spied(made)
    window = np.arange(5)
    window[position] = 260
    with pytest.raises(ModelError, match=r"^token id 260 has no logit \(the model has 260\): the tokenizer"):
        made.score_batch([np.arange(3), window])
    assert seen == []


def test_number_of_logits_is_the_vocabulary(scorer: Make) -> None:
    assert scorer().vocab_size == 260


def test_number_format_is_that_of_the_forward_pass(scorer: Make) -> None:
    assert scorer().dtype == torch.float32
    assert scorer(dtype="bfloat16").dtype == torch.bfloat16
    assert scorer(mixed_precision_dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("context", "options", "resolved"), [(None, {}, 64), (10, {}, 10), (64, {}, 64), (None, {"max_length": 40}, 40)]
)
def test_context_is_what_is_asked_for_or_what_the_model_allows(
    context: int | None, options: dict[str, Any], resolved: int, scorer: Make
) -> None:
    assert scorer(context=context, **options).context == resolved


def test_context_is_at_most_1024_unless_asked_for(tiny_lm: Callable[..., Any]) -> None:
    assert make_scorer(tiny_lm("llama", max_length=5000), None).context == 1024
    assert make_scorer(tiny_lm("llama", max_length=5000), 2000).context == 2000


def test_a_context_longer_than_the_model_allows_is_refused(scorer: Make) -> None:
    with pytest.raises(UsageError, match=r"^context=65 is longer than the model allows: use at most 64$"):
        scorer(context=65)


def test_prefix_token_is_the_backends(scorer: Make) -> None:
    assert scorer().prefix_token_id == END_OF_TEXT
    assert scorer(prefix_token_id=7).prefix_token_id == 7


@pytest.mark.parametrize("prefix", [260, -1])
def test_a_prefix_token_that_the_model_does_not_have_is_refused(prefix: int, scorer: Make) -> None:
    with pytest.raises(UsageError, match=rf"^prefix_token_id={prefix} is not a token of the model: use one of 0 to"):
        scorer(prefix_token_id=prefix)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_size_below_one_is_refused(batch_size: int, scorer: Make) -> None:
    with pytest.raises(UsageError, match=rf"^batch_size must be at least 1 or auto, {batch_size} was given"):
        scorer(batch_size=batch_size)


def tampered(lm: Any, **changes: Any) -> Any:
    """The language model with other attributes, properties among them."""
    changed = type("Tampered", (type(lm),), {})
    lm.__class__ = changed
    for name, value in changes.items():
        setattr(changed, name, value)
        lm.__dict__.pop(name, None)
    return lm


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backend": "seq2seq"}, ModelError, "the model is an encoder-decoder: a bound needs a causal"),
        ({"prefix_token_id": None}, ModelError, "the tokenizer has no BOS and no end-of-text token: pass prefix_token"),
        ({"_model_call": None}, ModelError, "model backend Tampered gives no logits of whole windows: use --model hf"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], message: str, tiny_lm: Callable[..., Any]
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make_scorer(tampered(tiny_lm(), **changes), None)


def test_a_backend_of_another_kind_is_refused_by_name() -> None:
    from lm_eval.models.dummy import DummyLM

    with pytest.raises(ModelError, match=r"^model backend DummyLM gives no logits of whole windows: use --model hf$"):
        make_scorer(DummyLM(), None)


@pytest.mark.parametrize(
    "logits",
    [
        lambda ids: torch.zeros(ids.shape[0], 260),
        lambda ids: torch.zeros(*ids.shape, 260)[:, -1:],
        lambda ids: types.SimpleNamespace(shape=(*ids.shape, 260)),
    ],
    ids=["a row per window", "the last row alone", "no tensor"],
)
def test_a_model_without_a_row_of_logits_per_token_is_refused(
    logits: Callable[[torch.Tensor], Any], scorer: Make
) -> None:
    made = scorer()
    _ = made.vocab_size
    made.lm._model_call = logits
    with pytest.raises(ModelError, match=r"^the model does not give one row of logits per token"):
        made.score_batch([np.arange(5)])


def test_the_same_likelihood_as_lm_evals_own_rolling_one(
    tiny_lm: Callable[..., Any], corpus: TokenCorpus, byte_tokenizer: Any
) -> None:
    from lm_eval.api.instance import Instance

    lm = tiny_lm()
    made = make_scorer(lm, None)
    starts = [*corpus.document_starts.tolist(), corpus.n_tokens]
    documents = [corpus.tokens[a:b].astype(np.int64) for a, b in itertools.pairwise(starts)]
    short = [document for document in documents if len(document) <= 64]
    assert len(short) > 30
    assert {document[-1] for document in short} == {END_OF_TEXT}
    texts = [byte_tokenizer.decode(document[:-1]) for document in short]
    theirs = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts], disable_tqdm=True
    )
    ours = [made.score_batch([document]).log2_prob[:-1].sum() * np.log(2) for document in short]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
