"""What a plan cuts where study ends leaves the rows of a sweep that is not cut, and nothing is trained twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core.test_trial import Grid, grid
from rich.console import Console
from support import data

import memexp.core.train
from memexp import Sweep
from memexp.driver import work
from memexp.local import LocalExecutor
from memexp.plan import Trial
from memexp.plan.outlay import Times
from memexp.spec import Condition, Forget, Interference, ShippedText, Snapshots
from memexp.store import Store
from memexp.store.snapshots import find

__all__ = ["grid"]  # a fixture

OTHER = ShippedText("sentences-interference", first=10)


@pytest.fixture
def conditions(grid: Grid) -> list[Condition]:
    """Two studies, of 1 and 2 exposures on one trajectory; after each two kinds of interference, and a block reset."""
    study = grid((1, 2), lrs=(1e-3,))
    after = [
        dataclasses.replace(one, interference=Interference(OTHER, steps=5, lr=lr, batch_size=4))
        for one in study
        for lr in (1e-3, 3e-3)
    ]
    return [*study, *after, *(dataclasses.replace(one, forget=Forget(from_layer=1)) for one in study)]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Trial]]:
    """As if there were four places, and a cut cost nothing; the trials that there were."""
    found: list[Trial] = []
    plain = LocalExecutor.execute_trials

    def execute(self: LocalExecutor, trials: list[Trial], *args: Any) -> Any:
        found.extend(trials)
        return plain(self, trials, *args)

    def whole() -> list[Trial]:
        monkeypatch.setattr(LocalExecutor, "slots", lambda self, resources: 4)
        monkeypatch.setattr(LocalExecutor, "execute_trials", execute)
        monkeypatch.setattr(Times, "cut", lambda *_: 0.0)
        return found

    return whole


def ran(conditions: list[Condition], store: Path, **settings: Any) -> bool:
    return Sweep("cut", conditions, snapshots=Snapshots(minutes=None), **settings).run(
        store, local=True, console=Console(quiet=True)
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    made: list[None] = []
    plain = memexp.core.train.update
    monkeypatch.setattr(memexp.core.train, "update", lambda *args: (made.append(None), plain(*args))[1])
    return made


def test_cut_it_leaves_the_rows_of_the_whole(
    conditions: list[Condition], cut: Callable[[], list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(conditions, tmp_path / "whole")
    trials, made = cut(), counted(monkeypatch)
    assert ran(conditions, tmp_path / "cut")
    assert {trial.phase for trial in trials} == {0, 1} and any(trial.given for trial in trials)
    assert len(made) == Sweep("cut", conditions).grow().steps, "nothing is trained twice"
    assert data(tmp_path / "cut") == data(tmp_path / "whole")
    assert not find(Store(tmp_path / "cut")).trajectories, "what was left for others is removed at the end"


def test_stopped_between_the_phases_it_goes_on_uncut(
    conditions: list[Condition], cut: Callable[[], list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(conditions, tmp_path / "whole")
    with monkeypatch.context() as patch:
        cut()
        plain, phases = work.execute_with_retries, []

        def first(trials: list[Trial], *args: Any) -> list[str]:
            phases.append({trial.phase for trial in trials})
            return plain([trial for trial in trials if trial.phase == 0], *args)

        patch.setattr(work, "execute_with_retries", first)
        assert not ran(conditions, tmp_path / "cut")
    assert phases == [{0, 1}]
    left = find(Store(tmp_path / "cut")).trajectories
    monkeypatch.undo()
    made = counted(monkeypatch)
    assert ran(conditions, tmp_path / "cut")
    study = sum(stage.steps for stage in Sweep("cut", conditions).grow().stages.values() if stage.kind == "study")
    assert left and len(made) == Sweep("cut", conditions).grow().steps - study
    assert data(tmp_path / "cut") == data(tmp_path / "whole")
