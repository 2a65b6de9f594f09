"""The models that come with the package: small networks of transformers, made by ``examples/train_models.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lm_bounds.errors import UsageError, nearest

__all__ = ["BUILT_IN_MODELS", "IN_MEMORY", "BuiltInModel", "built_in_model", "display_name"]

IN_MEMORY = "a model in memory"  # how the name of a model begins that was not loaded from a place


@dataclass(frozen=True)
class BuiltInModel:
    """A checkpoint with its tokenizer in a folder of this package.

    Args:
        name: of the model and of the corpus that it was trained on.
        title: what it is, one line.
    """

    name: str
    title: str

    @property
    def path(self) -> Path:
        """Its folder, for ``pretrained=`` in --model_args."""
        return Path(__file__).parent / self.name


BUILT_IN_MODELS = {
    model.name: model
    for model in (
        BuiltInModel("structured", "a Llama trained on integer sequences of short expressions"),
        BuiltInModel("random", "a Llama trained on independent random integers"),
    )
}


def built_in_model(name: str) -> BuiltInModel:
    """The model of that name.

    Raises:
        UsageError: there is none.

    >>> built_in_model("random").path.name
    'random'
    """
    if name not in BUILT_IN_MODELS:
        raise UsageError(f"no model is called {name!r}{nearest(name, BUILT_IN_MODELS)}")
    return BUILT_IN_MODELS[name]


def display_name(pretrained: str) -> str:
    """What a model is called in a certificate: the built-in ones without the place of this package.

    >>> display_name(str(built_in_model("random").path)), display_name("gpt2")
    ('lm_bounds/random', 'gpt2')
    """
    for model in BUILT_IN_MODELS.values():
        if Path(pretrained).resolve() == model.path.resolve():
            return f"lm_bounds/{model.name}"
    return pretrained
