"""What the steps of a stage minimise, where that depends on what the model was when their line began.

A line that is taken up in its middle has its beginning reached once more, aside: what was remembered of it is no part
of a snapshot, and is the same again.

    train(..., objective=aim_of(walk, stage, here))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memexp.core.consolidation import Consolidation
from memexp.core.fork import Fork
from memexp.core.objectives import Unlearning, remembered
from memexp.core.train import Objective
from memexp.errors import MemexpError
from memexp.plan import Stage, TrainingStage
from memexp.spec import Interference, Unlearn

if TYPE_CHECKING:
    from memexp.trial.walk import Walk

__all__ = ["aim_of", "untaught"]


def aim_of(walk: Walk, stage: TrainingStage, here: bool) -> Objective | None:
    """What `stage` minimises; None where that is the mean NLL. `here`: whether the model is where its line begins.

    Raises MemexpError where that cannot be reached.
    """
    if not stage.aimed:
        return None
    known = walk.state.aims
    if stage.trajectory not in known:
        remembers = not isinstance(stage.settings, Unlearn) or stage.settings.loss in ("npo", "kl")
        if here or not remembers:
            known[stage.trajectory] = _made(walk, stage)
        else:
            with walk.state.aside(stage.settings):
                _reach(walk, walk.stages[stage.start or stage.parent], "where it began")
                known[stage.trajectory] = _made(walk, stage)
            walk.activity.turn_to(stage)
    return known[stage.trajectory]


def _made(walk: Walk, stage: TrainingStage) -> Objective:
    settings, lm = stage.settings, walk.state.lm
    if isinstance(settings, Unlearn):
        return Unlearning(settings, remembered(lm, settings, walk.texts.of_list(stage.corpus, settings.block_size)))
    assert isinstance(settings, Interference) and settings.protect is not None and stage.beside is not None
    return Consolidation(lm, settings.protect, walk.texts.of_list(stage.beside, settings.block_size), stage.seed)


def untaught(walk: Walk, stage: Stage) -> Fork:
    """The weights that forgetting goes back to: as pretraining left them, or else as they were loaded."""
    origin = stage
    while origin.kind not in ("base", "pretrain"):
        origin = walk.stages[origin.parent or ""]
    if origin.id not in walk.state.untaught:  # begun from a snapshot further down
        settings = walk.stages[stage.parent or ""].settings if stage.settings is None else stage.settings
        with walk.state.aside(settings):
            _reach(walk, origin, "the weights before study")
    return walk.state.untaught[origin.id]


def _reach(walk: Walk, stage: Stage, what: str) -> None:
    if not walk.reach(stage):
        raise MemexpError(f"{what} cannot be had: stage {stage.id} failed")
