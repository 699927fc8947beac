"""A trial that is told to leave has saved all it trained: elsewhere no step is made twice, the rows are the same."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import pytest
from core.test_lane_trials import assert_same, grid
from core.test_trial import rows, statuses, trial_of

import memexp.core.train
import memexp.trial.walk
from memexp.core.optimizer import adamw
from memexp.core.processes import World
from memexp.core.train import update
from memexp.plan.attempts import Attempt, Progress
from memexp.spec import Condition, Full, LoRA, Resources, Snapshots
from memexp.store import Store
from memexp.store.snapshots import find
from memexp.trial.execute import execute
from memexp.trial.leaving import Leaving, Notice


class AtLook(Notice):
    """Given when the trial has looked for it so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __getattribute__(self, name: str) -> Any:
        if name == "why":
            self.looks -= 1
            return "the machine is about to go" if self.looks < 0 else None
        return super().__getattribute__(name)


def executed(conditions: list[Condition], store: Store, lanes: int, notice: Notice | None = None) -> int:
    """Executes them with nothing saved but at the end; how many steps were reported."""
    made = 0

    def report(progress: Progress) -> None:
        nonlocal made
        made += sum(len(event.steps) for event in progress.events if hasattr(event, "losses"))

    trial = dataclasses.replace(trial_of(conditions), resources=Resources(lanes=lanes), snapshots=Snapshots(None))
    lines = execute(trial, store, World.current(), Attempt("test", f"{lanes}"), report, notice=notice)
    assert lines == []
    return made


def without_forks(method: Full | LoRA) -> list[Condition]:
    """Whatever begins in the middle of something else would be trained again for its own sake."""
    return [one for one in grid(method) if one.forget is None and one.interference is None]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("looks", [1, 2, 5, 6, 9, 14, 23])
@pytest.mark.parametrize(("lanes", "method"), [(1, Full()), (1, LoRA(r=4)), (4, Full())], ids=["full", "lora", "lanes"])
def test_elsewhere_it_goes_on(lanes: int, method: Full | LoRA, looks: int, tmp_path: Path) -> None:
    conditions = without_forks(method)
    undisturbed, store = Store(tmp_path / "undisturbed"), Store(tmp_path / "store")
    executed(conditions, undisturbed, lanes)
    with pytest.raises(Leaving):
        executed(conditions, store, lanes, AtLook(looks))
    assert 1 <= statuses(store)["left"] <= lanes
    assert {row["error"] for row in rows(store, "stages", status="left")} == {"the machine is about to go"}
    executed(conditions, store, lanes)
    assert_same(undisturbed, store, rtol=1e-5 if lanes > 1 else 0)
    assert steps(store) == steps(undisturbed)
    assert not find(store).trajectories


def steps(store: Store) -> int:
    """Those of complete stages, which of one that was taken up again came after the snapshot, and those before it."""
    return sum(row["steps"] for row in rows(store, "stages") if row["status"] in ("complete", "left"))


def test_what_could_be_saved_keeps_no_optimizer_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage begins with moments of its own, those of the one before it are gone: two would not fit."""
    made: list[weakref.ref[Any]] = []
    most = 0

    def counted(*given: Any) -> Any:
        made.append(weakref.ref(optimizer := adamw(*given)))
        return optimizer

    def updated(*given: Any) -> Any:
        nonlocal most
        most = max(most, sum(one() is not None for one in made))
        return update(*given)

    monkeypatch.setattr(memexp.trial.walk, "adamw", counted)
    monkeypatch.setattr(memexp.core.train, "update", updated)
    executed([one for one in grid(Full()) if one.forget or one.interference], Store(tmp_path), 1)
    assert len(made) > 3 and most == 1
