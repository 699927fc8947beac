"""One grid cell: a condition with its probes and labels."""

from __future__ import annotations

import dataclasses
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from memexp.errors import SpecError, writable
from memexp.spec.corpora import Corpus, Pair
from memexp.spec.fields import LARGEST, NAME, Count, as_tuple, finite, spec
from memexp.spec.headline import Headline
from memexp.spec.located import located, written_by_user
from memexp.spec.models import Full, LoRA, Model
from memexp.spec.presentations import Spaced
from memexp.spec.token_asks import Passed
from memexp.spec.training import Forget, Interference, Pretrain, Study
from memexp.spec.unlearning import Unlearn

if TYPE_CHECKING:
    import pyarrow as pa

    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Condition", "Probe", "counterbalanced", "field_names", "probes_within", "runs_users_code"]

LONGEST_KIND = 100
"""Characters; names of files that begin with a kind go on with two identities and an attempt, and have 255 bytes."""


def _label_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"label {value!r} becomes a column: use letters, digits and '_', not starting with a digit")
    return value


def _label(value: str | int | float | bool) -> str | int | float | bool:
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, str) and writable(value) != value:
        raise ValueError(f"{value!r} holds half of a surrogate pair, which no file can")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{value} does not fit a column of 64 bits")
    return value


class Probe(ABC):
    """A measurement made after a stage. Subclass it with `@spec` to write your own.

    The fields of the bound probe (see `bind`) are its identity: together with the stage they must determine every
    number `measure` returns. Corpora among the fields are hashed by content.
    """

    kind: ClassVar[str]
    """Folder in the store and table name in queries."""
    headline: ClassVar[Headline | None] = None
    """What the table at the end of a sweep shows of its rows; None where no single mean says something."""
    changes_frozen: ClassVar[bool] = False
    """Whether `measure` changes weights meanwhile that do not learn, which lanes of adapters share: no trial with such
    a probe and an adapter has several."""

    def __init__(self, *given: Any, **named: Any) -> None:
        """Reached by a class without `@spec` only, which would know nothing of its fields. Raises SpecError."""
        raise SpecError(f"{located(type(self))} is a probe without @spec; put @spec of memexp.spec above it")

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

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """Ways of computing that were mended, by name, each with a number to bump; part of the identity where any is.

        Names a mend only where the outcome can differ from what was computed before it (a certain dtype, tokenizer or
        alphabet), so that all other rows of old stores stay what they are. Called on the bound probe.
        """
        return {}

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:  # noqa: B027 - optional
        """Refuse corpora that do not fit, before anything is trained. Raises `DataError`.

        Args:
            texts: the texts of each corpus among the fields; those of a `Pair` are ``targets`` and ``foils``.
            names: what each corpus is called.
        """

    def readings(self) -> float:
        """How often its corpora pass through a model, about, by which a plan reckons its time. On the bound probe."""
        return 1.0

    def uncut(self, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """Texts of which nothing can be measured where `block_size` cuts them: refused before anything is trained, as
        far as the tokenizer is here then. Called on the bound probe; `texts` as in `check`."""
        return ()

    def passed(self, texts: Mapping[str, Sequence[str]]) -> Passed | None:
        """What it passes through the model, where that is a list of texts for whose tokens it asks once; of memexp's
        own probes those that agree in texts and block size share a pass. Called on the bound probe."""
        return None

    def texts_of(self, items: pa.Table, texts: Mapping[str, Sequence[str]]) -> Sequence[str | None] | None:
        """The text that each row is about, as it may have been studied; None where rows are about none.

        By default ``item`` is its place in the targets of a `Pair`, or in the field ``corpus``.

        Args:
            items: what `measure` gave.
            texts: as in `check`.
        """
        listed = texts.get("targets", texts.get("corpus"))
        if listed is None or "item" not in items.column_names or str(items.schema.field("item").type) != "int64":
            return None
        at = items.column("item").to_pylist()
        return [None if one is None or not 0 <= one < len(listed) else listed[one] for one in at]

    @abstractmethod
    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Measure the model of `session` on `texts` (as in `check`). Called on every rank; rank 0's table is kept.

        Returns:
            A table with the columns of `schema`, one row per item.
        """


def probes_within(probe: Probe) -> Iterator[Probe]:
    """A probe, and those that it has as fields, which may have some too."""
    yield probe
    for name in field_names(type(probe)):
        if isinstance(value := getattr(probe, name), Probe):
            yield from probes_within(value)


@functools.cache
def field_names(cls: type[Probe]) -> tuple[str, ...]:
    """Of a class of probes, of which a plan has many alike."""
    return tuple(item.name for item in dataclasses.fields(cls))  # type: ignore[arg-type] # a condition has checked it


def runs_users_code(probe: Probe) -> bool:
    """Whether a user wrote the probe, or one within it: such a one may do anything to the model."""
    return any(written_by_user(type(one)) for one in probes_within(probe))


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
    probes: Annotated[tuple[Any, ...], BeforeValidator(as_tuple)] = ()
    """Measurements made when the condition's training is over."""
    labels: dict[
        Annotated[str, AfterValidator(_label_name)], Annotated[str | int | float | bool, AfterValidator(_label)]
    ] = Field(default_factory=dict)
    """Names of your own, one column each: ``{"experiment": 1}``."""
    forget: Forget | None = None
    """What of the study is undone, and how often it is studied again afterwards. With ``study.exposures=0`` there is
    nothing to forget, and unless `Forget.restudy_exposures` says otherwise nothing to study again: a grid's control."""
    interference: Interference | None = None
    """What is trained on afterwards."""
    pretrain: Pretrain | None = None
    """What is trained on before study."""
    then: Study | None = None
    """A second study, after forgetting and before interference: another list, or questions about a part of the first.
    Its exposures are massed, its optimizer is new, and its forgetting layers fork before it."""
    unlearn: Unlearn | None = None
    """What is unlearned after study, and after forgetting, before interference."""

    def __post_init__(self) -> None:
        if not self.probes:
            raise SpecError("Condition.probes is empty: without a probe there is nothing to measure")
        if self.pretrain is not None and isinstance(self.method, LoRA):
            raise SpecError("Condition.pretrain needs method=Full(): of LoRA nothing but the adapter would learn")
        self._check_studies()
        if self.unlearn is not None:
            self._check_unlearning(self.unlearn)
        for probe in self.probes:
            if not isinstance(probe, Probe):
                raise SpecError(f"Condition.probes: {probe!r} is no probe; give probes such as Recall()")
            if "__dataclass_fields__" not in vars(type(probe)):  # a parent's would leave out its own fields
                raise SpecError(f"{located(type(probe))} is a probe without @spec; put @spec of memexp.spec above it")
            kind = getattr(probe, "kind", "")
            if (
                not NAME.fullmatch(kind)
                or len(kind) > LONGEST_KIND
                or kind.lower() in ("training", "stages", "sweeps", "searches")
            ):
                raise SpecError(f"{type(probe).__name__}.kind: {kind!r} cannot name a table of results")

    @property
    def studied(self) -> tuple[Corpus, ...]:
        """All lists of its studies: the study list first."""
        then = () if self.then is None else (self.then.corpus,)
        return (self.study.corpus, *self.study.variants, *then)

    def _check_studies(self) -> None:
        if self.forget is not None and self.study.further_batches:
            raise SpecError(
                "Study.further_batches: a stop within the list has no forgetting after it; leave out forget"
            )
        if self.then is None:
            return
        if self.then.dtype != self.study.dtype:
            raise SpecError(f"Condition.then: a trajectory has one dtype, got {self.study.dtype} and {self.then.dtype}")
        for name in ("presentation", "times", "variants", "further_batches"):
            if getattr(self.then, name):
                raise SpecError(f"Condition.then: exposures of a second study are massed and whole; leave out {name}")

    def _check_unlearning(self, unlearn: Unlearn) -> None:
        if unlearn.forget is None and unlearn.retain == self.study.corpus:
            raise SpecError(
                f"Unlearn.retain: {self.study.corpus.name} is to be forgotten, being the study list; name the texts of "
                "it that are in Unlearn.forget, and the others here"
            )
        if self.interference is not None and self.interference.optimizer == "carried":
            raise SpecError("Interference.optimizer: 'carried' is that of study, and unlearning has one; give 'fresh'")


def counterbalanced(condition: Condition) -> Condition:
    """The twin of `condition` that studies the foils and takes the targets as foils.

    Two unequal lists make recognition at zero exposures differ from one half; the mean over a condition and its twin
    does not. Wherever a probe has one of the two lists it gets the other, a probe within a probe too. The twin carries
    the label ``counterbalanced = True``; the original may carry ``False``, or nothing, which reads as NULL.

    Raises:
        SpecError: no probe of the condition has a pair whose targets are the study list, or one has a pair with another
            list, whose twin would compare what was not studied.
    """
    studied = condition.study.corpus
    pairs = [pair for probe in condition.probes for pair in _pairs(probe)]
    foils = next((pair.foils for pair in pairs if pair.targets == studied), None)
    if foils is None:
        raise SpecError("counterbalanced() needs a probe with a pair whose targets are the condition's study list")
    other = next(
        (pair for pair in pairs if (pair.targets, pair.foils) not in ((studied, foils), (foils, studied))), None
    )
    if other is not None:
        raise SpecError(
            f"counterbalanced(): the twin studies {foils.name}, to which {other.targets.name} and {other.foils.name} "
            "are no pair; give that probe to a condition without a twin"
        )
    if condition.study.variants:
        raise SpecError("counterbalanced(): Study.variants are other words of the list, and the foils have none")
    between = condition.study.presentation
    if isinstance(between, Spaced) and between.filler in (studied, foils):
        raise SpecError(
            "counterbalanced(): Spaced.filler is one of the two lists, which the twin exchanges; give another"
        )
    then = condition.then
    if then is not None:
        then = dataclasses.replace(then, corpus={studied: foils, foils: studied}.get(then.corpus, then.corpus))
    unlearn = condition.unlearn
    if unlearn is not None and unlearn.forget not in (None, studied, foils):
        raise SpecError("counterbalanced(): the twin studies nothing of Unlearn.forget; unlearn the study list")
    return dataclasses.replace(
        condition,
        study=dataclasses.replace(condition.study, corpus=foils),
        then=then,
        probes=tuple(_exchanged(probe, studied, foils) for probe in condition.probes),
        unlearn=None if unlearn is None else _exchanged(unlearn, studied, foils),
        labels={**condition.labels, "counterbalanced": True},
    )


def _pairs(probe: Any) -> Iterator[Pair]:
    """The pairs of a probe, and of one within it."""
    for field in dataclasses.fields(probe):
        value = getattr(probe, field.name)
        if isinstance(value, Pair):
            yield value
        elif isinstance(value, Probe):
            yield from _pairs(value)


def _exchanged(probe: Any, one: Any, other: Any) -> Any:
    """`probe` with each of two lists in the place of the other."""

    def exchanged(value: Any) -> Any:
        if isinstance(value, Pair):
            return value.swapped
        if isinstance(value, Probe):
            return _exchanged(value, one, other)
        return other if value == one else one if value == other else value

    values = {field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)}
    changed = {name: new for name, value in values.items() if (new := exchanged(value)) is not value}
    return dataclasses.replace(probe, **changed)
