"""A trial that is told to leave has saved all it trained: elsewhere no step is made twice, the rows are the same."""

from __future__ import annotations

import dataclasses
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
from core.test_lane_trials import assert_same, grid
from core.test_trial import rows, statuses, trial_of

import memexp.core.train
import memexp.trial.walk
from memexp import signals
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import update
from memexp.local import LocalExecutor
from memexp.plan.attempts import Attempt, Progress
from memexp.spec import Condition, Full, LoRA, Resources, Snapshots
from memexp.store import Store
from memexp.store.snapshots import find
from memexp.trial.base import WarmBase
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


def without_forks(lanes: int, method: Full | LoRA) -> list[Condition]:
    """Whatever begins in the middle of something else would be trained again for its own sake."""
    lrs = (1e-3, 3e-3) if lanes > 1 else (3e-3,)
    return [one for one in grid(method, lrs) if one.forget is None and one.interference is None]


@pytest.fixture(scope="module", params=[(1, Full()), (1, LoRA(r=4)), (4, Full())], ids=["full", "lora", "lanes"])
def undisturbed(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[Condition], Store]:
    lanes, method = request.param
    conditions, store = without_forks(lanes, method), Store(tmp_path_factory.mktemp("undisturbed"))
    executed(conditions, store, lanes)
    return lanes, conditions, store


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("looks", [1, 5, 9, 14])
def test_elsewhere_it_goes_on(undisturbed: tuple[int, list[Condition], Store], looks: int, tmp_path: Path) -> None:
    lanes, conditions, expected = undisturbed
    store = Store(tmp_path)
    with pytest.raises(Leaving):
        executed(conditions, store, lanes, AtLook(looks))
    assert 1 <= statuses(store)["left"] <= lanes
    assert {row["error"] for row in rows(store, "stages", status="left")} == {"the machine is about to go"}
    executed(conditions, store, lanes)
    assert_same(expected, store, rtol=1e-5 if lanes > 1 else 0)
    assert steps(store) == steps(expected)
    assert not find(store).trajectories


def steps(store: Store) -> int:
    """Those of complete stages, which of one that was taken up again came after the snapshot, and those before it."""
    return sum(row["steps"] for row in rows(store, "stages") if row["status"] in ("complete", "left"))


def test_what_could_be_saved_keeps_no_optimizer_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage begins with moments of its own, those of the one before it are gone: two would not fit."""
    made: list[weakref.ref[Any]] = []
    most = 0

    def counted(*given: Any) -> Any:
        made.append(weakref.ref(optimizer := fresh_optimizer(*given)))
        return optimizer

    def updated(*given: Any) -> Any:
        nonlocal most
        most = max(most, sum(one() is not None for one in made))
        return update(*given)

    monkeypatch.setattr(memexp.trial.walk, "fresh_optimizer", counted)
    monkeypatch.setattr(memexp.core.train, "update", updated)
    executed([one for one in grid(Full()) if one.forget or one.interference], Store(tmp_path), 1)
    assert len(made) > 3 and most == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda one: one.name)
def test_a_signal_in_this_process(
    sent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In the fourth of nine steps, two thirds of an exposure: it is made and saved, but for Ctrl-C."""
    store, made = Store(tmp_path), 0
    trial = trial_of([without_forks(1, Full())[-1]])

    def updated(*given: Any) -> Any:
        nonlocal made
        made += 1
        if made == 4:
            os.kill(os.getpid(), sent)
        return update(*given)

    monkeypatch.setattr(memexp.core.train, "update", updated)
    # Where the tests were started by nohup SIGHUP is ignored, and stays so.
    before = signal.signal(sent, signal.default_int_handler if sent == signal.SIGINT else signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(sent, before))
    with signals.heeded(), pytest.raises(signals.Stopped):
        LocalExecutor(WarmBase()).execute_trials([trial], store, Attempt("test", "test"), lambda _: None)
    assert [mark.step for mark in find(store).found] == ([] if sent == signal.SIGINT else [4])


def test_a_signal_while_nothing_is_trained_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarmBase, "get", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    trial = trial_of(without_forks(1, Full()))
    with signals.heeded(), pytest.raises(signals.Stopped):
        LocalExecutor(WarmBase()).execute_trials([trial], Store(tmp_path), Attempt("test", "test"), lambda _: None)
