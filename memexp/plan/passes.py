"""Stages that go on over a corpus, pass after pass, and stop on the way: pretraining and interference.

path.append(stop(path[-1], condition.interference, condition.seed, corpus))
line_up(forest)              # when all stops are known
Overlaps(forest).check()
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from memexp.errors import DataError, SpecError
from memexp.identity import canonical, identity
from memexp.plan.forest import Forest, Stage
from memexp.sources import WINDOW, Stream, Texts, is_corpus, shared_texts
from memexp.spec import Interference, Pretrain

__all__ = ["Overlaps", "Passing", "line_up", "settled", "stop"]

Passing = Pretrain | Interference


def settled(settings: Passing, corpus: Texts | Stream) -> dict[str, Any]:
    """What of the settings of pretraining or interference numbers depend on, the corpus by its content."""
    found = canonical(settings, lambda value: corpus.id if is_corpus(value) else None)[type(settings).__name__]
    return {name: value for name, value in found.items() if name != "overlap"}


def stop(start: Stage, settings: Passing, seed: int, corpus: Texts | Stream) -> Stage:
    """One stop of the trajectory that leads from `start` through `corpus`; `line_up` finds the stop before it.

    Its identity does not depend on where else the trajectory stops: a stop that is added later keeps the others.

    Raises:
        DataError: there are fewer texts than one step takes.
    """
    if corpus.count is not None and corpus.count < settings.batch_size:
        raise DataError(
            f"{type(settings).__name__}.batch_size: {settings.batch_size} texts a step are more than the "
            f"{corpus.count} of {corpus.name}"
        )
    before = isinstance(settings, Pretrain)
    kind: Any = "pretrain" if before else "interference"
    alone = {"seed"} if isinstance(settings, Pretrain) and settings.knows_horizon else {"seed", "steps"}
    what = {name: value for name, value in settled(settings, corpus).items() if name not in alone}
    origin = identity({"parent": start.id, kind: what, "seed": seed})
    return dataclasses.replace(
        start,
        id=identity({"origin": origin, "step": settings.steps}),
        kind=kind,
        parent=start.id,
        forget=None,
        pretrain=settings if isinstance(settings, Pretrain) else None,
        interference=settings if isinstance(settings, Interference) else None,
        origin=origin,
        start=start.id,
        corpus=corpus.id,
        seed=seed,
        first=1,
        last=settings.steps,
        steps=settings.steps,
    )


def line_up(forest: Forest) -> None:
    """Put the stops of each trajectory in a row, every one after the one before it, and all after their parents."""
    trajectories: dict[str, list[Stage]] = {}
    for stage in forest.stages.values():
        if stage.origin is not None:
            trajectories.setdefault(stage.origin, []).append(stage)
    for stops in trajectories.values():
        before: Stage | None = None
        for at in sorted(stops, key=lambda stage: stage.last):
            if before is not None:
                at = dataclasses.replace(at, parent=before.id, first=before.last + 1, steps=at.last - before.last)
            forest.stages[at.id] = before = at
        assert before is not None  # a trajectory has stops
        _remark_texts(forest, before)
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


def _remark_texts(forest: Forest, last: Stage) -> None:
    """Say so where a trajectory passes over blank texts, or over any more than once."""
    settings = last.pretrain or last.interference
    assert settings is not None and last.corpus is not None  # a stop has both
    corpus, size, what = forest.corpus(last.corpus), settings.batch_size, type(settings).__name__
    if isinstance(corpus, Stream) and corpus.blank:
        of = min(WINDOW, corpus.count or WINDOW)
        line = f"{corpus.blank} of the first {of} texts of {corpus.name} are blank; they fill batches and teach nothing"
        forest.remarks[f"{what}: {line}"] = None
    if corpus.count is None:
        return  # of a stream without a known end the exposures of its steps tell
    turns = math.ceil(last.last / math.ceil(corpus.count / size))
    if turns > 1:
        line = f"{last.last} steps of {size} take the {corpus.count} texts of {corpus.name} {turns} times"
        forest.remarks[f"{what}: {line}"] = None


@dataclasses.dataclass
class Overlaps:
    """Which corpora that pretraining and interference pass over may hold texts that are studied or probed."""

    forest: Forest
    """The forest to remark upon."""
    wanted: dict[tuple[str, str, str], dict[str, None]] = dataclasses.field(default_factory=dict)
    """Class, corpus identity and what to do about an overlap; and the identities of the lists to look for."""

    def note(self, settings: Passing, corpus: Texts | Stream, others: Iterable[str]) -> None:
        """Remember to look for the lists `others` in `corpus`; many conditions ask for the same."""
        key = (type(settings).__name__, corpus.id, settings.overlap)
        self.wanted.setdefault(key, {}).update(dict.fromkeys(others))

    def check(self) -> None:
        """Say, or refuse, that texts are studied or probed as well. Raises SpecError or DataError."""
        for (what, corpus_id, overlap), others in self.wanted.items():
            for line in self._found(self.forest.corpus(corpus_id), list(others)):
                if overlap == "refuse":
                    raise SpecError(f"{what}: {line}; overlap='report' allows it")
                self.forest.remarks[f"{what}: {line}"] = None

    def _found(self, corpus: Texts | Stream, others: list[str]) -> list[str]:
        """A line for each list that shares texts with `corpus`, or one that nobody can know."""
        lists = [self.forest.texts[other] for other in others]
        if isinstance(corpus, Stream) and not corpus.is_local:
            return [f"{corpus.name} is streamed from the hub, where nobody looks for texts that are studied or probed"]
        if isinstance(corpus, Stream):
            counts = shared_texts(corpus, lists)
        else:
            counts = [len(set(corpus.items) & set(texts.items)) for texts in lists]
        return [
            f"{count} texts of {corpus.name} are in {texts.name} as well"
            for count, texts in zip(counts, lists, strict=True)
            if count
        ]
