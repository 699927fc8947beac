"""Lanes of a trial in lockstep: each walks its own way through the stages, what several are at is done for all at once.

lockstep = Lockstep(lanes)
lockstep.run(lambda lane: walk_of(lane).visit(base))
lockstep.each(jobs)                     # in a lane: all of these, shared out among the lanes that have nothing to do

A lane is a thread, so that a walk is written as if it were alone; only one of them runs at a time, until it asks for
something or has nothing left to do. When all have come to that, what most of them ask for is done for these together,
training before all else: a lane that is done with its steps waits for the others, and they are measured together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from memexp.core.lanes import Lanes
from memexp.signals import Interrupted
from memexp.trial.leaving import Leaving

__all__ = ["Lockstep"]

Job = Callable[[int], None]
"""Something that any lane can do; it is told which one it is."""

ORDER = ("update", "nll", "ends", "greedy", "answers")
"""What is done first of what is asked for."""


class _Ended(Interrupted):
    """Unwinds a lane whose trial is over before it is."""


class _Lane:
    """One of the threads, and what it waits for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.turn = threading.Semaphore(0)
        self.thread = threading.Thread()
        self.asked: tuple[str, tuple[Any, ...]] | None = None
        self.answer: Any = None
        self.ready: Callable[[], bool] = lambda: True
        """Whether it could go on."""
        self.over = False


class _Others:
    """`memexp.core.model.Company`: whatever a lane asks for, it waits for the answer."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.nll, self.ends, self.greedy = partial(ask, "nll"), partial(ask, "ends"), partial(ask, "greedy")
        self.answers, self.update = partial(ask, "answers"), partial(ask, "update")


class Lockstep:
    """The lanes of one trial."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._all = [_Lane(number) for number in range(len(lanes.models))]
        self._jobs: list[tuple[Job, list[int]]] = []
        """What is to be done, the latest last, each with a count of what is left of its kind."""
        self._back = threading.Semaphore(0)
        """Given when a lane stops."""
        self._failure: BaseException | None = None
        self._left: Leaving | None = None
        """Of a lane that has saved what it had, as the others are about to do."""
        self._ended = self._done = False

    def run(self, first: Job) -> None:
        """`first` and whatever it hands over, to the end; raises what it raises."""
        for lane, model in zip(self._all, self.lanes.models, strict=True):
            model.company = _Others(self._asker(lane))
            lane.thread = threading.Thread(
                target=self._live,
                args=(lane, first if lane.number == 0 else None),
                daemon=True,
                name=f"lane {lane.number}",
            )
            lane.thread.start()
        try:
            while not self._done and self._failure is None:
                self._round()
        finally:
            self._ended = True
            for lane, model in zip(self._all, self.lanes.models, strict=True):
                lane.turn.release()  # one that was at work when this thread was interrupted finds it later
                lane.thread.join()
                model.company = None
        if self._failure is not None:
            raise self._failure

    def each(self, lane: int, jobs: Sequence[Job]) -> None:
        """All `jobs`, by this lane and those that have nothing to do; the lane goes on when they are done."""
        left = [len(jobs)]
        self._jobs += [(job, left) for job in reversed(jobs)]
        while left[0]:
            if self._jobs:
                self._take(lane)
            else:
                self._stop(self._all[lane], lambda: not left[0] or bool(self._jobs))

    def _take(self, lane: int) -> None:
        """Do the job that was handed over last."""
        job, left = self._jobs.pop()
        job(lane)
        left[0] -= 1

    def _live(self, lane: _Lane, first: Job | None) -> None:
        """What a thread does."""
        lane.turn.acquire()
        try:
            if self._ended:
                return
            if first is not None:
                first(lane.number)
                self._done = True
            while not self._done:
                if self._jobs:
                    self._take(lane.number)
                else:
                    self._stop(lane, lambda: bool(self._jobs))
        except _Ended:
            pass
        except Leaving as error:
            self._left, self._jobs = error, []  # what nobody has begun is for another trial
        except BaseException as error:  # raised again by `run`, in the thread that it belongs to
            self._failure = self._failure or error
        finally:
            lane.over = True
            self._back.release()

    def _stop(self, lane: _Lane, ready: Callable[[], bool]) -> None:
        """In a lane's thread: let others run until it is `ready`, and its turn."""
        lane.ready = ready
        self._back.release()
        lane.turn.acquire()
        if self._ended:
            raise _Ended

    def _asker(self, lane: _Lane) -> Callable[..., Any]:
        def ask(what: str, *given: Any) -> Any:
            lane.asked = what, given
            self._stop(lane, lambda: lane.asked is None)
            answer, lane.answer = lane.answer, None
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return ask

    def _round(self) -> None:
        """Let every lane run that can, or else do what they ask for."""
        able = [lane for lane in self._all if not lane.over and lane.ready()]
        for lane in able:
            if lane.ready():  # it may have been told otherwise by those before it
                self._let(lane)
        if able or self._done:
            return
        asking = [lane for lane in self._all if lane.asked is not None]
        if not asking and self._left is not None:  # all others wait for one that has left
            self._failure = self._left
            return
        what = min((lane.asked[0] for lane in asking if lane.asked is not None), key=ORDER.index)
        some = [(lane, lane.asked[1]) for lane in asking if lane.asked is not None and lane.asked[0] == what]
        answers = self.lanes.do(what, [(lane.number, given) for lane, given in some])
        for (lane, _), answer in zip(some, answers, strict=True):
            lane.asked, lane.answer = None, answer

    def _let(self, lane: _Lane) -> None:
        """Let a lane run until it stops."""
        if not lane.over:
            lane.turn.release()
            self._back.acquire()
