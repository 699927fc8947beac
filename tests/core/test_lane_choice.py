"""``Resources(lanes="auto")``: tried once, remembered in the store, and of no consequence for any number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.test_lane_trials import grid
from core.test_trial import trial_of
from support import data

import memexp.trial.lane_choice as choice
from memexp.core.processes import World
from memexp.plan.attempts import Attempt
from memexp.spec import SGD, AdamW, Condition, LoRA, Resources
from memexp.store import Store
from memexp.trial.execute import WarmBase, execute

AUTO = Resources(lanes="auto")


def leave(
    store: Store,
    resources: Resources = AUTO,
    base: WarmBase | None = None,
    optimizer: AdamW | SGD | None = None,
    **settings: Any,
) -> Store:
    """Execute some studies, of LoRA with dropout."""
    conditions = [one for one in grid(LoRA(r=4), dropout=0.1, **settings) if _is_cheap(one)]
    if optimizer is not None:
        conditions = [replace(one, study=replace(one.study, optimizer=optimizer)) for one in conditions]
    trial = trial_of(conditions)
    trial.resources = resources
    assert execute(trial, store, World.current(), Attempt("test", "a"), base=base) == []
    return store


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return leave(Store(tmp_path_factory.mktemp("alone")), Resources())


def _is_cheap(condition: Condition) -> bool:
    """Four trees of one exposure, and the untrained model."""
    return condition.study.exposures < 2 and condition.forget is None and condition.interference is None


Pretend = Callable[[dict[int, float | Exception]], list[int]]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Up to four lanes, whose steps are made and said to take so many seconds; the numbers of lanes that were tried."""
    monkeypatch.setattr(Resources, "most_lanes", property(lambda self: 4 if self.lanes == "auto" else self.lanes))
    tried: list[int] = []
    alone, joint = choice._alone, choice._joint

    def pretended(seconds: dict[int, float | Exception]) -> list[int]:
        def said(count: int) -> float:
            tried.append(count)
            answer = seconds[count]
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(choice, "_alone", lambda *given: (alone(*given), said(1))[1])
        monkeypatch.setattr(choice, "_joint", lambda lanes, *given: (joint(lanes, *given), said(len(lanes.models)))[1])
        return tried

    return pretended


def lanes_of(store: Store) -> set[int]:
    table = store.scan("recall")
    assert table is not None
    return set(table["lanes"].to_pylist())


def close(one: Store, other: Store) -> None:
    """The same rows up to the last digits."""
    for column in ("target_nll", "foil_nll"):
        found = [_sorted(store)[column].to_numpy() for store in (one, other)]
        np.testing.assert_allclose(*found, atol=1e-4)


def _sorted(store: Store) -> Any:
    table = store.scan("recognition")
    assert table is not None
    return table.sort_by([("condition_id", "ascending"), ("item", "ascending")])


def test_on_a_cpu_it_is_one_and_nothing_is_tried(alone: Store, tmp_path: Path) -> None:
    store = leave(Store(tmp_path))
    assert data(store.location) == data(alone.location) and lanes_of(store) == {1}
    assert not (tmp_path / choice.FOLDER).exists()


def test_what_is_worth_it_is_chosen_and_remembered(pretend: Pretend, alone: Store, tmp_path: Path) -> None:
    tried = pretend({1: 1.0, 4: 2.0})
    store, base = Store(tmp_path), WarmBase()
    leave(store, base=base)
    assert tried == [1, 4] and lanes_of(store) == {4} and base.count == 4
    close(store, alone)
    [kept] = (tmp_path / choice.FOLDER).iterdir()
    assert json.loads(kept.read_text()).items() >= {"lanes": 4, "seconds": {"1": 1.0, "4": 2.0}}.items()
    leave(store, lrs=(2e-3,))
    assert tried == [1, 4], "it was there"
    kept.write_text("{")
    leave(store, lrs=(5e-3,))
    assert tried == [1, 4, 1, 4], "what does not read is found out again"


@pytest.mark.parametrize("four", [3.9, RuntimeError("no memory")], ids=["too slow", "no memory"])
def test_half_as_many_are_tried_where_they_are_not(
    four: float | Exception, pretend: Pretend, alone: Store, tmp_path: Path
) -> None:
    tried = pretend({1: 1.0, 4: four, 2: 1.5})
    store = leave(Store(tmp_path))
    assert tried == [1, 4, 2] and lanes_of(store) == {2}
    [kept] = (tmp_path / choice.FOLDER).iterdir()
    assert json.loads(kept.read_text())["failed"] == ({"4": str(four)} if isinstance(four, Exception) else {})
    close(store, alone)


def test_a_model_that_fails_by_itself_has_one_and_nothing_is_kept(
    pretend: Pretend, alone: Store, tmp_path: Path
) -> None:
    tried = pretend({1: RuntimeError("no memory")})
    store = leave(Store(tmp_path))
    assert tried == [1] and lanes_of(store) == {1} and data(store.location) == data(alone.location)
    assert not (tmp_path / choice.FOLDER).exists()


def test_where_nothing_is_gained_it_is_one_and_what_was_tried_is_undone(
    pretend: Pretend, alone: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = pretend({1: 1.0, 4: 4.0, 2: 2.0})
    store = leave(Store(tmp_path))
    assert tried == [1, 4, 2] and lanes_of(store) == {1}
    assert data(store.location) == data(alone.location), "bit for bit"


def test_another_optimizer_is_tried_by_itself(pretend: Pretend, tmp_path: Path) -> None:
    tried, store = pretend({1: 1.0, 4: 1.0}), Store(tmp_path)
    for optimizer in (None, AdamW(), SGD(), SGD(0.9), SGD()):
        leave(store, optimizer=optimizer)
    assert tried == [1, 4] * 3 and len([*(tmp_path / choice.FOLDER).iterdir()]) == 3


def test_another_batch_has_lanes_of_its_own(pretend: Pretend, tmp_path: Path) -> None:
    """In the same process, whose model has lanes already."""
    seconds: dict[int, float | Exception] = {1: 1.0, 4: 2.0}
    pretend(seconds)
    base, made = WarmBase(), list[int]()
    leave(Store(tmp_path / "one"), base=base)
    seconds |= {4: 4.0, 2: 1.0}
    assert base.count == 4
    store = leave(Store(tmp_path / "two"), base=base)
    made.append(base.count)
    assert made == [2] and lanes_of(store) == {2}
