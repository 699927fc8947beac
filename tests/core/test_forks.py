"""Forks cost the host what they hold and the device nothing, and are gone as soon as nobody goes back to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from core.meter import Meter
from core.small import NO_DROPOUT, language_model

import memexp.trial.walk
from memexp.core.fork import restore, spend, take
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import update
from memexp.plan import Trial, grow
from memexp.plan.attempts import Attempt
from memexp.probes import Recognition
from memexp.spec import Condition, Interference, Model, Pair, Resources, ShippedText, Study
from memexp.store import Store
from memexp.trial.execute import execute
from memexp.trial.state import State

STUDY = Study(ShippedText("sentences-targets", first=8), exposures=1, lr=1e-3, batch_size=4)
ROWS = [[1, 2, 3, 4], [5, 6, 7]]


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Meter() as meter:
        yield meter


def test_going_back_holds_no_moments_twice(meter: Meter) -> None:
    lm = language_model("llama", **NO_DROPOUT["llama"])
    meter.note(*lm.parameters(), *lm.buffers())
    weights = meter.bytes["device"]
    optimizer = fresh_optimizer(lm, STUDY)
    update(lm, optimizer, ROWS, 1e-3, None)
    learned = sum(parameter.nbytes for parameter in lm.parameters())
    room = learned // 10  # for buffers and what a step keeps of a batch
    with meter.phase() as taking:
        fork = take(lm, optimizer)
    assert taking.peak == taking.now <= weights + 2 * learned + room
    assert 3 * learned <= taking.host <= 3 * learned + room
    del optimizer
    with meter.phase() as restoring:
        optimizer = restore(lm, fork, STUDY)
    assert restoring.peak <= weights + 2 * learned + room
    assert restoring.host == taking.host, "nothing of a fork is copied but into the model"
    del optimizer
    with meter.phase() as spending:
        optimizer = spend(lm, fork, STUDY)
    assert optimizer is not None and spending.peak <= weights + 2 * learned + room
    assert meter.bytes["host"] == 0


def test_a_fork_is_gone_when_its_last_child_is_trained(
    meter: Meter, tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    """Exposures 1 and 2, each with interference: the first fork is gone back to once."""
    interference = Interference(ShippedText("sentences-foils", first=8), lr=1e-3, steps=2, batch_size=4)
    conditions = [
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=1e-3, batch_size=4), interference=interference,
                  probes=(Recognition(pair),))
        for n in (1, 2)
    ]  # fmt: skip
    forest = grow(conditions)
    base, *stages = forest.stages.values()
    trial = Trial(base, stages, forest.asks, Resources(), forest.texts, forest.streams)
    begun, backs = [], []
    train, go_back = memexp.trial.walk.train, State.go_back

    def begins(lm: Any, *args: Any) -> Any:
        begun.append(dict(meter.bytes))
        return train(lm, *args)

    def back(state: State, *args: Any) -> None:
        with meter.phase() as phase:
            go_back(state, *args)
        backs.append(phase.peak)

    with mock.patch.object(memexp.trial.walk, "train", begins), mock.patch.object(State, "go_back", back):
        assert execute(trial, Store(tmp_path), World.current(), Attempt("test", "first")) == []
    one, *_ = begun
    learned = one["host"]  # the copy of the base
    assert one["device"] >= learned and len(begun) == 4 and len(backs) == 1
    held = [round(now["host"] / learned) for now in begun]
    assert held == [1, 4, 1, 1], "exposure 1, the first of its two children, the last, and that one's only child"
    assert backs[0] <= one["device"] + 2.1 * learned
