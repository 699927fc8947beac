"""Which trials are walked through in lanes, and how: what begins at the same stage is shared out among them.

lanes = lanes_of(trial, asks, children)        # 1: one after the other
in_lanes(walk, base)                           # the whole trial; False where its model has no lanes
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from memexp.core.faults import of_memory
from memexp.core.model import LanguageModel
from memexp.errors import ModelError, one_line
from memexp.plan import Ask, Stage, Trial
from memexp.trial.base import WarmBase, renew
from memexp.trial.lane_choice import chosen
from memexp.trial.lockstep import Lockstep

if TYPE_CHECKING:
    from memexp.trial.walk import Walk

__all__ = ["in_lanes", "lanes_of"]


def lanes_of(trial: Trial, asks: Sequence[Ask], children: Mapping[str, Sequence[Stage]]) -> int:
    """How many lanes a trial has at most that measures `asks` only: no more than there are ways, unless it is to be
    found out how many are worth it, which has an answer for all trials."""
    ways = 1 + sum(len(after) - 1 for after in children.values() if after)
    most = replace(trial, asks=list(asks)).most_lanes if ways > 1 else 1
    return most if trial.resources.lanes == "auto" else min(most, ways)


def in_lanes(walk: Walk, base: WarmBase) -> bool:
    """Walk through the trial in as many lanes as it has. False, and nothing done, where the model has none."""
    began, most = time.monotonic(), walk.lanes
    if walk.trial.resources.lanes == "auto":
        walk.lanes = chosen(walk, base)
    else:
        walk.lanes = max(walk.lanes, base.count)  # of a trial before, which had more ways
    walk.notes.made_with["lanes"] = walk.lanes
    if walk.lanes == 1:
        return False
    if base.count not in (1, walk.lanes):  # of another batch
        renew(walk, base)
    try:
        lanes = base.lanes(walk.state.lm, walk.lanes, walk.trial.moments)
    except (ModelError, RuntimeError) as error:
        if not isinstance(error, ModelError) and not of_memory(error):
            raise
        walk.notes.made_with["lanes"] = 1
        walk.notes.add(walk.trial.base, "unread", began, f"one lane instead of {most}: {one_line(error)}")
        return False
    lockstep = Lockstep(lanes)
    walks = [walk, *(_beside(walk, model) for model in lanes.models[1:])]
    walk.activity.work = lambda: lanes.joint.passes + sum(model.passes for model in lanes.models)
    for number, one in enumerate(walks):
        one.below = partial(_shared_out, lockstep, walks, number)  # type: ignore[method-assign] # of this lane
    lockstep.run(lambda _: walk.visit(walk.trial.base))
    return True


def _beside(walk: Walk, lm: LanguageModel) -> Walk:
    """Another lane of the same trial, with a model of its own that is nowhere yet; all else is shared."""
    other = copy.copy(walk)
    other.state, other.saver = walk.state.beside(lm), walk.saver.beside()
    return other


def _shared_out(lockstep: Lockstep, walks: Sequence[Walk], lane: int, stage: Stage, children: Sequence[Stage]) -> None:
    """As `Walk.below`, by all lanes that have nothing else to do."""
    walk = walks[lane]
    if len(children) < 2:
        type(walk).below(walk, stage, children)
        return
    # Brought about once, before others begin at it: they would all make it, each in its own lane.
    if stage.id not in walk.failures.lost and walk.reach(stage):
        lockstep.each(lane, [partial(_child, walks, stage, child) for child in children])


def _child(walks: Sequence[Walk], stage: Stage, child: Stage, lane: int) -> None:
    if stage.id not in walks[lane].failures.lost:
        walks[lane].visit(child)
    if stage.kind in ("base", "pretrain"):
        walks[lane].notes.commit()
