"""Searches through Ray Tune, from the description to the store: told and not trained, stopped, gone on with."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memexp import (
    ASHA,
    Condition,
    Model,
    Pair,
    Pretrain,
    Recognition,
    Resources,
    Search,
    SpecError,
    Store,
    Study,
    Sweep,
    Uniform,
)

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_cluster")]

NLL = "SELECT avg(target_nll) FROM recognition"


def trajectory(model: Model, pair: Pair, exposures: tuple[int, ...] = (1, 2, 3)) -> Callable[..., list[Condition]]:
    """The function of a search over the learning rate."""

    def condition(lr: float) -> list[Condition]:
        return [
            Condition(model, Study(pair.targets, exposures=n, lr=lr, batch_size=4), probes=[Recognition(pair)])
            for n in exposures
        ]

    return condition


def said(sweep: Sweep, store: Path) -> tuple[bool, str]:
    """Whether the sweep is complete, and what it said."""
    page = io.StringIO()
    return sweep.run(store, console=Console(file=page, width=200)), page.getvalue()


def rows(store: Path, kind: str) -> list[dict[str, Any]]:
    """All rows of a kind, of which there are some."""
    table = Store(store).scan(kind)
    assert table is not None
    return table.to_pylist()


@pytest.fixture(scope="module")
def sweep(pair: Pair, tiny_model: Model) -> Sweep:
    """A condition, and a search of six suggestions from rates that teach nothing to rates that teach."""
    condition = trajectory(tiny_model, pair)
    return Sweep(
        name="found",
        conditions=condition(3e-3)[-1:],
        searches=[
            Search(
                "lr",
                condition,
                {"lr": Uniform(1e-7, 1e-2, log=True)},
                NLL,
                "min",
                trials=6,
                stopping=ASHA(reduction=2),
                concurrent=2,
            )
        ],
    )


@pytest.fixture(scope="module")
def store(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory, local_cluster: None) -> Path:
    """A store with the whole sweep; tests read it."""
    folder = tmp_path_factory.mktemp("search")
    complete, page = said(sweep, folder)
    assert complete, page
    assert "trying 6 suggestions of 1 search" in page and "6 of 6 suggestions of search lr complete" in page
    return folder


def test_what_the_rule_gives_up_is_recorded_as_stopped(store: Path) -> None:
    stages = {row["stage_id"]: row["status"] for row in rows(store, "stages")}
    measured = {row["condition_id"] for row in rows(store, "recognition")}
    ends: dict[int, list[tuple[str, bool]]] = {}
    for row in sorted(rows(store, "searches"), key=lambda row: (row["suggestion"], row["stop"])):
        end = stages[row["stage_id"]], row["condition_id"] in measured
        ends.setdefault(row["suggestion"], []).append(end)
    assert list(ends) == list(range(6))
    for end in ends.values():
        statuses = [status for status, _ in end]
        reached = statuses.index("stopped") if "stopped" in statuses else 3
        assert end == [("complete", True)] * reached + [("stopped", False)] * (3 - reached)
        assert reached >= 1
    stopped = [end for end in ends.values() if end[-1][0] == "stopped"]
    assert 1 <= len(stopped) < 6
    assert not Store(store).verify().problems


def test_the_same_sweep_again_tries_nothing(store: Path, sweep: Sweep) -> None:
    before = sorted(path.name for path in store.glob("*/*.parquet"))
    complete, page = said(sweep, store)
    assert complete and "trying" not in page and "executing" not in page
    assert sorted(path.name for path in store.glob("*/*.parquet")) == before


def test_more_trials_go_on_from_the_stored_ones(store: Path, sweep: Sweep) -> None:
    before = {path.name for path in store.glob("searches/*.parquet")}
    [search] = sweep.searches
    complete, page = said(dataclasses.replace(sweep, searches=[dataclasses.replace(search, trials=7)]), store)
    assert complete and "trying 1 suggestion of" in page
    [new] = {path.name for path in store.glob("searches/*.parquet")} - before
    assert new.endswith("-00006.parquet")


def test_suggestions_at_once_share_one_pretraining(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    training = Pretrain(pair.foils, steps=400, lr=1e-3, batch_size=4)

    def condition(lr: float) -> Condition:
        return dataclasses.replace(trajectory(tiny_model, pair, (1,))(lr)[0], pretrain=training)

    search = Search("lr", condition, {"lr": Uniform(1e-4, 1e-2)}, NLL, "min", trials=3, concurrent=2)
    complete, page = said(Sweep(name="trained", searches=[search]), tmp_path)
    assert complete, page
    made = [row["steps"] for row in rows(tmp_path, "stages") if row["kind"] == "pretrain"]
    assert sorted(made) == [0, 0, 400]  # who trains it is alone at first
    assert Store(tmp_path).list_text(".snapshots/") == []


def test_suggestions_in_lanes_come_to_what_each_comes_to_by_itself(
    tmp_path: Path, pair: Pair, tiny_model: Model
) -> None:
    """On two places five random points are tried by two, by two and by itself."""
    condition, space = trajectory(tiny_model, pair), {"lr": Uniform(1e-4, 1e-2)}
    search = Search("lr", condition, space, NLL, "min", trials=5, sampler="random")
    values = []
    for lanes, seen in ((1, {1}), (3, {1, 2})):
        store = tmp_path / str(lanes)
        complete, page = said(Sweep(name="lanes", searches=[search], resources=Resources(lanes=lanes)), store)
        assert complete, page
        found = rows(store, "recognition")
        assert {row["lanes"] for row in found} == seen
        values.append({(row["condition_id"], row["item"]): row["target_nll"] for row in found})
    assert values[0].keys() == values[1].keys() and len({condition for condition, _ in values[0]}) == 15
    assert values[1] == pytest.approx(values[0], abs=1e-4)


def test_a_metric_that_fails_on_real_rows_is_told_in_a_line(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    metric = "SELECT avg(target::int) FROM recognition"  # without rows there is nothing that is no number
    search = Search("lr", trajectory(tiny_model, pair, (1,)), {"lr": Uniform(1e-4, 1e-2)}, metric, "min", trials=2)
    with pytest.raises(SpecError, match=r"Search\.metric: Conversion Error") as error:
        said(Sweep(name="wrong", searches=[search]), tmp_path)
    assert len(str(error.value).splitlines()) == 1
