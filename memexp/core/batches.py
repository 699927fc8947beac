"""What a stage of training takes at each step: a function of its settings, its keys and the step's number alone.

So a stage may begin at any step, on any number of ranks, and make the steps it would have made anyway:

    batches = StudyBatches(study, rows, seed=0)
    batches(1)          # the first step's rows, learning rate and draws
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from memexp.core.data import Row, order
from memexp.core.schedule import learning_rate
from memexp.errors import DataError
from memexp.sources import WINDOW, Stream, Windows
from memexp.spec import Cyclic, Passes, Pretrain, Study, Training, Unlearn

__all__ = [
    "Batch",
    "Batches",
    "Interleaved",
    "PassingBatches",
    "Replayed",
    "Replays",
    "Retaining",
    "RowWindows",
    "StreamBatches",
    "StudyBatches",
]


@dataclass(frozen=True)
class Batch:
    """What one optimizer step needs to know."""

    rows: Sequence[Row]
    """Token ids of its texts."""
    exposure: int
    """Which pass over the corpus it belongs to, counting from 1."""
    lr: float
    """Its learning rate."""
    draws: tuple[object, ...] | None
    """What keys dropout from this step on; None goes on with the draws of the step before."""
    retained: int = 0
    """How many of the rows, the last ones, are to be kept while the others are unlearned."""


class Batches(Protocol):
    """The batches of a stage."""

    what: str
    """What the stage does, for messages."""

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counting from 1."""


class StudyBatches:
    """The texts of every exposure, in an order of its own each time, or as `Cyclic` has it."""

    what = "study"

    def __init__(self, study: Study, rows: Sequence[Row], seed: int, key: str = "study") -> None:
        """`rows`: token ids of each text; `seed` with `key` and the exposure keys order and dropout: conditions stay
        paired."""
        self.study, self.rows, self.seed, self.key = study, rows, seed, key
        self.passes = Passes(study, len(rows))
        self._shuffled: tuple[int, list[int]] = (0, [])

    def __call__(self, step: int) -> Batch:
        passes, size = self.passes, self.study.batch_size
        exposure = passes.exposure_at(step)
        position = step - 1 - passes.steps_until(exposure - 1)
        batch = position // passes.repeats
        chosen = self._order(exposure)[batch * size : (batch + 1) * size]
        return Batch(
            rows=[self.rows[i] for i in chosen],
            exposure=exposure,
            lr=learning_rate(self.study, step, passes.steps_until(self.study.exposures)),
            draws=self._draws(exposure, position),
        )

    def _draws(self, exposure: int, position: int) -> tuple[int | str, ...] | None:
        """What dropout is drawn with from a step on; None where it goes on as it does."""
        if exposure > self.study.exposures:  # there are stops on the way, which other stages lie between
            return self.seed, self.key, exposure, "dropout", position
        return (self.seed, self.key, exposure, "dropout") if position == 0 else None

    def is_new(self, step: int) -> bool:
        """Whether a step has other texts than the one before it, or a new exposure of them."""
        began = self.passes.steps_until(self.passes.exposure_at(step) - 1)
        return (step - 1 - began) % self.passes.repeats == 0

    def _order(self, exposure: int) -> list[int]:
        """Of its texts; what is left out leaves the order of the others as it is."""
        if exposure != self._shuffled[0]:
            texts = list(self.passes.texts(exposure))
            if not isinstance(self.study.presentation, Cyclic):
                drawn, kept = order(len(self.rows), self.seed, self.key, exposure), set(texts)
                texts = [i for i in drawn if i in kept]
            self._shuffled = exposure, texts
        return self._shuffled[1]


class PassingBatches:
    """Texts pass after pass, each in an order of its own; no text comes twice before all have come once."""

    def __init__(self, settings: Training, rows: Sequence[Row], seed: int, what: str = "") -> None:
        """`settings`: of filler those of its study; `rows`: token ids of each text; `seed` keys the order of every pass
        and the dropout of every step, with `what`, by default what the settings are of."""
        self.what = what or _word(settings)
        self.settings, self.rows, self.seed = settings, rows, seed
        self.per_pass = math.ceil(len(rows) / settings.batch_size)
        self._shuffled: tuple[int, list[int]] = (0, [])

    def __call__(self, step: int) -> Batch:
        turn, position = (step - 1) // self.per_pass + 1, (step - 1) % self.per_pass
        if turn != self._shuffled[0]:
            self._shuffled = turn, order(len(self.rows), self.seed, self.what, turn)
        size = self.settings.batch_size
        chosen = self._shuffled[1][position * size : (position + 1) * size]
        return _passing(self.settings, [self.rows[i] for i in chosen], turn, step, self.seed)


class RowWindows:
    """The token rows of a stream, a window at a time; only the last one is kept."""

    def __init__(
        self,
        stream: Stream,
        encode: Callable[[Sequence[str]], list[list[int]]],
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`encode`: from texts to token ids; `reading`: entered while texts are read.

        Raises DataError where this node has not got the stream's files.
        """
        self.count, self._reading = stream.count, reading
        self._texts, self._encode = Windows(stream), encode
        self._kept: tuple[int, list[list[int]]] = (-1, [])

    def __call__(self, number: int) -> Sequence[Row]:
        """The rows of a window, counting from 0; afterwards `count` is known if the stream ends in it or before it."""
        if number != self._kept[0]:
            with self._reading():
                texts = self._texts(number)
                self._look(number, len(texts))
            self._kept = number, self._encode(texts) if texts else []
        return self._kept[1]

    def _look(self, number: int, found: int) -> None:
        """Learn from a window that is not full where the stream ends."""
        stream = self._texts.stream
        if self.count is None and found < WINDOW:
            # Behind the end nothing tells how far away it is.
            self.count = number * WINDOW + found if found else sum(1 for _ in stream.texts(0))
        expected = WINDOW if self.count is None else min(WINDOW, max(0, self.count - number * WINDOW))
        if found != expected:
            raise DataError(
                f"{stream.name}: has {number * WINDOW + found} texts where {self.count} were expected; was it changed?"
            )


class StreamBatches:
    """The texts of a stream pass after pass, as `PassingBatches` gives those of a list.

    Shuffled within each window, the windows in order; a stream of one window comes in the order that the same texts in
    memory have. Where the number of texts is unknown, a pass ends where the stream does.
    """

    def __init__(self, settings: Training, windows: RowWindows, seed: int, what: str = "") -> None:
        """`seed` keys the order of every pass and window, and the dropout of every step, as `PassingBatches` has it."""
        self.what = what or _word(settings)
        self.settings, self.windows, self.seed = settings, windows, seed
        self._shuffled: tuple[tuple[int, int, int], list[int]] = ((0, 0, 0), [])

    def __call__(self, step: int) -> Batch:
        size = self.settings.batch_size
        if self.windows.count is None:
            self.windows((step - 1) * size // WINDOW)  # the stream may end before
        turn, start = self._place(step)
        rows: list[Row] = []
        at, end = start, start + size
        while at < end:
            number = at // WINDOW
            window = self.windows(number)
            if self.windows.count is not None:
                end = min(end, self.windows.count)
            chosen = self._order(turn, number, len(window))[at - number * WINDOW : end - number * WINDOW]
            rows += [window[i] for i in chosen]
            at += len(chosen)
        return _passing(self.settings, rows, turn, step, self.seed)

    def _order(self, turn: int, number: int, count: int) -> list[int]:
        """Of the texts of a window, in a pass."""
        if self._shuffled[0] != (turn, number, count):
            # The first window has the key of a list in memory, and with it the order of one.
            key = (self.seed, self.what, turn, *([number] if number else []))
            self._shuffled = (turn, number, count), order(count, *key)
        return self._shuffled[1]

    def _place(self, step: int) -> tuple[int, int]:
        """Which pass a step belongs to, from 1, and its first text's place in the pass."""
        size = self.settings.batch_size
        if self.windows.count is None:
            return 1, (step - 1) * size
        per_pass = math.ceil(self.windows.count / size)
        return (step - 1) // per_pass + 1, (step - 1) % per_pass * size


class Interleaved:
    """Batches of study with filler texts beside those of the list."""

    def __init__(self, study: Batches, filler: Batches) -> None:
        self.study, self.filler, self.what = study, filler, study.what

    def __call__(self, step: int) -> Batch:
        batch = self.study(step)
        return replace(batch, rows=[*batch.rows, *self.filler(step).rows])


class Retaining:
    """Batches of unlearning with texts that are to be kept behind those that are to be forgotten."""

    def __init__(self, forget: Batches, retain: Batches) -> None:
        self.forget, self.retain, self.what = forget, retain, forget.what

    def __call__(self, step: int) -> Batch:
        batch, kept = self.forget(step), self.retain(step).rows
        return replace(batch, rows=[*batch.rows, *kept], retained=len(kept))


class Replays:
    """Which texts of the study list the steps of interference have: pass after pass, each in an order of its own."""

    def __init__(self, count: int, per_step: float, seed: int) -> None:
        """`count`: texts of the list; `per_step`: how many, on average; `seed` keys the order of every pass."""
        self.count, self.per_step, self.seed = count, per_step, seed
        self._shuffled: tuple[int, list[int]] = (0, [])

    def __call__(self, step: int) -> list[int]:
        """Their places in the list, of a step, counting from 1."""
        first, end = math.floor((step - 1) * self.per_step), math.floor(step * self.per_step)
        return [self._at(place) for place in range(first, end)]

    def _at(self, place: int) -> int:
        """The text at a place of the passes one after the other."""
        turn, position = divmod(place, self.count)
        if turn + 1 != self._shuffled[0]:
            self._shuffled = turn + 1, order(self.count, self.seed, "replay", turn + 1)
        return self._shuffled[1][position]


class Replayed:
    """Interference in which texts of the study list take some of the places."""

    def __init__(self, interference: Batches, rows: Sequence[Row], replays: Replays) -> None:
        """`rows`: the study list."""
        self.interference, self.rows, self.replays = interference, rows, replays
        self.what = interference.what

    def __call__(self, step: int) -> Batch:
        batch, items = self.interference(step), self.replays(step)
        kept = max(0, len(batch.rows) - len(items))  # the last batch of a pass may be short
        return replace(batch, rows=[*batch.rows[:kept], *(self.rows[item] for item in items)])


def _word(settings: Training) -> str:
    """What keys the draws of a stage, and names it in messages."""
    return {Pretrain: "pretrain", Study: "filler", Unlearn: "unlearn"}.get(type(settings), "interference")


def _passing(settings: Training, rows: Sequence[Row], turn: int, step: int, seed: int) -> Batch:
    lr = learning_rate(settings, step, settings.steps) if isinstance(settings, Pretrain) else settings.lr
    return Batch(rows, exposure=turn, lr=lr, draws=(seed, _word(settings), step, "dropout"))
