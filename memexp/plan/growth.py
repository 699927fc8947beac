"""Grows the forest: every condition becomes a path of stages, and equal stages are one.

forest = grow(conditions, Resources(cpus=1))
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import CodeType
from typing import Any, Literal

from memexp.errors import SpecError
from memexp.identity import NUMERICS, canonical, identity, texts_identity
from memexp.plan.forest import Ask, Forest, Stage
from memexp.plan.passes import Overlaps, Passing, line_up, settled, stop
from memexp.probes import BY_KIND
from memexp.probes.checks import check_headline
from memexp.records import check_items, check_labels
from memexp.sources import Sources, Stream, Texts, is_corpus
from memexp.spec import (
    Condition,
    Corpus,
    Forget,
    Interference,
    Items,
    LoRA,
    Pair,
    Pretrain,
    Probe,
    Resources,
    ResourcesFor,
    Study,
)

__all__ = ["grow"]


def grow(
    conditions: Iterable[Condition],
    resources: ResourcesFor = Resources(),  # noqa: B008 - frozen
    sources: Sources | None = None,
) -> Forest:
    """The forest of `conditions`: reads their corpora, pins their models, and merges what they share.

    Raises:
        SpecError: two conditions give the same label different types, or a label hides a column.
        DataError, ModelError: a corpus or model cannot be used.
    """
    forest = Forest()
    read = _Reader(forest, sources or Sources())
    overlaps = Overlaps(forest)
    label_types: dict[str, type] = {}
    asks: dict[tuple[str, str], Ask] = {}
    seen: set[str] = set()
    kinds = {kind: cls.__qualname__ for kind, cls in BY_KIND.items()}
    for condition in conditions:
        path = _path(condition, read)
        for stage in path:
            forest.stages.setdefault(stage.id, stage)
        if path[0].id not in forest.resources:
            needs = resources if isinstance(resources, Resources) else resources(condition.model)
            forest.resources[path[0].id] = needs
        _check_label_types(condition, label_types)
        settings = _settings(condition, path, read)
        if settings["condition_id"] not in seen:  # a grid may name a condition twice
            seen.add(settings["condition_id"])
            forest.steps_unshared += sum(stage.steps for stage in path)
        lists = [read.texts(condition.study.corpus).id]
        for probe in condition.probes:
            table, name = probe.kind.lower(), type(probe).__qualname__  # SQL ignores case
            if kinds.setdefault(table, name) != name:
                raise SpecError(f"{name}.kind: {probe.kind!r} is the table of {kinds[table]}; name another")
            ask = _ask(read, condition, probe.bind(condition), settings)
            asks[ask.kind, ask.name] = ask
            lists += ask.corpora.values()
        for part in (condition.pretrain, condition.interference):
            if part is not None:
                overlaps.note(part, read.corpus(part.corpus), lists)
    forest.asks = list(asks.values())
    line_up(forest)
    overlaps.check()
    return forest


@dataclass(frozen=True)
class _Reader:
    """Reads corpora and remembers them in the forest."""

    forest: Forest
    sources: Sources

    def texts(self, corpus: object) -> Texts:
        """Those of a list, under its own name: the forest has one of many lists with the same texts."""
        texts = self.sources.texts(corpus)
        self.forest.texts.setdefault(texts.id, texts)
        return texts

    def corpus(self, corpus: object) -> Texts | Stream:
        """A list or a stream."""
        found = self.sources.corpus(corpus)
        if isinstance(found, Texts):
            return self.texts(corpus)
        self.forest.streams.setdefault(found.id, found)
        return found


def _path(condition: Condition, read: _Reader) -> list[Stage]:
    """The stages of one condition, as in the table of DESIGN.md section 4."""
    study, before, between = condition.study, condition.pretrain, condition.interference
    model, texts = read.sources.model(condition.model), read.texts(study.corpus)
    key: dict[str, Any] = {"numerics": NUMERICS, "model": model.key, "method": canonical(condition.method)}
    if study.dtype != "float32":
        key["dtype"] = study.dtype
    path = [Stage(identity(key), "base", None, model, condition.method, study.dtype)]
    if before is not None:
        pretrained = stop(path[-1], before, before.seed, read.corpus(before.corpus))
        path += [pretrained] if before.steps else []
    path += _exposures("study", path[-1], study, condition.seed, texts)
    if condition.forget is not None:
        path.append(_forgetting(path[-1], condition.forget, condition.seed))
        again = dataclasses.replace(study, exposures=_restudy_exposures(condition))
        path += _exposures("restudy", path[-1], again, condition.seed, texts)
    if between is not None and between.steps:
        if between.optimizer == "carried" and path[-1].study is None:  # there is none of study to carry
            between = dataclasses.replace(between, optimizer="fresh", weight_decay=study.weight_decay)
        path.append(stop(path[-1], between, condition.seed, read.corpus(between.corpus)))
    return path


def _exposures(
    kind: Literal["study", "restudy"], parent: Stage, study: Study, seed: int, texts: Texts
) -> Iterator[Stage]:
    """A stage for each exposure, or one for all where the schedule knows its horizon."""
    per_exposure = math.ceil(texts.count / study.batch_size)
    # What determines a step beyond the model; the number of exposures only where the schedule knows it.
    settings = canonical(study, lambda value: texts.id if is_corpus(value) else None)["Study"]
    what = {name: value for name, value in settings.items() if name not in ("exposures", "dtype")}
    spans = [(i, i) for i in range(1, study.exposures + 1)]
    if study.knows_horizon and spans:
        spans = [(1, study.exposures)]
        what["exposures"] = study.exposures
    for first, last in spans:
        parent = dataclasses.replace(
            parent,
            id=identity({"parent": parent.id, kind: what, "seed": seed, "exposure": first}),
            kind=kind,
            parent=parent.id,
            pretrain=None,
            study=study,
            forget=None,
            origin=None,
            start=None,
            corpus=texts.id,
            seed=seed,
            first=first,
            last=last,
            steps=(last - first + 1) * per_exposure,
        )
        yield parent


def _forgetting(parent: Stage, forget: Forget, seed: int) -> Stage:
    """The reset by itself: its identity says nothing of what is studied afterwards."""
    # The seed, which fresh adapters are drawn from, is part of the parent's identity.
    key = {"parent": parent.id, "forget": {"side": forget.side, "layer": forget.layer}}
    return Stage(
        identity(key), "forget", parent.id, parent.model, parent.method, parent.dtype, forget=forget, seed=seed
    )


def _restudy_exposures(condition: Condition) -> int:
    assert condition.forget is not None
    given = condition.forget.restudy_exposures
    return condition.study.exposures if given is None else given


def _settings(condition: Condition, path: Sequence[Stage], read: _Reader) -> dict[str, Any]:
    """The setting columns of a condition's rows, without the probe's."""
    study, method, model = condition.study, condition.method, path[0].model
    texts = read.texts(study.corpus)
    study_key = canonical(study, lambda value: texts.id if is_corpus(value) else None)
    condition_key = {
        "model": [model.name, model.key],
        "method": canonical(method),
        "study": study_key,
        "seed": condition.seed,
        "labels": dict(condition.labels),
    }
    forgetting: dict[str, Any] = {}
    if condition.forget is not None:
        forgetting = {
            "forget_side": condition.forget.side,
            "forget_layer": condition.forget.layer,
            "restudy_exposures": _restudy_exposures(condition),
        }
        condition_key["forget"] = forgetting
    passing: dict[str, Any] = {}
    for part in (condition.pretrain, condition.interference):
        if part is not None:
            corpus = read.corpus(part.corpus)
            passing |= _passing_columns(part, corpus)
            condition_key[type(part).__name__.lower()] = settled(part, corpus)
    lora = {}
    if isinstance(method, LoRA):
        targets = method.targets if isinstance(method.targets, str) else ",".join(method.targets)
        lora = {f"lora_{f.name}": getattr(method, f.name) for f in fields(method)} | {"lora_targets": targets}
    return {
        "condition_id": identity(condition_key),
        "stage_id": path[-1].id,
        "model": model.name,
        "model_revision": model.commit,
        "model_id": model.id,
        "init": "pretrained" if model.config is None else "random",
        "init_seed": None if model.config is None else model.seed,
        "tokenizer": model.tokenizer_name,
        "method": type(method).__name__.lower(),
        **lora,
        "corpus": texts.name,
        "corpus_id": texts.id,
        **{f.name: getattr(study, f.name) for f in fields(study) if f.name != "corpus"},
        "seed": condition.seed,
        **forgetting,
        **passing,
    }


def _passing_columns(part: Passing, corpus: Texts | Stream) -> dict[str, Any]:
    """The setting columns of pretraining or of interference."""
    prefix = "pretrain" if isinstance(part, Pretrain) else "interference"
    own = {f"{prefix}_{f.name}": getattr(part, f.name) for f in fields(part) if f.name != "overlap"}
    if isinstance(part, Interference):
        own["retention_steps"] = own.pop("interference_steps")
    return own | {f"{prefix}_corpus": corpus.name, f"{prefix}_corpus_id": corpus.id}


def _check_label_types(condition: Condition, known: dict[str, type]) -> None:
    for name, value in condition.labels.items():
        expected = known.setdefault(name.lower(), type(value))
        if type(value) is not expected:
            raise SpecError(
                f"Condition.labels: {name!r} is {expected.__name__} in one condition and "
                f"{type(value).__name__} in another ({value!r}); a column has one type"
            )


def _ask(read: _Reader, condition: Condition, probe: Probe, settings: dict[str, Any]) -> Ask:
    check_labels(condition.labels, probe.schema())
    check_items(type(probe).__name__, probe.schema())
    check_headline(type(probe))
    names = [name for name, _ in probe_corpora(probe)]
    if len(set(names)) < len(names):
        raise SpecError(
            f"{type(probe).__name__}: one Pair and corpora under other names, please; it has {', '.join(names)}"
        )
    corpora = {name: read.texts(corpus) for name, corpus in probe_corpora(probe)}
    items = {name: texts.items for name, texts in corpora.items()}
    probe.check(items, {n: t.name for n, t in corpora.items()})
    mended = probe.numerics(condition, read.sources.model(condition.model), items)

    def content(value: Any) -> Any | None:
        if isinstance(value, Pair):  # its name is for people only
            return [content(value.targets), content(value.foils)]
        return read.texts(value).id if is_corpus(value) else None

    def named(value: Any) -> Any | None:
        return read.texts(value).name if is_corpus(value) else None

    key = {"probe": canonical(probe.known_by(), content), **_source(probe)}
    probe_id = identity(key | ({"numerics": dict(mended)} if mended else {}))
    told = json.dumps(canonical(probe, named), ensure_ascii=False)
    return Ask(
        stage=settings["stage_id"],
        probe=probe,
        probe_id=probe_id,
        condition_id=settings["condition_id"],
        settings={**settings, "probe_id": probe_id, "probe_settings": told},
        labels=dict(condition.labels),
        corpora={name: texts.id for name, texts in corpora.items()},
    )


def _source(probe: Probe) -> dict[str, str]:
    """The hash of the classes' sources, for probes that do not come with memexp: who edits one wants new numbers.

    The class, what it inherits from, and the same of a probe within. What they call elsewhere is not seen. memexp's own
    probes change their numbers with `NUMERICS` only.
    """
    sources = list(_sources(probe))
    return {"source": texts_identity(sources)} if sources else {}


def _sources(probe: Probe) -> Iterator[str]:
    """The sources of a probe's classes as far as somebody else wrote them: its own first."""
    for cls in type(probe).__mro__:
        if cls.__module__.partition(".")[0] in ("memexp", "abc", "builtins", "typing"):
            continue
        try:
            yield inspect.getsource(cls)
        except (OSError, TypeError):  # typed into an interpreter that keeps no source
            yield from (_code(value.__code__) for _, value in sorted(vars(cls).items()) if _is_own(value, cls))
    for _, value in _fields(probe):
        if isinstance(value, Probe):
            yield from _sources(value)


def _is_own(value: Any, cls: type) -> bool:
    """Whether it is a method that was written in `cls`, and not made by a decorator."""
    return inspect.isfunction(value) and value.__module__ == cls.__module__ and value.__name__ != "__init__"


def _code(code: CodeType) -> str:
    """What a function does, in the words of this Python's compiler: without where it stands."""
    constants = [
        _code(value)
        if isinstance(value, CodeType)
        else sorted(map(repr, value))
        if isinstance(value, frozenset)
        else value
        for value in code.co_consts
    ]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def probe_corpora(probe: Probe) -> Iterator[tuple[str, Corpus | Items]]:
    """Name and description of every corpus among a probe's fields.

    A `Pair` gives ``targets`` and ``foils``, a probe within the probe what it has itself.
    """
    for name, value in _fields(probe):
        if isinstance(value, Pair):
            yield "targets", value.targets
            yield "foils", value.foils
        elif isinstance(value, Probe):
            yield from probe_corpora(value)
        elif is_corpus(value):
            yield name, value


def _fields(probe: Probe) -> Iterator[tuple[str, Any]]:
    """Name and value of every field."""
    for item in fields(probe):  # type: ignore[arg-type] # Condition has checked that it is a dataclass
        yield item.name, getattr(probe, item.name)
