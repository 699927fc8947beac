"""The corpora of a trial as its model reads them: token rows of lists, encoded once, and windows of streams.

texts = TrialTexts(trial, lm.tokenizer, activity)
texts.batches(stage)(1)        # what the stage's first step takes
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from memexp.core.batches import (
    Batches,
    Interleaved,
    PassingBatches,
    Replayed,
    Replays,
    Retaining,
    RowWindows,
    StreamBatches,
    StudyBatches,
)
from memexp.core.data import Row, encode
from memexp.plan import Ask, TrainingStage, Trial
from memexp.sources import Stream
from memexp.sources.streams import HubTexts
from memexp.spec import Interference, Spaced, Study, Training, Unlearn
from memexp.trial.watch import Activity

__all__ = ["TrialTexts", "replays", "studied"]


def studied(stage: TrainingStage, settings: Study, rows: Sequence[Row]) -> StudyBatches:
    """The batches of a stage of study; restudy has the orders of study, a second study its own."""
    return StudyBatches(settings, rows, stage.seed, "then" if stage.kind == "then" else "study")


def replays(settings: Interference, count: int, seed: int) -> Replays:
    """Which of `count` texts interference replays, and when."""
    return Replays(count, settings.replay * settings.batch_size, seed)


class TrialTexts:
    """Reads what a stage trains on and what a probe asks about."""

    def __init__(self, trial: Trial, tokenizer: PreTrainedTokenizerBase, activity: Activity) -> None:
        self.trial, self.tokenizer, self.activity = trial, tokenizer, activity
        self._rows: dict[tuple[str, int], list[list[int]]] = {}
        self._windows: dict[tuple[str, int], RowWindows] = {}

    def of_probe(self, ask: Ask) -> Mapping[str, Sequence[str]]:
        """The texts of every corpus of a probe, by the name of its field."""
        return {name: self.trial.texts[corpus].items for name, corpus in ask.corpora.items()}

    def batches(self, stage: TrainingStage) -> Batches:
        """The batches of a stage."""
        settings = stage.settings
        if not isinstance(settings, Study) or stage.kind == "filler":
            batches = self._passing(settings, stage.corpus, stage.seed)
            if isinstance(settings, Unlearn) and stage.beside is not None:
                return Retaining(batches, self._passing(settings, stage.beside, stage.seed, "retain"))
            if isinstance(settings, Interference) and settings.replay and stage.beside is not None:
                rows = self.of_list(stage.beside, settings.block_size)
                return Replayed(batches, rows, replays(settings, len(rows), stage.seed))
            return batches
        study = studied(stage, settings, self.of_list(stage.corpus, settings.block_size))
        if stage.beside is None or not isinstance(settings.presentation, Spaced):
            return study
        beside = dataclasses.replace(settings, batch_size=settings.presentation.beside)
        return Interleaved(study, self._passing(beside, stage.beside, stage.seed, "beside"))

    def _passing(self, settings: Training, name: str, seed: int, what: str = "") -> Batches:
        corpus = self.trial.corpus(name)
        if isinstance(corpus, Stream):
            return StreamBatches(settings, self._of_stream(name, corpus, settings.block_size), seed, what)
        return PassingBatches(settings, self.of_list(name, settings.block_size), seed, what)

    def of_list(self, corpus: str, block_size: int) -> list[list[int]]:
        """Token ids of each text of a list, by its identity, truncated to `block_size`."""
        key = corpus, block_size
        if key not in self._rows:
            self._rows[key] = encode(self.tokenizer, self.trial.texts[corpus].items, block_size)
        return self._rows[key]

    def _of_stream(self, corpus: str, stream: Stream, block_size: int) -> RowWindows:
        key = corpus, block_size
        if key not in self._windows:
            reading = self.activity.waits if isinstance(stream, HubTexts) else contextlib.nullcontext
            self._windows[key] = RowWindows(stream, lambda texts: encode(self.tokenizer, texts, block_size), reading)
        return self._windows[key]
