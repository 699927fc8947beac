"""What a failure costs: the stage or measurement that failed is recorded, the stages below it are skipped, no other is.

failures = Failures(notes, world, children)
failures.lose(stage, error, began)               # a stage, and with it all below it
failures.record(stage, error, began, ask)        # one measurement
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memexp.core.processes import World
from memexp.core.train import Diverged
from memexp.plan import Ask, Stage
from memexp.trial.rows import Notes, described

__all__ = ["Failures"]


class Failures:
    """The failures of one trial, on one rank of its world."""

    def __init__(self, notes: Notes, world: World, children: Mapping[str, Sequence[Stage]]) -> None:
        self.notes, self.world, self.children = notes, world, children
        self.lost: set[str] = set()
        """Stages that failed, or whose parent could not be reached."""
        self._raised: Exception | None = None
        """A failure that is recorded and on its way up, through the stages that it keeps from being reached."""

    def record(self, stage: Stage, error: Exception, began: float, ask: Ask | None = None) -> None:
        """Record a failure; raised again where other ranks cannot know of it and wait for this one in vain."""
        if error is self._raised or self.world.blames_peer(error):
            raise error
        diverged = isinstance(error, Diverged)
        self.notes.fail(stage, "diverged" if diverged else "failed", described(error, ask), began, ask)
        if self.world.size > 1 and not diverged:
            self.notes.commit()
            self._raised = error
            raise error

    def lose(self, stage: Stage, error: Exception, began: float) -> None:
        """Record the failure of a stage, and that its descendants were not reached; raises what `record` raises."""
        self.record(stage, error, began)
        self._skip_below(stage)
        self.lost.add(stage.id)

    def _skip_below(self, stage: Stage) -> None:
        for child in self.children.get(stage.id, []):
            self.notes.skip([child])
            self._skip_below(child)
