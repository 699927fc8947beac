"""Stages that go on over a corpus, pass after pass, and stop on the way: pretraining, filler, unlearning, interference.

path.append(stop(path[-1], condition.interference, condition.seed, corpus))
line_up(forest)              # when all stops are known
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from memexp.errors import DataError, SpecError
from memexp.identity import canonical, identity
from memexp.plan.forest import Forest, Stage, TrainingStage
from memexp.sources import WINDOW, Stream, Texts, is_corpus
from memexp.spec import AdamW, Interference, Pretrain, Spaced, Study, Unlearn
from memexp.wording import amount, noun

__all__ = ["Passing", "filled", "interleaved", "line_up", "settled", "stop"]

Passing = Pretrain | Unlearn | Interference

KIND: Mapping[type[Passing], Literal["pretrain", "unlearn", "interference"]] = {
    Pretrain: "pretrain",
    Unlearn: "unlearn",
    Interference: "interference",
}


def settled(settings: Passing, corpus: Texts | Stream, beside: str | None = None) -> dict[str, Any]:
    """What of the settings of a part of a condition numbers depend on, corpora by content; `beside`: as for `stop`."""
    found = canonical(settings, lambda value: corpus.id if is_corpus(value) else None)[type(settings).__name__]
    if isinstance(settings, Unlearn):  # the study list by its content too, where no other is named
        found = found | {"forget": corpus.id} | ({} if beside is None else {"retain": beside})
    return {name: value for name, value in found.items() if name != "overlap"}


def stop(
    start: Stage, settings: Passing, seed: int, corpus: Texts | Stream, beside: str | None = None
) -> TrainingStage:
    """One stop of the trajectory that leads from `start` through `corpus`; `line_up` finds the stop before it.

    Its identity does not depend on where else the trajectory stops: a stop that is added later keeps the others.
    `beside`: identity of the list that is kept in unlearning; or of the one that is replayed or protected, which the
    stages before it say.

    Raises:
        DataError: there are fewer texts than one step takes.
        SpecError: what is to be unlearned is to be kept.
    """
    if isinstance(settings, Unlearn):
        if corpus.id == beside:
            raise SpecError(f"Unlearn.retain: has the texts of {corpus.name}, which are to be forgotten; give others")
    elif corpus.count is not None and corpus.count < settings.batch_size:
        raise DataError(
            f"{type(settings).__name__}.batch_size: {settings.batch_size} texts a step are more than the "
            f"{corpus.count} of {corpus.name}"
        )
    kind = KIND[type(settings)]
    alone = {"seed"} if isinstance(settings, Pretrain) and settings.knows_horizon else {"seed", "steps"}
    what = {name: value for name, value in settled(settings, corpus, beside).items() if name not in alone}
    origin = identity({"parent": start.id, kind: what, "seed": seed})
    return TrainingStage(
        id=identity({"origin": origin, "step": settings.steps}),
        kind=kind,
        parent=start.id,
        model=start.model,
        method=start.method,
        dtype=start.dtype,
        settings=settings,
        corpus=corpus.id,
        seed=seed,
        first=1,
        last=settings.steps,
        steps=settings.steps,
        last_step=settings.steps,
        origin=origin,
        start=start.id,
        moments=_moments(start, settings),
        beside=beside,
    )


def _moments(start: Stage, settings: Passing) -> int:
    """Numbers that the optimizer keeps of each that learns; a carried one those that it had."""
    how = settings.optimizer
    if how == "carried" and isinstance(start, TrainingStage):
        return start.moments
    return AdamW().moments if isinstance(how, str) else how.moments


def filled(
    start: Stage, study: Study, what: Mapping[str, Any], seed: int, corpus: Texts | Stream, first: int, last: int
) -> TrainingStage:
    """The steps `first` to `last` of filler, after the exposure `start`; a shorter gap there is a stop on its way.

    `what`: all that a step of study depends on beyond the model; of it, the corpus is another here.

    Raises:
        DataError: there are fewer texts than one step takes.
    """
    _check_enough(study.batch_size, corpus)
    origin = identity({"parent": start.id, "filler": {**what, "corpus": corpus.id}, "seed": seed, "step": first})
    return TrainingStage(
        id=identity({"origin": origin, "step": last}),
        kind="filler",
        parent=start.id,
        model=start.model,
        method=start.method,
        dtype=start.dtype,
        settings=study,
        corpus=corpus.id,
        seed=seed,
        first=first,
        last=last,
        steps=last - first + 1,
        last_step=last,
        origin=origin,
        start=start.id,
        moments=study.optimizer.moments,
    )


def interleaved(study: Study, corpus: Texts | Stream) -> dict[str, Any]:
    """What a step of study with filler beside its texts depends on, beyond study. Raises DataError as `filled`."""
    texts = study.presentation.beside if isinstance(study.presentation, Spaced) else 0
    _check_enough(texts, corpus)
    return {"corpus": corpus.id, "texts": texts}


def _check_enough(texts: int, filler: Texts | Stream) -> None:
    if filler.count is not None and filler.count < texts:
        raise DataError(f"Spaced.filler: {texts} texts a step are more than the {filler.count} of {filler.name}")


def line_up(forest: Forest) -> None:
    """Put the stops of each trajectory in a row, every one after the one before it, and all after their parents."""
    trajectories: dict[str, list[TrainingStage]] = {}
    for stage in forest.stages.values():
        if isinstance(stage, TrainingStage) and stage.origin is not None:
            trajectories.setdefault(stage.origin, []).append(stage)
    for stops in trajectories.values():
        stops.sort(key=lambda stage: stage.last)
        for index in range(1, len(stops)):
            before, at = stops[index - 1 : index + 1]
            at = dataclasses.replace(at, parent=before.id, first=before.last + 1, steps=at.last - before.last)
            forest.stages[at.id] = stops[index] = at
        _remark_texts(forest, stops[-1])
    forest.stages = _parents_first(forest.stages)


def _parents_first(stages: dict[str, Stage]) -> dict[str, Stage]:
    placed: dict[str, Stage] = {}
    for stage in stages.values():
        above = []
        at: str | None = stage.id
        while at is not None and at not in placed:
            above.append(stages[at])
            at = above[-1].parent
        placed |= {stage.id: stage for stage in reversed(above)}
    return placed


def _remark_texts(forest: Forest, last: TrainingStage) -> None:
    """Say so where a trajectory passes over blank texts, or over any more than once."""
    if isinstance(last.settings, Study) and last.kind != "filler":
        return  # a stop within a study list
    corpus, size, what = forest.corpus(last.corpus), last.settings.batch_size, type(last.settings).__name__
    what = "Spaced" if last.kind == "filler" else what
    if isinstance(corpus, Stream) and corpus.blank:
        of = min(WINDOW, corpus.count or WINDOW)
        which = f"{corpus.blank} of the first {amount(of, 'text')} of {corpus.name}"
        line = f"{which} {noun(corpus.blank, 'is blank; it fills', 'are blank; they fill')} batches and teach nothing"
        forest.remarks[f"{what}: {line}"] = None
    if corpus.count is None:
        return  # of a stream without a known end the exposures of its steps tell
    turns = math.ceil(last.last / math.ceil(corpus.count / size))
    if turns > 1:
        texts = amount(corpus.count, "text")
        line = f"{amount(last.last, 'step')} of {size} take the {texts} of {corpus.name} {turns} times"
        forest.remarks[f"{what}: {line}"] = None
