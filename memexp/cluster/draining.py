"""Machines that are about to be taken away: trials there save what they have trained, and go on elsewhere.

    with noticed(notice):       # in a worker; gives notice when its node is drained or the driver is to stop
        execute(..., notice=notice)
    raise left(notice)          # instead of `Leaving`: Tune and Train count no failure, and start the trial elsewhere

    farewell = Farewell(say)    # in the driver: SIGTERM stops it when its trials have saved
    with farewell.awaited(): ...

Ray drains a node, that is it starts nothing more there, when an autoscaler is about to terminate it or `ray start
--block` has got SIGTERM, as a container or a service gets it before it is ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayActorError

from memexp.cluster import noticeboard
from memexp.signals import GRACE, put_off, stop_now, stopped_by

if TYPE_CHECKING:
    from memexp.trial.leaving import Notice

__all__ = ["LEFT", "Farewell", "left", "noticed", "was_left"]

STOP = "stop"
"""The notice of a driver that is to stop."""
EVERY = 2.0
"""Seconds between two looks: a cloud gives thirty or more."""
LEFT = "saved, to go on elsewhere"
"""What the error of a trial that has left says."""


@contextlib.contextmanager
def noticed(notice: Notice) -> Iterator[None]:
    """While the context lasts, `notice` is given as soon as this worker is about to go."""
    over, here = threading.Event(), ray.get_runtime_context().get_node_id()

    def look() -> None:
        while not over.wait(EVERY):
            _look(notice, here)

    _look(notice, here)
    thread = threading.Thread(target=look, daemon=True, name="memexp-drain")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look(notice: Notice, here: str) -> None:
    with contextlib.suppress(Exception):  # of a cluster that is gone, of which others tell
        if here in ray._private.state.state.get_draining_nodes():
            notice.give(f"node {ray.util.get_node_ip_address()} is about to go")
        stopped = noticeboard.found(STOP)
        if stopped is not None:
            notice.give(stopped.decode())


def left(notice: Notice) -> RayActorError:
    """What a trial that has left raises: as if its process had gone with its node, of which no attempt is counted."""
    why = notice.why or "the node of another worker is about to go"
    return RayActorError(error_msg=f"{why}: {LEFT}", preempted=True)


def was_left(error: BaseException) -> bool:
    """Whether a group ended because a node of it was about to go, or went when that had been said."""
    failures = getattr(error, "worker_failures", {}).values()
    return LEFT in str(error) or any(getattr(one, "preempted", False) for one in failures)


class Farewell:
    """A driver that is to stop, and waits for its trials to save what they have trained."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked, self._over = threading.Event(), threading.Event()
        self._awaited: set[str] | None = None

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """While the context lasts, a stop that is not Ctrl-C comes when all trials have left, or after `GRACE`."""
        with put_off(self._begin):
            yield

    def _begin(self) -> bool:
        threading.Thread(target=self._wait, daemon=True, name="memexp-farewell").start()
        return True

    def _wait(self) -> None:
        with (
            contextlib.suppress(Exception),
            noticeboard.left(STOP, stopped_by().encode()),
        ):
            self._asked.set()
            self._over.wait(GRACE)
        stop_now()

    def look(self, running: Callable[[], set[str]]) -> None:
        """Called again and again, in the thread that may say something; `running`: the trials that are under way."""
        if not self._asked.is_set() or self._over.is_set():
            return
        if self._awaited is None:
            self._awaited = running()
            self._say(f"{stopped_by()}: trials save what they have trained ...")
        self._awaited &= running()
        if not self._awaited:
            self._over.set()

    def gone(self, trial: str) -> None:
        """A trial has saved what it had."""
        if self._awaited is not None:
            self._awaited.discard(trial)
