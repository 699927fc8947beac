"""What a failure costs: the stage or measurement that failed is recorded, the stages below it are skipped, no other is.

failures = Failures(notes, world, children)
failures.lose(stage, error, began)               # a stage, and with it all below it
failures.record(stage, error, began, ask)        # one measurement
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from memexp.core.faults import ends_process
from memexp.core.processes import World
from memexp.core.train import Diverged
from memexp.errors import DeviceError, one_line
from memexp.plan import Ask, Stage
from memexp.plan.retries import DEVICE_LOST
from memexp.trial.rows import Notes, described
from memexp.trial.watch import Activity

__all__ = ["Failures", "lost_devices"]


class Failures:
    """The failures of one trial, on one rank of its world."""

    def __init__(self, notes: Notes, world: World, children: Mapping[str, Sequence[Stage]]) -> None:
        self.notes, self.world, self.children = notes, world, children
        self.lost: set[str] = set()
        """Stages that failed, or whose parent could not be reached."""
        self._raised: Exception | None = None
        """A failure that is recorded and on its way up, through the stages that it keeps from being reached."""

    def record(self, stage: Stage, error: Exception, began: float, ask: Ask | None = None) -> None:
        """Record a failure.

        Raised again where other ranks cannot know of it and wait for this one in vain, and as a DeviceError where
        whatever this process did next on its GPU would fail as well.
        """
        if error is self._raised or self.world.blames_peer(error):
            raise error
        diverged = isinstance(error, Diverged)
        self.notes.fail(stage, "diverged" if diverged else "failed", described(error, ask), began, ask)
        if self.world.size > 1 and not diverged:
            self._raise(error)
        if ends_process(error):
            lost = _lost(error)
            lost.lines = tuple(self.notes.lines)
            self._raise(lost)

    def _raise(self, error: Exception) -> NoReturn:
        """Leave the trial, everything recorded."""
        self.notes.commit()
        self._raised = error
        raise error

    def lose(self, stage: Stage, error: Exception, began: float) -> None:
        """Record the failure of a stage, and that its descendants were not reached; raises what `record` raises."""
        self.record(stage, error, began)
        self._skip_below(stage)
        self.lost.add(stage.id)

    def stuck(self, at: Activity, minutes: float | None) -> None:
        """Record what hangs. Called from another thread, of a process that is about to end."""
        why = f"no progress for {minutes:g} minutes (Resources.stall_minutes)"
        self.notes.fail(at.stage, "failed", why, at.began, at.ask)
        self.notes.commit()

    def _skip_below(self, stage: Stage) -> None:
        for child in self.children.get(stage.id, []):
            self.notes.skip([child])
            self._skip_below(child)


@contextlib.contextmanager
def lost_devices(world: World) -> Iterator[None]:
    """Raise a DeviceError where the GPU's own shows outside of a stage, as while a copy is made of its end.

    Of several ranks each raises what it has: their process ends with their group.
    """
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:  # raised again, whatever it is; of a lost device under its own name
        if world.size == 1 and ends_process(error):
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> DeviceError:
    found = DeviceError(f"{DEVICE_LOST}: {one_line(error)}")
    found.__cause__ = error
    return found
