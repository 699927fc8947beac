"""Who learns, and how: models with their tokenizers, full finetuning and adapters."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from memexp.errors import SpecError
from memexp.spec.corpora import Corpus
from memexp.spec.fields import Count, Positive, Probability, SomeText, Text, as_tuple, finite, spec

__all__ = ["Full", "LoRA", "Model", "RandomInit", "TrainedTokenizer"]


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"must be what a config.json can hold: {error}") from None
    return value


@spec
class TrainedTokenizer:
    """A byte-level BPE tokenizer trained on given texts, with one special token, ``<|endoftext|>``, for bos and eos."""

    corpora: Annotated[tuple[Corpus, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """Texts to train on. Give targets and foils alike: a tokenizer that knows only one side favours it."""
    vocab_size: Annotated[int, Field(ge=258)] = 2048
    """Number of tokens wanted, the 256 bytes and the special token included; short corpora yield fewer."""


@spec
class RandomInit:
    """Weights drawn at random, never loaded."""

    config: Annotated[dict[str, Any], AfterValidator(_plain_json)] | Text
    """A transformers configuration: the content of a ``config.json`` (with ``model_type``), a folder with one, or a hub
    id. ``vocab_size`` and the special token ids are taken from the tokenizer where the dictionary omits them."""
    seed: Count = 0
    """Seed of the draw. Independent of the condition's seed: vary both to vary both."""


@spec
class Model:
    """A causal language model and its tokenizer."""

    name: Text
    """Hub id, path of a local folder, ``tiny-s``, ``tiny-m`` or ``tiny-l`` (which ship with memexp), or, with `init`,
    the name that the ``model`` column is to show."""
    revision: Text | None = None
    """Branch, tag or commit of a hub model; resolved to a commit once, before anything is hashed."""
    tokenizer: TrainedTokenizer | Text | None = None
    """Hub id, local folder, shipped model, or a tokenizer to train; by default the model's own."""
    init: RandomInit | None = None
    """Draw the weights at random instead of loading them; needs `tokenizer`."""

    def __post_init__(self) -> None:
        if self.init is not None and self.tokenizer is None:
            raise SpecError("Model.tokenizer is required with init: a hub id, a folder, or TrainedTokenizer(...)")
        if self.init is not None and self.revision is not None:
            raise SpecError("Model.revision makes no sense with init: random weights have no revision")
        if self.init is None and isinstance(self.tokenizer, TrainedTokenizer):
            raise SpecError(
                "Model.tokenizer: a TrainedTokenizer needs init: pretrained weights know another vocabulary"
            )


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    """Adapters are made in the order of the modules, so that no number depends on the order of the names."""
    return tuple(sorted(set(names)))


@spec
class Full:
    """Full finetuning: every parameter learns."""


@spec
class LoRA:
    """Low-rank adapters through peft: the pretrained weights stay, the adapter learns."""

    r: Positive = 8
    """Adapter rank."""
    alpha: Annotated[float, Field(gt=0), AfterValidator(finite)] = 16.0
    """Scaling: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    dropout: Probability = 0.0
    """Dropout on the adapter's input."""
    targets: Annotated[SomeText, AfterValidator(_sorted)] | Literal["all-linear"] = "all-linear"
    """Names of the linear modules that get an adapter, or all but the output head."""
    seed: Count = 0
    """Seed of the adapter's initial weights."""
