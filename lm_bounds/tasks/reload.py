"""The model and the corpus of a certificate, loaded again from the places that it names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_bounds.certificates import Plan
from lm_bounds.certificates.remeasured import (
    Check,
    check_code,
    check_corpus,
    check_model,
    check_tokenizer,
    check_weights,
)
from lm_bounds.complexity import complexity
from lm_bounds.corpora import check_source, corpus_spec, is_remote
from lm_bounds.errors import CorpusError, LmBoundsError, ModelError, UsageError
from lm_bounds.models import IN_MEMORY, built_in_model
from lm_bounds.pipeline import Session, check_causal, corpus_facts, model_facts, opened_corpus
from lm_bounds.processes import n_launched, processes_of
from lm_bounds.tasks.harness import check_model_args, one_line, quieten
from lm_bounds.weights import check_unmeasured, checkpoint_directory, quantised_files, weights_of

_NAME = re.compile(r"(?P<pretrained>.*?)(,peft=(?P<peft>.*?))?(,delta=(?P<delta>.*))?", re.DOTALL)
_BUILT_IN = "lm_bounds/"
_HALF_FORMATS = ("bfloat16", "float16")
_BYTES_OF_HALF = 2


@dataclass(frozen=True)
class Places:
    """What the user says of where things are, over what a certificate says.

    Args:
        model_args: of HFLM, as ``key=value,...``.
        corpus_path: as in ``Settings``.
        device: to load the model onto.
        batch_size: windows of one forward pass, or ``auto``.
    """

    model_args: str | None = None
    corpus_path: str | None = None
    device: str | None = None
    batch_size: str | None = None


def model_arguments(plan: Plan, given: str | None = None) -> dict[str, Any]:
    """The arguments of HFLM with which the model of a plan is loaded.

    Args:
        plan: of a certificate.
        given: ``key=value,...`` of the user, over those of the plan; another ``pretrained`` replaces the whole place.

    Raises:
        UsageError: for a model in memory when no ``pretrained`` is given, or arguments that cannot be read.
    """
    from lm_eval._cli.utils import key_val_to_dict

    try:
        chosen: dict[str, Any] = key_val_to_dict(given or "")
    except ValueError as error:
        raise UsageError(f"--model_args {given!r} cannot be read: {error}") from error
    place = {} if "pretrained" in chosen else _place(plan)
    model = plan.model
    how: dict[str, Any] = {"dtype": model.dtype}
    is_wide = plan.code.stored_bytes > _BYTES_OF_HALF * plan.code.n_parameters
    # Codes of a quantised checkpoint are wide integers in its files, which say nothing of how it computes.
    if model.dtype in _HALF_FORMATS and is_wide and not _is_quantised({**place, **chosen}):
        how = {"dtype": "float32", "mixed_precision_dtype": model.dtype}
    if not model.default_prefix:
        how["prefix_token_id"] = model.prefix_token_id
    return {**place, **how, **chosen}


def _is_quantised(place: dict[str, Any]) -> bool:
    directory = checkpoint_directory(str(place["pretrained"]), place.get("revision")) if "pretrained" in place else None
    return directory is not None and quantised_files(directory) is not None


def _place(plan: Plan) -> dict[str, Any]:
    name = plan.model.name
    if name.startswith(IN_MEMORY):
        raise UsageError(
            f"the certificate is of {name}, which cannot be loaded again: save it, and pass --model_args "
            "pretrained=DIRECTORY"
        )
    place = parts_of_name(name)
    if place.get("pretrained", "").startswith(_BUILT_IN):
        place["pretrained"] = str(built_in_model(place["pretrained"].removeprefix(_BUILT_IN)).path)
    return {**place, **({"revision": plan.model.revision} if plan.model.revision else {})}


def parts_of_name(name: str) -> dict[str, Any]:
    """The arguments of HFLM that the name of a model in a certificate was made from.

    >>> parts_of_name("gpt2,peft=some/adapter")
    {'pretrained': 'gpt2', 'peft': 'some/adapter'}
    """
    found = _NAME.fullmatch(name)
    assert found is not None, "the pattern fits every text"
    return {kind: value for kind, value in found.groupdict().items() if value}


def corpus_place(plan: Plan, given: str | None, cure: str) -> str | None:
    """Where the corpus of a plan is, in the sense of ``Settings.corpus_path``.

    Args:
        plan: of a certificate.
        given: what the user says.
        cure: what to do where the place that the certificate names does not exist.

    Raises:
        CorpusError: there is nothing.
        UsageError: the corpus is not registered.
    """
    spec = corpus_spec(plan.corpus.corpus_id)
    if given is not None:
        check_source(spec, given)
        return given
    stored = spec.layout in ("files", "flat_tokens")  # the source of these names the commit too
    place = plan.corpus.source if stored else plan.settings.corpus_path
    if place is not None and not is_remote(place) and not Path(place).expanduser().exists():
        raise CorpusError(f"the corpus {place!r} that the certificate names is not here: {cure}")
    return place


def load_model(plan: Plan, places: Places) -> Any:
    """The HFLM of a plan, loaded as lm_eval loads it.

    Raises:
        UsageError: the model cannot be loaded from where it is said to be, or several processes were started.
        LmBoundsError: whatever transformers or lm_eval refuse, as one line.
    """
    if n_launched() > 1:
        raise UsageError(
            f"{n_launched()} processes were started, and certificates are measured again by one: run without torchrun "
            "or accelerate launch and with WORLD_SIZE unset"
        )
    arguments = model_arguments(plan, places.model_args)
    check_model_args(arguments)
    quieten()
    from lm_eval.models.huggingface import HFLM

    machine = {"batch_size": places.batch_size or plan.model.batch_size, "device": places.device or _device(plan)}
    try:
        lm = HFLM.create_from_arg_obj(arguments, machine)
    except Exception as error:  # whatever a model or lm_eval raises becomes one line
        if isinstance(error, LmBoundsError) or os.environ.get("LM_BOUNDS_DEBUG"):
            raise
        raise ModelError(one_line(error, arguments)) from error
    processes_of(lm)
    return lm


def _device(plan: Plan) -> str:
    """The kind of device that the certificate names: ``cuda:0`` is what HFLM gives up where there is none."""
    kind = plan.model.device.partition(":")[0]
    return "cuda:0" if kind == "cuda" else kind


def measure_again(plan: Plan, lm: Any, corpus_path: str | None) -> tuple[list[Check], Session | None]:
    """Everything that comes before the draws, measured again and compared with what a plan states.

    Args:
        plan: of a certificate.
        lm: an HFLM, loaded and not used yet.
        corpus_path: see ``corpus_place``.

    Returns:
        what was checked, and the plan with the live objects; None where something differs.

    Raises:
        LmBoundsError: when the weights cannot be measured.
    """
    from lm_bounds.scoring import make_scorer

    origin = weights_of(lm, lambda: make_scorer(lm, plan.model.context).vocab_size)
    code = complexity(origin.weights, plan.settings)
    checks = [check_weights(plan.code, code), check_code(plan.code, code)]
    what = "model"
    try:
        check_unmeasured(lm.model, origin.compared)
        scorer = make_scorer(lm, plan.model.context)
        checks.append(check_model(plan.model, model_facts(lm, scorer)))
        what = "corpus"
        corpus = opened_corpus(lm, plan.corpus.corpus_id, corpus_path, scorer.vocab_size)
        facts = corpus_facts(corpus, plan.settings)
        checks += [check_tokenizer(plan.corpus, facts), check_corpus(plan.corpus, facts)]
        if all(check.ok for check in checks):
            what = "causality"
            check_causal(plan, scorer, corpus)
            checks.append(Check(what, True, "no prediction moves with later tokens"))
            return checks, Session(plan, corpus, scorer, state=origin.state)
    except LmBoundsError as error:
        checks.append(Check(what, False, str(error)))
    return checks, None
