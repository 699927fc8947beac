"""Grows the forest: every condition becomes a path of stages, and equal stages are one.

forest = grow(conditions, Resources(cpus=1))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from memexp.errors import SpecError
from memexp.identity import NUMERICS, NUMERICS_OF, canonical, identity
from memexp.plan.asks import ask_for
from memexp.plan.exposures import exposures
from memexp.plan.forest import Ask, BaseStage, Forest, ForgetStage, Stage
from memexp.plan.list_remarks import remark_texts
from memexp.plan.overlaps import Overlaps
from memexp.plan.passes import line_up, stop
from memexp.plan.reader import Reader
from memexp.plan.setting_columns import check_label_types, setting_columns
from memexp.plan.uncollected import uncollected
from memexp.probes import BY_KIND
from memexp.sources import Sources
from memexp.spec import Condition, Forget, Interference, Resources, ResourcesFor, Spaced, Study

__all__ = ["grow"]

MOST_STAGES = 1_000_000
"""What a plan has memory for: half a gigabyte."""


@uncollected
def grow(
    conditions: Iterable[Condition],
    resources: ResourcesFor = Resources(),  # noqa: B008 - frozen
    sources: Sources | None = None,
) -> Forest:
    """The forest of `conditions`: reads their corpora, pins their models, and merges what they share.

    Raises:
        SpecError: two conditions give the same label different types, a label hides a column, or there is no end to it.
        DataError, ModelError: a corpus or model cannot be used.
    """
    forest = Forest()
    read = Reader(forest, sources or Sources())
    overlaps = Overlaps(forest)
    label_types: dict[str, type] = {}
    asks: dict[str, Ask] = {}
    seen: set[str] = set()
    kinds = {kind: cls.__qualname__ for kind, cls in BY_KIND.items()}
    for condition in conditions:
        path = _path(condition, read)
        _merge(path, forest)
        if path[0].id not in forest.resources:
            forest.resources[path[0].id] = _needs(condition, resources)
        check_label_types(condition, label_types)
        settings = setting_columns(condition, path, read)
        if settings["condition_id"] not in seen:  # a grid may name a condition twice
            seen.add(settings["condition_id"])
            forest.steps_unshared += sum(stage.steps for stage in path)
        lists = [read.texts(corpus).id for corpus in condition.studied]
        for probe in condition.probes:
            table, name = probe.kind.lower(), type(probe).__qualname__  # SQL ignores case
            if kinds.setdefault(table, name) != name:
                raise SpecError(f"{name}.kind: {probe.kind!r} is the table of {kinds[table]}; name another")
            ask = ask_for(read, condition, probe.bind(condition), settings)
            asks[ask.file] = ask
            lists += ask.corpora.values()
        _note_overlaps(overlaps, condition, read, lists)
    forest.asks = list(asks.values())
    line_up(forest)
    overlaps.check()
    remark_texts(forest)
    return forest


def _note_overlaps(overlaps: Overlaps, condition: Condition, read: Reader, lists: Iterable[str]) -> None:
    """What a condition passes over that may hold texts of `lists`, which it studies or asks about."""
    for part in (condition.pretrain, condition.interference):
        if part is not None:
            overlaps.note(part, read.corpus(part.corpus), lists)
    if isinstance(between := condition.study.presentation, Spaced):
        overlaps.note(between, read.corpus(between.filler), lists)
    if (unlearn := condition.unlearn) is not None and unlearn.retain is not None:
        forgotten = read.texts(unlearn.forget or condition.study.corpus)
        overlaps.note(unlearn, read.texts(unlearn.retain), [forgotten.id])


def _needs(condition: Condition, resources: ResourcesFor) -> Resources:
    """What a trial of the condition holds. Raises SpecError where its arithmetic needs more."""
    needs = resources if isinstance(resources, Resources) else resources(condition.model)
    if condition.study.dtype == "tf32" and not needs.gpus:
        raise SpecError(
            f"Study.dtype: tf32 is arithmetic of GPUs, and {condition.model.name!r} is given none; "
            "give Resources(gpus=1), or dtype='float32'"
        )
    return needs


def _merge(path: list[Stage], forest: Forest) -> None:
    """Add the stages that are new. Raises SpecError where there is no end to them."""
    for stage in path:
        forest.stages.setdefault(stage.id, stage)
    if len(forest.stages) > MOST_STAGES:
        raise SpecError(
            f"Sweep.conditions: they come to more than {MOST_STAGES:,} stages, one for each exposure of every "
            "trajectory; ask for fewer exposures, or make several sweeps of it"
        )


def _path(condition: Condition, read: Reader) -> list[Stage]:
    """The stages of one condition, as in the table of stage identities in ARCHITECTURE.md."""
    study, before, between = condition.study, condition.pretrain, condition.interference
    model = read.sources.model(condition.model)
    key: dict[str, Any] = {"numerics": NUMERICS, "model": model.key, "method": canonical(condition.method)}
    if study.dtype != "float32":
        key["dtype"] = study.dtype
    if study.dtype in NUMERICS_OF:
        key["dtype_numerics"] = NUMERICS_OF[study.dtype]
    path: list[Stage] = [BaseStage(id=identity(key), model=model, method=condition.method, dtype=study.dtype)]
    if before is not None:
        pretrained = stop(path[-1], before, before.seed, read.corpus(before.corpus))
        path += [pretrained] if before.steps else []
    path += exposures("study", path[-1], study, condition.seed, read)
    # What was never studied needs no reset: that control is what every condition without study is.
    if condition.forget is not None and (study.exposures or condition.forget.exposures_after(study)):
        path.append(_forgetting(path[-1], condition.forget, condition.seed))
        again = dataclasses.replace(study, exposures=condition.forget.exposures_after(study))
        path += exposures("restudy", path[-1], again, condition.seed, read)
    if condition.then is not None:
        path += exposures("then", path[-1], condition.then, condition.seed, read)
    studied, unlearn = path[-1].kind in ("study", "restudy", "then"), condition.unlearn
    if unlearn is not None:
        kept = None if unlearn.retain is None else read.texts(unlearn.retain).id
        unlearned = stop(path[-1], unlearn, condition.seed, read.texts(unlearn.forget or study.corpus), kept)
        path += [unlearned] if unlearn.steps else []
    if between is not None and between.steps:
        between = _possible(between, study, studied, any(stage.kind in ("study", "restudy") for stage in path))
        beside = read.texts(study.corpus).id if between.replay or between.protect else None
        path.append(stop(path[-1], between, condition.seed, read.corpus(between.corpus), beside))
    return path


def _possible(between: Interference, study: Study, studied: bool, met: bool) -> Interference:
    """Interference as it comes after study, or not: of what was not `studied` nothing is carried, and where the study
    list was not `met`, which a second study does not change, none of it is replayed or kept."""
    if between.protect is not None and not between.protect.strength:
        between = dataclasses.replace(between, protect=None)
    if not met:
        between = dataclasses.replace(between, replay=0.0, protect=None)
    if studied:
        return between
    if between.optimizer == "carried":
        between = dataclasses.replace(between, optimizer=study.optimizer, weight_decay=study.weight_decay)
    return between


def _forgetting(parent: Stage, forget: Forget, seed: int) -> ForgetStage:
    """The reset by itself: its identity says nothing of what is studied afterwards."""
    # The seed, which fresh adapters are drawn from, is part of the parent's identity.
    key = {"parent": parent.id, "forget": {"side": forget.side, "layer": forget.layer}}
    return ForgetStage(
        id=identity(key),
        parent=parent.id,
        model=parent.model,
        method=parent.method,
        dtype=parent.dtype,
        forget=forget,
        seed=seed,
    )
