"""What a trial reports of itself while it trains: steps, with their losses, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from memexp.core.train import Step
from memexp.events import Losses
from memexp.plan import Stage, TrainingStage, Trial
from memexp.plan.attempts import Attempt, Progress

__all__ = ["REPORT_STEPS", "Counted", "Report", "line_of"]

Report = Callable[[Progress], None]

REPORT_STEPS = 50
"""Steps between two reports of progress: by number, since every rank must report equally often."""


class Counted:
    """Reports the steps of a stage, `REPORT_STEPS` at a time and the rest at its end."""

    def __init__(
        self, tell: Report, trial: Trial, attempt: Attempt, line: str, stage: TrainingStage, first: int
    ) -> None:
        """`line`: what the steps of `stage` are counted along, see `line_of`. `first`: the step that is made first."""
        self.tell, self.stage, self.made = tell, stage, list[Step]()
        self.reached = first - stage.first_step
        self.attempt, self.corpus, self.line = attempt, trial.corpus(stage.corpus).name, line

    def __call__(self, steps: Sequence[Step]) -> None:
        self.made += steps
        self.reached += len(steps)
        if len(self.made) >= REPORT_STEPS:
            self.flush()

    def flush(self) -> None:
        """Report what has been made since the last report."""
        if self.made:
            progress = Progress(steps=len(self.made), reached={self.stage.id: self.reached}, events=(self._losses(),))
            self.made = []
            self.tell(progress)

    def _losses(self) -> Losses:
        stage = self.stage
        return Losses(
            sweep=self.attempt.sweep,
            trial=self.attempt.of,
            model=stage.model.name,
            kind=stage.kind,
            line=self.line,
            corpus=self.corpus,
            lr=stage.settings.lr,
            batch_size=stage.settings.batch_size,
            seed=stage.seed,
            steps=tuple(step.step for step in self.made),
            losses=tuple(step.loss for step in self.made),
            last=stage.last_step,
        )


def line_of(stage: TrainingStage, stages: Mapping[str, Stage]) -> str:
    """What the numbers of steps run through: a trajectory with stops, or all exposures of one study.

    Args:
        stage: one of the trial's.
        stages: all of them, by identity.
    """
    if stage.origin is not None:
        return stage.origin
    before = stages.get(stage.parent)
    while isinstance(before, TrainingStage) and before.kind in (stage.kind, "filler") and stage.first > 1:
        stage, before = stage if before.kind == "filler" else before, stages.get(before.parent)
    return stage.id
