"""Whole sweeps of one-worker trials through Ray Tune, from the description to the store."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from ray import tune
from rich.console import Console
from support import data

import memexp.cluster.connect
import memexp.core.load
import memexp.trial.base
from memexp import Condition, Model, Pair, Recall, Recognition, Resources, Store, Study, Sweep
from memexp import plan as planning
from memexp.cluster.experiment import tune_trial
from memexp.core.processes import World
from memexp.plan import find_missing
from memexp.plan.attempts import Attempt
from memexp.plan.room import Room
from memexp.spec import Probe, spec
from memexp.trial.execute import execute

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_cluster")]


def grid(pair: Pair, model: Model, lrs: tuple[float, ...] = (1e-3, 3e-3), name: str = "grid") -> Sweep:
    return Sweep(
        name=name,
        conditions=[
            Condition(
                model,
                Study(pair.targets, exposures=exposures, lr=lr, batch_size=4),
                probes=[Recognition(pair), Recall()],
                labels={"list": name},
            )
            for exposures in (0, 1, 2)
            for lr in lrs
        ],
    )


def said(sweep: Sweep, store: Path) -> tuple[bool, str]:
    """Whether the sweep is complete, and what it said."""
    page = io.StringIO()
    return sweep.run(store, console=Console(file=page, width=200)), page.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, pair: Pair, tiny_model: Model, local_cluster: None) -> Path:
    """A store with the complete grid. Tests may add to it and restore what they remove."""
    folder = tmp_path_factory.mktemp("store")
    assert grid(pair, tiny_model).run(folder, console=Console(quiet=True))
    return folder


def test_ray_adds_nothing_to_what_the_core_measures(store: Path, tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    forest = grid(pair, tiny_model).grow()
    alone = Store(tmp_path / "alone")
    for trial in planning.bundle(forest, forest.asks, lambda _: 1):
        assert execute(trial, alone, World.current(), Attempt("alone", "a")) == []
    assert grid(pair, tiny_model).run(tmp_path / "local", local=True, console=Console(quiet=True))
    with_ray = data(store)
    assert with_ray["recognition"].num_rows == 6 * 12
    for without in (data(tmp_path / "alone"), data(tmp_path / "local")):
        for kind in with_ray:
            assert with_ray[kind].equals(without[kind]), kind


def test_the_same_sweep_again_executes_nothing(store: Path, pair: Pair, tiny_model: Model) -> None:
    began = time.monotonic()
    complete, page = said(grid(pair, tiny_model), store)
    assert complete
    assert "6 of 6 conditions are in" in page
    assert "executing" not in page
    assert time.monotonic() - began < 15


def test_one_deleted_file_brings_back_exactly_that_one(store: Path, pair: Pair, tiny_model: Model) -> None:
    sweep = grid(pair, tiny_model)
    ask = next(ask for ask in sweep.grow().asks if ask.kind == "recall" and ask.settings["exposures"] == 2)
    file = Path(Store(store).path("recall", ask.name))
    before = {path: path.stat().st_mtime_ns for path in store.glob("rec*/*.parquet")}
    rows = file.read_bytes()
    file.unlink()
    complete, page = said(sweep, store)
    assert complete
    assert "executing 1 trial, 6 steps, for 1 result" in page
    assert file.read_bytes() == rows
    after = {path: path.stat().st_mtime_ns for path in store.glob("rec*/*.parquet")}
    assert {path for path in after if after[path] != before.get(path)} == {file}


def test_other_labels_and_zero_exposures_at_another_rate_train_nothing(
    store: Path, pair: Pair, tiny_model: Model
) -> None:
    relabelled = grid(pair, tiny_model, name="again")
    untrained = Sweep(
        name="untrained",
        conditions=[
            dataclasses.replace(relabelled.conditions[0], study=Study(pair.targets, exposures=0, lr=0.5, batch_size=4))
        ],
    )
    for sweep in (relabelled, untrained):
        complete, page = said(sweep, store)
        assert complete
        assert "executing" not in page


@spec
class Fragile(Probe):
    """Fails on a model that has studied."""

    kind: ClassVar[str] = "fragile"
    allowed: float

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64()), ("norm", pa.float64())])

    def measure(self, session, texts):  # type: ignore[no-untyped-def]
        norm = sum(float(p.detach().norm()) for p in session.lm.parameters())
        if norm > self.allowed:
            raise ZeroDivisionError(f"norm {norm}")
        return pa.table({"item": [0], "norm": [norm]}, schema=self.schema())


def test_a_failed_condition_is_recorded_and_the_rest_goes_on(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    sweep = Sweep(
        name="fragile",
        conditions=[
            Condition(
                tiny_model,
                Study(pair.targets, exposures=2, lr=lr, batch_size=4),
                probes=[Recognition(pair), Fragile(allowed=allowed)],
            )
            for lr, allowed in ((1e-3, 1e9), (2e-3, 0.0))
        ],
    )
    complete, page = said(sweep, tmp_path)
    assert not complete
    assert "ZeroDivisionError" in page
    assert "1 of 2 conditions complete" in page
    assert len(Store(tmp_path).names("recognition")) == 2
    assert len(Store(tmp_path).names("fragile")) == 1
    stages = Store(tmp_path).scan("stages")
    assert stages is not None
    failed = [row for row in stages.to_pylist() if row["status"] == "failed"]
    assert [row["error"].split(":")[0] for row in failed] == ["fragile"]


@spec
class Deadly(Probe):
    """Kills its process at the first of `RATES`, without a word."""

    kind: ClassVar[str] = "deadly"
    lr: float = 0.0

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def bind(self, condition: Condition) -> Deadly:
        return Deadly(condition.study.lr)

    def measure(self, session, texts):  # type: ignore[no-untyped-def]
        if self.lr == RATES[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"item": [0]}, schema=self.schema())


RATES = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3)
"""All in one trial, as there is one place."""


def test_what_kills_its_process_costs_itself_only(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    conditions = [
        Condition(tiny_model, Study(pair.targets, exposures=1, lr=lr, batch_size=4), probes=[Deadly()]) for lr in RATES
    ]
    sweep = Sweep(name="deadly", conditions=conditions, resources=Resources(cpus=2))
    complete, page = said(sweep, tmp_path)
    assert not complete and "executing 1 trial, " in page
    assert page.count(" failed: deadly: the trial died: ") == 1 and "5 of 6 conditions complete" in page
    stages = Store(tmp_path).scan("stages")
    assert stages is not None
    failed = [row for row in stages.to_pylist() if row["status"] == "failed"]
    [ask] = find_missing(sweep.grow(), Store(tmp_path)).asks
    assert ask.settings["lr"] == RATES[0]
    [row] = failed
    assert (row["stage_id"], row["probe_id"]) == (ask.stage, ask.probe_id)
    assert row["error"].startswith("deadly: the trial died: ")


def test_what_one_trial_could_not_load_another_tries(
    tmp_path: Path, pair: Pair, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be on a better node. A trial that is started again leaves it out."""
    forest, store, loaded = grid(pair, tiny_model).grow(), Store(tmp_path), []
    first, second = planning.bundle(forest, forest.asks, lambda _: 1)[:2]

    def load(*model: object) -> object:
        loaded.append(model)
        if len(loaded) == 1:
            raise RuntimeError("no memory on this node")
        return memexp.core.load.load(*model)  # type: ignore[arg-type]

    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(memexp.trial.base, "load", load)
    monkeypatch.setattr(tune, "report", reports.append)
    for trial, number, failures, answered in ((first, 0, 1, 0), (first, 0, 1, 0), (second, 1, 0, len(second.asks))):
        reports.clear()
        tune_trial(trial, number, store, Attempt("sweep", "a"))
        assert sum(len(report["failures"]) for report in reports) == failures
        assert sum(len(report["answered"]) for report in reports) == answered
    assert len(loaded) == 2


def test_more_than_the_cluster_holds_is_refused_before_any_trial(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    from memexp import ClusterError

    conditions = grid(pair, tiny_model).conditions
    for resources, told in ((Resources(workers=3), "3 CPUs"), (Resources(gpus=1), "1 GPU ")):
        with pytest.raises(ClusterError, match=told):
            Sweep(name="large", conditions=conditions, resources=resources).run(tmp_path, console=Console(quiet=True))
    assert Store(tmp_path).names("stages") == set()


def test_what_no_node_has_the_memory_for_is_refused_before_any_trial(
    tmp_path: Path, pair: Pair, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memexp import ClusterError

    monkeypatch.setattr("memexp.driver.peaks.LARGE", 0)
    monkeypatch.setattr(memexp.cluster.connect, "rooms", lambda nodes: [Room(host=10**8)] * len(nodes))
    with pytest.raises(ClusterError, match=r"the machine has 0\.1 GB; `memexp plan --memory`"):
        grid(pair, tiny_model).run(tmp_path, console=Console(quiet=True))
    assert Store(tmp_path).names("stages") == set()


def test_lanes_leave_the_same_rows(store: Path, pair: Pair, tiny_model: Model, tmp_path: Path) -> None:
    # Three trees for each of two places: those of `store`, and four more.
    sweep = dataclasses.replace(
        grid(pair, tiny_model, (1e-3, 3e-3, 2e-3, 4e-3, 5e-3, 6e-3)), resources=Resources(lanes=3)
    )
    complete, page = said(sweep, tmp_path)
    assert complete, page
    asks = grid(pair, tiny_model).grow().asks
    shared = {kind: {ask.name for ask in asks if ask.kind == kind} for kind in ("recognition", "recall")}
    # Losses are of no ask; other tests of `store` trained further models, in one lane each.
    shared["training"] = Store(store).names("training") & Store(tmp_path).names("training")
    assert [len(names) for names in shared.values()] == [6, 6, 4]
    for kind, names in shared.items():
        for name in names:
            rows, others = (Store(folder).read(kind, name).to_pylist() for folder in (tmp_path, store))
            for row, other in zip(rows, others, strict=True):
                assert row.keys() == other.keys()
                for column in ("target_nll", "foil_nll", "loss"):
                    if row.get(column) is not None:
                        assert row[column] == pytest.approx(other[column], abs=1e-4)
                assert row.get("completion") == other.get("completion")
    assert {row["lanes"] for row in Store(tmp_path).scan("recall").to_pylist()} == {3}
