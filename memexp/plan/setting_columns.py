"""What the rows of a condition say of it: a column for each of its settings."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from memexp.errors import SpecError
from memexp.identity import canonical, identity
from memexp.plan.forest import Stage
from memexp.plan.passes import Passing, settled
from memexp.plan.reader import Reader
from memexp.sources import ResolvedModel, Stream, Texts, is_corpus
from memexp.spec import SGD, AdamW, Condition, Cyclic, Full, Interference, LoRA, Pretrain, Spaced, Study, Unlearn

__all__ = ["Columns", "check_label_types", "setting_columns"]

_TOLD_OTHERWISE = ("corpus", "optimizer", "presentation", "times", "variants", "further_batches")
_NO_COLUMN = ("overlap", "optimizer", "protect")


class Columns(Mapping[str, Any]):
    """A dictionary of which there are many with the same names: these are held once, and beside them a row of values.

    Of 100,000 conditions plain ones take half a gigabyte.
    """

    __slots__ = ("_at", "_more", "_values")

    def __init__(self, at: dict[str, int], values: tuple[Any, ...], more: tuple[Any, ...] = ()) -> None:
        self._at, self._values, self._more = at, values, more

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Columns:
        """The same names and values, in the same order."""
        return cls(_places(tuple(columns)), tuple(columns.values()))

    def beside(self, columns: Mapping[str, Any]) -> Columns:
        """These and `columns`, of other names; what is here is not held once more."""
        return Columns(_places((*self._at, *columns)), self._values, (*self._more, *columns.values()))

    def __getitem__(self, name: str) -> Any:
        at = self._at[name]
        return self._values[at] if at < len(self._values) else self._more[at - len(self._values)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __repr__(self) -> str:
        return repr(dict(self))


@functools.lru_cache(maxsize=256)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: at for at, name in enumerate(names)}


def setting_columns(condition: Condition, path: Sequence[Stage], read: Reader) -> Columns:
    """The setting columns of a condition's rows, without the probe's."""
    study, method, model, texts = condition.study, condition.method, path[0].model, read.texts(condition.study.corpus)
    passing = [
        (part, read.corpus(part.corpus)) for part in (condition.pretrain, condition.interference) if part is not None
    ]
    columns = {
        "condition_id": identity(_key(condition, model, texts, passing, read)),
        "stage_id": path[-1].id,
        "model": model.name,
        "model_revision": model.commit,
        "model_id": model.id,
        "init": "pretrained" if model.config is None else "random",
        "init_seed": None if model.config is None else model.seed,
        "tokenizer": model.tokenizer_name,
        "method": type(method).__name__.lower(),
        **_lora_columns(method),
        "corpus": texts.name,
        "corpus_id": texts.id,
        **{f.name: getattr(study, f.name) for f in fields(study) if f.name not in _TOLD_OTHERWISE},
        **_optimizer_columns(study.optimizer),
        **_presentation_columns(study, read),
        "seed": condition.seed,
        **_forgetting_columns(condition),
        **_then_columns(condition.then, read),
        **_unlearning_columns(condition, texts, read),
        **{name: value for part, corpus in passing for name, value in _passing_columns(part, corpus).items()},
    }
    return Columns.of(columns)


def _key(
    condition: Condition,
    model: ResolvedModel,
    texts: Texts,
    passing: Sequence[tuple[Passing, Texts | Stream]],
    read: Reader,
) -> dict[str, Any]:
    """What makes a condition another one: with its probes it gives the names of its results."""
    study = condition.study

    def content(value: object) -> str | None:
        if not is_corpus(value):
            return None
        return texts.id if value is study.corpus else read.corpus(value).id

    key = {
        "model": [model.name, model.key],
        "method": canonical(condition.method),
        "study": canonical(study, content),
        "seed": condition.seed,
        "labels": dict(condition.labels),
    }
    if condition.forget is not None:
        key["forget"] = _forgetting_columns(condition)
    if condition.then is not None:
        key["then"] = canonical(condition.then, content)
    if (unlearn := condition.unlearn) is not None:
        forgotten, kept = _lists(unlearn, texts, read)
        key["unlearn"] = settled(unlearn, forgotten, None if kept is None else kept.id)
    return key | {type(part).__name__.lower(): settled(part, corpus) for part, corpus in passing}


def _lora_columns(method: Full | LoRA) -> dict[str, Any]:
    if not isinstance(method, LoRA):
        return {}
    targets = method.targets if isinstance(method.targets, str) else ",".join(method.targets)
    return {f"lora_{f.name}": getattr(method, f.name) for f in fields(method)} | {"lora_targets": targets}


def _optimizer_columns(optimizer: AdamW | SGD | str) -> dict[str, Any]:
    """Nothing of AdamW: so rows of before there was another agree with those of today."""
    if isinstance(optimizer, SGD):
        return {"optimizer": "sgd", "momentum": optimizer.momentum}
    return {"optimizer": optimizer} if isinstance(optimizer, str) else {}


def _presentation_columns(study: Study, read: Reader) -> dict[str, Any]:
    """How exposures lie in time and what they have of the list, where they are not massed, each of all of it."""
    how, told = study.presentation, dict[str, Any]()
    if study.times is not None:
        told["times"] = ",".join(map(str, study.times))
    if study.variants:
        variants = [read.texts(corpus) for corpus in study.variants]
        told["variants"] = ",".join(texts.name for texts in variants)
        told["variants_id"] = identity([texts.id for texts in variants])
    told["further_batches"] = study.further_batches or None
    if isinstance(how, Spaced):
        filler = read.corpus(how.filler)
        gaps = {"presentation_gap": how.gap, "presentation_factor": how.factor, "presentation_beside": how.beside}
        return told | {"presentation": "spaced", **gaps, "filler": filler.name, "filler_id": filler.id}
    return told | ({"presentation": "cyclic", "presentation_steps": how.steps} if isinstance(how, Cyclic) else {})


def _then_columns(then: Study | None, read: Reader) -> dict[str, Any]:
    """The setting columns of a second study."""
    if then is None:
        return {}
    texts = read.texts(then.corpus)
    told = {f.name: getattr(then, f.name) for f in fields(then) if f.name not in (*_TOLD_OTHERWISE, "dtype")}
    told |= {"corpus": texts.name, "corpus_id": texts.id, **_optimizer_columns(then.optimizer)}
    return {f"then_{name}": value for name, value in told.items()}


def _forgetting_columns(condition: Condition) -> dict[str, Any]:
    forget = condition.forget
    if forget is None:
        return {}
    return {
        "forget_side": forget.side,
        "forget_layer": forget.layer,
        "restudy_exposures": forget.exposures_after(condition.study),
    }


def _unlearning_columns(condition: Condition, studied: Texts, read: Reader) -> dict[str, Any]:
    unlearn = condition.unlearn
    if unlearn is None:
        return {}
    forgotten, kept = _lists(unlearn, studied, read)
    told = ("forget", "retain", "optimizer")
    own = {f.name: getattr(unlearn, f.name) for f in fields(unlearn) if f.name not in told}
    own |= _optimizer_columns(unlearn.optimizer) | {"forget": forgotten.name, "forget_id": forgotten.id}
    # Of what it takes no notice of it says nothing.
    own["beta"] = unlearn.beta if unlearn.loss == "npo" else None
    own |= {"weight": None} if kept is None else {"retain": kept.name, "retain_id": kept.id}
    return {f"unlearn_{name}": value for name, value in own.items()}


def _lists(unlearn: Unlearn, studied: Texts, read: Reader) -> tuple[Texts, Texts | None]:
    """What is to be unlearned, and what is to be kept."""
    forgotten = studied if unlearn.forget is None else read.texts(unlearn.forget)
    return forgotten, None if unlearn.retain is None else read.texts(unlearn.retain)


def _passing_columns(part: Passing, corpus: Texts | Stream) -> dict[str, Any]:
    """The setting columns of pretraining or of interference."""
    prefix = "pretrain" if isinstance(part, Pretrain) else "interference"
    own = {f"{prefix}_{f.name}": getattr(part, f.name) for f in fields(part) if f.name not in _NO_COLUMN}
    own |= {f"{prefix}_{name}": value for name, value in _optimizer_columns(part.optimizer).items()}
    if isinstance(part, Interference):
        own["retention_steps"] = own.pop("interference_steps")
        own["interference_replay"] = part.replay or None  # as in rows of before it could be told
        if (protect := part.protect) is not None:
            own |= {f"interference_protect_{f.name}": getattr(protect, f.name) for f in fields(protect)}
    return own | {f"{prefix}_corpus": corpus.name, f"{prefix}_corpus_id": corpus.id}


def check_label_types(condition: Condition, known: dict[str, type]) -> None:
    """Refuse a label of another type than in the conditions `known` is of. Raises SpecError."""
    for name, value in condition.labels.items():
        expected = known.setdefault(name.lower(), type(value))
        if type(value) is not expected:
            raise SpecError(
                f"Condition.labels: {name!r} is {expected.__name__} in one condition and "
                f"{type(value).__name__} in another ({value!r}); a column has one type"
            )
