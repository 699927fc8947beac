"""How many lanes are the fastest, where nobody says it: tried once for a model, a batch and a device, then remembered.

    chosen(walk, base)             # Resources(lanes="auto")

Steps at a learning rate of 0 are timed: of the model by itself, and of it in as many lanes as there may be. Where those
gain too little, or have no memory, half as many are tried. What came of it is kept in the store, under ``.lanes/``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from memexp.core.data import Row
from memexp.core.faults import ends_process
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel, set_dropout
from memexp.core.optimizer import fresh_optimizer
from memexp.core.train import update
from memexp.errors import StoreError, one_line
from memexp.identity import canonical, identity
from memexp.plan import TrainingStage
from memexp.spec import AdamW, Training
from memexp.trial.base import WarmBase, renew

if TYPE_CHECKING:
    from memexp.trial.walk import Walk

__all__ = ["FOLDER", "GAIN", "chosen"]

FOLDER = ".lanes"
GAIN = 1.1
"""How many times as fast as one after the other lanes have to be: less is lost where they wait for each other."""
STEPS = 5
"""Steps that are timed, after two that are not."""


def chosen(walk: Walk, base: WarmBase) -> int:
    """The lanes of a trial that may have several. The model is as loaded before and afterwards.

    Where the model fails by itself it is one, and nothing is kept: the trial finds out why, and records it.
    """
    stage = next((one for one in walk.trial.stages if isinstance(one, TrainingStage)), None)
    if stage is None:
        return 1
    path = _path(walk, stage)
    try:
        said = walk.sink.get_text(path)
        if said is not None:
            return min(walk.lanes, int(json.loads(said)["lanes"]))
    except (StoreError, ValueError, KeyError, TypeError):
        pass  # what does not read is found out again
    seconds, failed = _tried(walk, base, stage)
    if 1 not in seconds:
        return 1
    lanes = next((n for n, each in seconds.items() if n > 1 and n * seconds[1] >= GAIN * each), 1)
    about = {"lanes": lanes, "seconds": seconds, "failed": failed, "model": stage.model.name, **walk.notes.made_with}
    walk.sink.put_text(path, json.dumps(about, default=str))
    return lanes


def _path(walk: Walk, stage: TrainingStage) -> str:
    """Where the choice is kept: it depends on what takes part in a step, and on what computes it."""
    settings, made = stage.settings, walk.notes.made_with
    step: list[Any] = [walk.trial.base.id, settings.batch_size, settings.block_size, walk.trial.resources.checkpointing]
    if settings.optimizer != AdamW():
        step.append(canonical(settings.optimizer))
    return f"{FOLDER}/{identity([*step, walk.lanes, made['device'], made['threads'], made['torch']])}.json"


def _tried(walk: Walk, base: WarmBase, stage: TrainingStage) -> tuple[dict[int, float], dict[int, str]]:
    """Seconds of a step by lanes: of one, and of as many as can be had, halved until they are worth it; and why not."""
    found, failed, count = dict[int, float](), dict[int, str](), 1
    while count:
        try:
            rows, settings = walk.texts.batches(stage)(stage.first_step).rows, stage.settings
            if count == 1:
                found[count] = _alone(walk.state.lm, settings, rows)
            else:
                found[count] = _joint(base.lanes(walk.state.lm, count, stage.moments), settings, rows)
        except Exception as error:  # want of memory, above all: half as many may have it; the file says what it was
            if ends_process(error):
                raise
            failed[count] = one_line(error)
        if count == 1:
            count = walk.lanes if 1 in found else 0
        elif count in found and count * found[1] >= GAIN * found[count]:
            break
        else:
            renew(walk, base)
            count = count // 2 if count > 3 else 0
    if 1 in failed:
        renew(walk, base)  # gradients of half a step may be left
    walk.state = walk.state.with_model(*base.get(walk.trial.base, walk.trial.resources, walk.world))
    return found, failed


def _alone(lm: LanguageModel, settings: Training, rows: Sequence[Row]) -> float:
    """Seconds of a step of the model by itself."""
    set_dropout(lm.lm, settings.dropout)
    lm.train()
    optimizer = fresh_optimizer(lm, settings)
    return _timed(lm, lambda: update(lm, optimizer, rows, 0.0, settings.clip_norm))


def _joint(lanes: Lanes, settings: Training, rows: Sequence[Row]) -> float:
    """Seconds of a step of all lanes."""
    asked = [
        (lane, (fresh_optimizer(lm, settings), rows, 0.0, settings.clip_norm, settings.dropout, 0))
        for lane, lm in enumerate(lanes.models)
    ]

    def step() -> None:
        for made in lanes.do("update", asked):
            if isinstance(made, Exception):
                raise made

    return _timed(lanes.joint, step)


def _timed(lm: LanguageModel, step: Callable[[], object]) -> float:
    """Seconds of a step, the device's part included."""
    seconds = []
    for _ in range(2 + STEPS):
        began = time.perf_counter()
        step()
        if lm.world.device.type == "cuda":
            torch.cuda.synchronize(lm.world.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])
