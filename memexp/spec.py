"""What to do, as frozen and validated data: models, methods, corpora, study, conditions, resources.

A sweep script builds these objects; nothing here reads a file, knows torch or knows Ray. Every field
is checked when the object is made, so a wrong value fails on the line that holds it:

    Condition(model=Model("gpt2"), study=Study(TextFile("seen.jsonl"), exposures=3, lr=3e-5),
              probes=[Recall()])
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from memexp.errors import SpecError

if TYPE_CHECKING:
    import pyarrow as pa

    from memexp.core.session import Session

__all__ = [
    "Condition",
    "Corpus",
    "Forget",
    "Full",
    "HubItems",
    "HubText",
    "InlineItems",
    "InlineText",
    "Interference",
    "ItemFile",
    "Items",
    "LoRA",
    "Method",
    "Model",
    "Pair",
    "Probe",
    "RandomInit",
    "Resources",
    "ShippedText",
    "Study",
    "TextFile",
    "TrainedTokenizer",
    "counterbalanced",
    "retention_steps",
    "spec",
]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def spec(cls: type[T]) -> type[T]:
    """Turn an annotated class into a frozen, validated description.

    Types are strict (``"3"`` is no number, ``True`` is no count). A violation raises `SpecError` with
    one line that names the class and field; an unknown field suggests the nearest known one.
    """
    made: Any = pydantic_dataclass(
        frozen=True,
        config=ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True),
    )(cls)
    checked_init = made.__init__

    @functools.wraps(checked_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked_init(self, *args, **kwargs)
        except ValidationError as error:
            raise SpecError(_first_complaint(made, error)) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return] # the same class, as pydantic has rebuilt it


def _first_complaint(cls: type, error: ValidationError) -> str:
    """One line for the first violation of `cls`: ``Study.lr: Input should be greater than 0, got -1.0``."""
    problems = error.errors(include_url=False)
    names = [field.name for field in dataclasses.fields(cls)]
    # A misspelt field also leaves the right one missing; the misspelling is what helps.
    problem = next((p for p in problems if p["type"] == "unexpected_keyword_argument"), problems[0])
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # raised by __post_init__, which names the field itself
        return message
    first = problem["loc"][0]
    if problem["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(first), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}"
        return f"{cls.__name__} has no field {str(first)!r}; {hint}"
    if problem["type"] == "unexpected_positional_argument":
        return f"{cls.__name__} takes at most {len(names)} values: {', '.join(names)}"
    where = f"{cls.__name__}.{names[first] if isinstance(first, int) else first}"
    if problem["type"] == "missing":
        return f"{where} is required"
    given = problem.get("input")
    shown = repr(given)
    choices = [p["ctx"] for p in problems if p["loc"][:1] == (first,) and "class_name" in p.get("ctx", {})]
    if choices:
        message = "must be " + " or ".join(dict.fromkeys(f"{choice['class_name']}(...)" for choice in choices))
    elif problem["type"] == "tuple_type":
        message = "must be a list"
    elif problem["type"] == "too_short":
        message = "must not be empty"
    if dataclasses.is_dataclass(given) or isinstance(given, Mapping) or len(shown) > 60:
        return f"{where}: {message}"
    return f"{where}: {message}, got {shown}"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _plain_name(value: str) -> str:
    """A name that becomes part of a file name: no separators, no '..', not hidden."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValueError("use letters, digits, '.', '_' and '-' only, without '/' or '..'")
    return value


def _label_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"label {value!r} becomes a column: use letters, digits and '_', not starting with a digit")
    return value


def _label(value: str | int | float | bool) -> str | int | float | bool:
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{value} does not fit a column of 64 bits")
    return value


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"must be what a config.json can hold: {error}") from None
    return value


def _no_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]
"""A string that can safely be part of a file name."""
Text = Annotated[str, AfterValidator(_no_blank)]
PathText = Annotated[Text, BeforeValidator(_path_text)]
LARGEST = 2**63 - 1
"""Whole numbers become columns of 64 bits."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0), AfterValidator(_finite)]
NonNegative = Annotated[float, Field(ge=0), AfterValidator(_finite)]
Probability = Annotated[float, Field(ge=0, lt=1)]


# ---------------------------------------------------------------------------------------------------------
# Corpora


@spec
class TextFile:
    """A local file of texts: ``.jsonl`` or ``.json`` (an object a line), ``.csv``, ``.txt`` (a text a line), or
    ``.parquet``."""

    path: PathText
    """Where the file is, absolute or relative to the current folder. Recorded, never part of an identity."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return self.path


@spec
class HubText:
    """A dataset of the Hugging Face hub, or a local folder in its format."""

    dataset: Text
    """Dataset id, such as ``xiaozeroone/Country-city-animals``, or the path of a folder ``load_dataset`` can read."""
    subset: Text | None = None
    """Configuration of the dataset."""
    split: Text = "train"
    """Split of the dataset."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return "/".join(part for part in (self.dataset, self.subset, self.split) if part)


@spec
class ShippedText:
    """A study list that ships with memexp (see `memexp.stimuli`)."""

    list_name: Name
    """Name of the list, such as ``sentences-targets``."""
    first: Positive | None = None
    """Take only so many of its texts, from the beginning."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return self.list_name if self.first is None else f"{self.list_name}[:{self.first}]"


@spec
class InlineText:
    """Texts given in Python, such as those of `memexp.stimuli.random_words` or of code of your own.

    Known by its texts as every corpus is: the same list in a file is the same study.
    """

    name: Text
    """What the rows call this corpus. Recorded, never part of an identity."""
    texts: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """The texts, in order; none may be empty."""

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        """One short line; no two lists have the same, on which `memexp.sources.Sources` counts."""
        return f"InlineText({self.name!r}, {len(self.texts)} texts, {self._digest})"


def _refuse_whole_dataset(value: Any, wanted: str) -> None:
    """Of `memexp.FactWorld` and `memexp.FactDataset` a subset is meant."""
    if callable(getattr(value, "corpus", None)) and callable(getattr(value, "items", None)):
        raise ValueError(f"is a whole dataset; take a subset: .{wanted}")


def _as_corpus(value: Any) -> Any:
    _refuse_whole_dataset(value, 'corpus("Corpus_narrative")')
    return TextFile(os.fspath(value)) if isinstance(value, str | os.PathLike) else value


Corpus = Annotated[TextFile | HubText | ShippedText | InlineText, BeforeValidator(_as_corpus)]
"""Texts to study or to be probed with; a plain string or path stands for a `TextFile`."""


# ---------------------------------------------------------------------------------------------------------
# Questions and facts


@spec
class ItemFile:
    """A local file of questions or facts: ``.jsonl`` or ``.json`` (an object a line), ``.csv`` or ``.parquet``.

    A question has ``question`` and ``answer``, with ``choices`` (a list of at least two) the index, from 0, of the
    right one; a fact has ``head``, ``relation`` and ``tail``. An optional ``fact`` says which questions are about the
    same. Other columns are not read. The columns are those of Country-city-animals (Zhang, Li & Wu 2024, arXiv
    2409.14057).
    """

    path: PathText
    """Where the file is, absolute or relative to the current folder. Recorded, never part of an identity."""

    @property
    def name(self) -> str:
        """What the rows call these items."""
        return self.path


@spec
class HubItems:
    """Questions or facts (see `ItemFile`) of a dataset of the Hugging Face hub, or of a local folder in its format."""

    dataset: Text
    """Dataset id, such as ``xiaozeroone/Country-city-animals``, or the path of a folder ``load_dataset`` can read."""
    subset: Text | None = None
    """Configuration of the dataset."""
    split: Text = "test"
    """Split of the dataset."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""

    @property
    def name(self) -> str:
        """What the rows call these items."""
        return "/".join(part for part in (self.dataset, self.subset, self.split) if part)


@spec
class InlineItems:
    """Questions or facts (see `ItemFile`) given in Python, such as those of `memexp.stimuli.facts`."""

    name: Text
    """What the rows call these items. Recorded, never part of an identity."""
    rows: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """A dictionary for each item."""

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        """One short line; no two lists have the same, on which `memexp.sources.Sources` counts."""
        return f"InlineItems({self.name!r}, {len(self.rows)} items, {self._digest})"


def _as_items(value: Any) -> Any:
    _refuse_whole_dataset(value, 'items("Eval_QA")')
    if isinstance(value, TextFile | HubText | ShippedText | InlineText):
        raise ValueError('holds texts, not questions or facts; of a dataset take .items("Eval_QA")')
    return ItemFile(os.fspath(value)) if isinstance(value, str | os.PathLike) else value


Items = Annotated[ItemFile | HubItems | InlineItems, BeforeValidator(_as_items)]
"""Questions to be answered or facts to be scored; a plain string or path stands for an `ItemFile`."""


@spec
class Pair:
    """A study list and its foils, matched by index."""

    targets: Corpus
    """The list that is studied."""
    foils: Corpus
    """Unstudied texts; item i is the foil of target i. Surplus foils are not used."""
    name: Name | None = None
    """A name for labels; not part of any identity."""

    @property
    def swapped(self) -> Pair:
        """The same pair with the roles of the two lists exchanged."""
        return Pair(targets=self.foils, foils=self.targets, name=self.name)


# ---------------------------------------------------------------------------------------------------------
# Models and methods


@spec
class TrainedTokenizer:
    """A byte-level BPE tokenizer trained on given texts, with one special token, ``<|endoftext|>``, for bos and eos."""

    corpora: Annotated[tuple[Corpus, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
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


@spec
class Full:
    """Full finetuning: every parameter learns."""


@spec
class LoRA:
    """Low-rank adapters through peft: the pretrained weights stay, the adapter learns."""

    r: Positive = 8
    """Adapter rank."""
    alpha: Annotated[float, Field(gt=0), AfterValidator(_finite)] = 16.0
    """Scaling: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    dropout: Probability = 0.0
    """Dropout on the adapter's input."""
    targets: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | Literal["all-linear"] = (
        "all-linear"
    )
    """Names of the linear modules that get an adapter, or all but the output head."""
    seed: Count = 0
    """Seed of the adapter's initial weights."""


Method = Full | LoRA


# ---------------------------------------------------------------------------------------------------------
# Study


@spec
class Study:
    """Training on target items: AdamW, each text its own sequence, loss over all tokens of the global batch."""

    corpus: Corpus
    """The study list."""
    exposures: Count
    """Passes over the list; 0 measures the untrained model."""
    lr: Rate
    """Peak learning rate."""
    batch_size: Positive = 16
    """Texts per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate after the warm-up: constant, or linear decay to 0 at the end of the last exposure. A linear
    schedule knows its horizon, so its exposure counts cannot share training."""
    warmup_steps: Count = 0
    """Steps of linear warm-up from 0."""
    warmup_ratio: Probability = 0.0
    """Warm-up as a share of all steps instead; only with the linear schedule."""
    dropout: Probability | None = None
    """Dropout everywhere in the model (adapters have their own); None keeps what the model's config says."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay, on matrices only (no biases, no norms)."""
    clip_norm: Rate | None = None
    """Clip the gradient's global L2 norm to this; None does not clip."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward passes, in probes too; weights and optimizer stay float32."""

    def __post_init__(self) -> None:
        if self.warmup_ratio and self.schedule != "linear":
            raise SpecError("Study.warmup_ratio needs schedule='linear'; with a constant schedule give warmup_steps")
        if self.warmup_ratio and self.warmup_steps:
            raise SpecError("Study.warmup_ratio and Study.warmup_steps exclude each other")

    @property
    def knows_horizon(self) -> bool:
        """Whether the learning rate at a step depends on how many exposures will follow."""
        return self.schedule == "linear"


@spec
class Forget:
    """Undo study in some of the blocks, then study once more: active forgetting.

    Zhang, Li & Wu 2024 (arXiv 2409.14057) reset the adapters of the upper blocks and train again. Here any method: with
    `Full` the blocks get their pretrained tensors back, with `LoRA` a fresh adapter each. Embeddings, final norm and
    head go with the lower side. The optimizer is dropped. With neither layer nothing is reset: the control that shows
    what the second pass does by itself.
    """

    from_layer: Count | None = None
    """Forgetting layer k: blocks >= k are reset, counting from 0."""
    below_layer: Positive | None = None
    """Reset the blocks < k instead, with embeddings, final norm and head: the opposite control."""
    restudy_exposures: Count | None = None
    """Passes over the study list afterwards, with a fresh optimizer and schedule and in the order of the first pass;
    by default as many as before, 0 is the reset alone."""

    def __post_init__(self) -> None:
        if self.from_layer is not None and self.below_layer is not None:
            raise SpecError("Forget.from_layer and Forget.below_layer exclude each other")

    @property
    def side(self) -> Literal["upper", "lower", "none"]:
        """The side that is reset, as the column ``forget_side`` has it."""
        if self.from_layer is not None:
            return "upper"
        return "none" if self.below_layer is None else "lower"

    @property
    def layer(self) -> int | None:
        """k, as the column ``forget_layer`` has it."""
        return self.below_layer if self.from_layer is None else self.from_layer


@spec
class Interference:
    """Training on unrelated text after study, and after forgetting: what is left of a memory then?

    Orhan 2023 (arXiv 2303.17557), section 4: sentences of CNN/DailyMail, lr 1e-5, batch size 16, a fresh AdamW, probes
    after 1 to 100,000 steps. All retention intervals of a condition lie on one trajectory. A pass takes the texts in an
    order of its own, and none comes twice before all have come once.
    """

    corpus: Corpus
    """The unrelated texts."""
    steps: Count
    """Retention interval: optimizer steps of interference since study; 0 is right after it."""
    lr: Rate
    """Learning rate, constant."""
    batch_size: Positive = 16
    """Texts per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    optimizer: Literal["fresh", "carried"] = "fresh"
    """A new AdamW, as published, or the one of study with its moments."""
    dropout: Probability | None = None
    """As in `Study`."""
    weight_decay: NonNegative = 0.0
    """As in `Study`; a carried optimizer keeps that of study."""
    clip_norm: Rate | None = None
    """As in `Study`."""
    overlap: Literal["report", "refuse"] = "report"
    """What to do about texts that are studied or probed as well: say how many there are, or refuse the sweep."""

    def __post_init__(self) -> None:
        if self.optimizer == "carried" and self.weight_decay:
            raise SpecError("Interference.weight_decay: a carried optimizer keeps that of study")


PUBLISHED_RETENTION = (*range(1, 11), *range(20, 101, 10), *range(1_000, 10_001, 1_000), 100_000)


def retention_steps(until: int | Literal["published"], per_decade: int = 3) -> tuple[int, ...]:
    """Retention intervals for a grid: ``retention_steps("published")``, or evenly spaced on a log scale.

    Args:
        until: the last interval, at least 1, or "published" for those of Orhan 2023: 1 to 10, 20 to 100 by 10, 1,000 to
            10,000 by 1,000, and 100,000.
        per_decade: intervals from one power of ten to the next; with 3 they are 1, 2, 5, 10, 22, 46, 100 ...

    Returns:
        0, which is right after study, and the intervals in ascending order, each once.

    Raises:
        SpecError: a number is out of range.
    """
    if until == "published":
        return (0, *PUBLISHED_RETENTION)
    for name, value in (("until", until), ("per_decade", per_decade)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"retention_steps: {name} must be a whole number of at least 1, got {value!r}")
    spaced = (round(10 ** (i / per_decade)) for i in range(math.floor(math.log10(until) * per_decade + 1e-9) + 1))
    return tuple(sorted({0, *(min(step, until) for step in spaced), until}))


# ---------------------------------------------------------------------------------------------------------
# Probes and conditions


class Probe(ABC):
    """A measurement made after a stage. Subclass it with `@spec` to write your own.

    The fields of the bound probe (see `bind`) are its identity: together with the stage they must determine every
    number `measure` returns. Corpora among the fields are hashed by content.
    """

    kind: ClassVar[str]
    """Folder in the store and table name in queries."""

    @classmethod
    @abstractmethod
    def schema(cls) -> pa.Schema:
        """Columns of one row per item, without the settings that memexp adds."""

    def bind(self, condition: Condition) -> Probe:
        """A copy with what it takes over from `condition` filled in."""
        return self

    def known_by(self) -> Probe:
        """A copy with what no number depends on at its default; its fields are the identity. By default all count."""
        return self

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:  # noqa: B027 - optional
        """Refuse corpora that do not fit, before anything is trained. Raises `DataError`.

        Args:
            texts: the texts of each corpus among the fields; those of a `Pair` are ``targets`` and ``foils``.
            names: what each corpus is called.
        """

    @abstractmethod
    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Measure the model of `session` on `texts` (as in `check`). Called on every rank; rank 0's table is kept.

        Returns:
            A table with the columns of `schema`, one row per item.
        """


@spec
class Condition:
    """One fully specified grid cell, with what is to be measured there."""

    model: Model
    """The model that studies."""
    study: Study
    """What it studies."""
    method: Full | LoRA = Field(default_factory=Full)
    """How it learns."""
    seed: Count = 0
    """Seed of data order and dropout, and of the fresh adapters after forgetting."""
    probes: Annotated[tuple[Any, ...], BeforeValidator(_as_tuple)] = ()
    """Measurements made when the condition's training is over."""
    labels: dict[
        Annotated[str, AfterValidator(_label_name)], Annotated[str | int | float | bool, AfterValidator(_label)]
    ] = Field(default_factory=dict)
    """Names of your own, one column each: ``{"experiment": 1}``."""
    forget: Forget | None = None
    """What of the study is undone, and how often it is studied again afterwards."""
    interference: Interference | None = None
    """What is trained on afterwards."""

    def __post_init__(self) -> None:
        if not self.probes:
            raise SpecError("Condition.probes is empty: without a probe there is nothing to measure")
        if self.forget is not None and self.study.exposures == 0:
            raise SpecError("Condition.forget: with study.exposures=0 there is nothing to forget")
        for probe in self.probes:
            if not isinstance(probe, Probe) or not dataclasses.is_dataclass(probe):
                hint = "its class needs @spec" if isinstance(probe, Probe) else "give probes such as Recall()"
                raise SpecError(f"Condition.probes: {probe!r} is no probe; {hint}")
            kind = getattr(probe, "kind", "")
            if not _NAME.fullmatch(kind) or kind.lower() in ("training", "stages", "sweeps"):
                raise SpecError(f"{type(probe).__name__}.kind: {kind!r} cannot name a table of results")


def counterbalanced(condition: Condition) -> Condition:
    """The twin of `condition` that studies the foils and takes the targets as foils.

    Two unequal lists make recognition at zero exposures differ from one half; the mean over a condition and its twin
    does not. Every probe with a `Pair` gets it swapped. The twin carries the label ``counterbalanced = True``; the
    original may carry ``False``, or nothing, which reads as NULL.

    Raises:
        SpecError: no probe of the condition has a pair whose targets are the study list.
    """
    pairs = [probe.pair for probe in condition.probes if isinstance(getattr(probe, "pair", None), Pair)]
    foils = next((pair.foils for pair in pairs if pair.targets == condition.study.corpus), None)
    if foils is None:
        raise SpecError("counterbalanced() needs a probe with a pair whose targets are the condition's study list")
    probes = [
        dataclasses.replace(probe, pair=probe.pair.swapped) if isinstance(getattr(probe, "pair", None), Pair) else probe
        for probe in condition.probes
    ]
    return dataclasses.replace(
        condition,
        study=dataclasses.replace(condition.study, corpus=foils),
        probes=tuple(probes),
        labels={**condition.labels, "counterbalanced": True},
    )


@spec
class Resources:
    """What one trial holds. Never part of an identity; recorded in every row."""

    workers: Positive = 1
    """Processes over which one model is sharded (FSDP2)."""
    cpus: Rate = 1.0
    """CPUs of each worker, and its number of threads (rounded up)."""
    gpus: NonNegative = 0.0
    """GPUs of each worker; a fraction shares one."""

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpus % 1:
            raise SpecError(f"Resources.gpus must be a whole number or a fraction of one, got {self.gpus:g}")

    @property
    def threads(self) -> int:
        """Threads of each worker: decided here and not by the machine's load, since it changes the last digits."""
        return max(1, math.ceil(self.cpus))


ResourcesFor = Resources | Callable[[Model], Resources]
