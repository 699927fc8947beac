"""How often texts were met until a stage, and at which steps: what their rows say of it.

meetings = Meetings(trial)
items = meetings.told(stage, about, items)        # the rows of a probe with the columns of `memexp.records.MET`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.plan import Stage, TrainingStage, Trial
from memexp.records import MET
from memexp.spec import Interference, Study
from memexp.trial.encoded import replays, studied

__all__ = ["Meetings"]

MOST_STEPS = 100
"""Of a text that a row lists."""
MOST = 2_000_000
"""Meetings of all texts that are gone through for a measurement: a second or two."""

Met = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]
"""Of each meeting in a stage: which text of its list; at which step of the stage, from 1; whether the step before had
other texts."""


class Meetings:
    """Of a trial: steps are told apart as often as they are asked for, from keys alone, as batches are."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.stages: Mapping[str, Stage] = {stage.id: stage for stage in (trial.base, *trial.stages)}
        self._met: dict[str, Met] = {}

    def told(self, stage: Stage, about: Sequence[str | None] | None, items: pa.Table) -> pa.Table:
        """`items` with how often, when, and how long ago the text that each row is `about` was met; as they are where
        rows are about no texts, or nobody can go through all that was met."""
        met = (one.steps * one.batch_size for one in self._path(stage) if _met_list(one) is not None)
        if about is None or sum(met) > MOST:
            return items
        numbers: dict[str, int] = {}
        which, steps, new, until = self._until(stage, numbers)
        by_text = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[by_text], np.arange(len(numbers) + 1))
        rows: list[tuple[int | None, str | None, int | None]] = []
        for text in about:
            number = -1 if text is None else numbers.get(text, -1)
            mine = by_text[ends[number] : ends[number + 1]] if number >= 0 else by_text[:0]
            at = steps[mine].tolist()
            listed = json.dumps(at) if len(at) <= MOST_STEPS else None
            told = int(new[mine].sum()), listed, until - at[-1] if at else None
            rows.append((None, None, None) if text is None else told)
        columns = list(zip(*rows, strict=True)) or [()] * len(MET)
        for field, values in zip(MET, columns, strict=True):
            items = items.append_column(field, pa.array(values, field.type))
        return items

    def _path(self, stage: Stage) -> list[TrainingStage]:
        """The training that leads to `stage`, without pretraining."""
        found: list[TrainingStage] = []
        at: Stage | None = stage
        while at is not None:
            if isinstance(at, TrainingStage) and at.kind != "pretrain":
                found.append(at)
            at = self.stages.get(at.parent or "")
        return found[::-1]

    def _until(
        self, stage: Stage, numbers: dict[str, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], int]:
        """All meetings: of which text, which gets a number; at which step; whether newly; and the steps there were."""
        which, steps, new, until = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)], 0
        of_list: dict[str, NDArray[np.int64]] = {}
        for at in self._path(stage):
            corpus = _met_list(at)
            if corpus is not None:
                if corpus not in of_list:
                    listed = self.trial.texts[corpus].items
                    of_list[corpus] = np.array([numbers.setdefault(text, len(numbers)) for text in listed], np.int64)
                items, at_steps, newly = self._in_stage(at, corpus)
                which.append(of_list[corpus][items])
                steps.append(at_steps + until)
                new.append(newly)
            until += at.steps
        return np.concatenate(which), np.concatenate(steps), np.concatenate(new), until

    def _in_stage(self, stage: TrainingStage, corpus: str) -> Met:
        if stage.id not in self._met:
            met = list(_meetings(stage, len(self.trial.texts[corpus].items)))
            items, steps, new = zip(*met, strict=True) if met else ((), (), ())
            self._met[stage.id] = np.array(items, np.int64), np.array(steps, np.int64), np.array(new, np.bool_)
        return self._met[stage.id]


def _met_list(stage: TrainingStage) -> str | None:
    """The list whose texts a stage meets: what it studies, or replays."""
    if isinstance(stage.settings, Interference):
        return stage.beside if stage.settings.replay else None
    return stage.corpus if isinstance(stage.settings, Study) and stage.kind != "filler" else None


def _meetings(stage: TrainingStage, count: int) -> Iterator[tuple[int, int, bool]]:
    """One by one: text, step of the stage, whether the step before had other texts."""
    settings, steps = stage.settings, range(stage.first_step, stage.last_step + 1)
    if isinstance(settings, Interference):
        replayed = replays(settings, count, stage.seed)
        for number, step in enumerate(steps, 1):
            yield from ((item, number, True) for item in replayed(step))
    elif isinstance(settings, Study):
        batches = studied(stage, settings, [[item] for item in range(count)])
        for number, step in enumerate(steps, 1):
            new = batches.is_new(step)
            yield from ((item, number, new) for (item,) in batches(step).rows)
