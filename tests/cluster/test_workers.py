"""Trials of two workers: a Tune trial that holds no CPU starts a TorchTrainer whose workers shard the model (FSDP2)."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from ray import cloudpickle, tune
from ray.util.queue import Queue
from rich.console import Console
from support import data
from test_sweep import Fragile

from memexp import Condition, Full, LoRA, Model, Pair, Recall, Recognition, Resources, Store, Study, Sweep
from memexp.cluster.experiment import NUMBER, Listener, fit
from memexp.cluster.groups import fit_group
from memexp.core.processes import World
from memexp.plan import Trial, bundle
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.retries import Death
from memexp.trial.execute import execute

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),  # peft sets it right by itself
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),  # transformers on itself
]

ALLOWED = {0: [Fragile(allowed=0.0)], 1: [Fragile(allowed=1e9)], 2: []}
"""The probe that fails, before and after one exposure."""


def conditions(pair: Pair, model: Model) -> list[Condition]:
    return [
        Condition(
            model,
            Study(pair.targets, exposures=exposures, lr=lr, batch_size=3),
            method=LoRA(r=4) if lr > 2e-3 else Full(),
            probes=[Recognition(pair), Recall(), *(ALLOWED[exposures] if lr < 2e-3 else [])],
        )
        for exposures in (0, 1, 2)
        for lr in (1e-3, 5e-3)
    ]


@dataclass(frozen=True)
class Executed:
    """A sweep whose trials had two workers."""

    store: Path
    complete: bool
    page: str


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, pair: Pair, tiny_model: Model) -> Executed:
    store, page = tmp_path_factory.mktemp("workers"), io.StringIO()
    sweep = Sweep(name="by2", conditions=conditions(pair, tiny_model), resources=Resources(workers=2))
    return Executed(store, sweep.run(store, console=Console(file=page, width=200)), page.getvalue())


def test_two_workers_leave_the_rows_that_one_leaves(
    executed: Executed, tmp_path: Path, pair: Pair, tiny_model: Model
) -> None:
    forest = Sweep(name="by1", conditions=conditions(pair, tiny_model)).grow()
    for trial in bundle(forest, forest.asks, lambda _: 1):
        assert len(execute(trial, Store(tmp_path), World.current(), Attempt("alone", "a"))) <= 1  # the fragile probe
    one, two = data(tmp_path), data(executed.store)
    for kind in one:
        assert one[kind].num_rows == two[kind].num_rows > 0
    for column in ("condition_id", "item", "target_tokens", "foil_tokens"):
        assert one["recognition"].column(column).equals(two["recognition"].column(column))
    for column in ("target_nll", "foil_nll"):
        left, right = (np.array(rows["recognition"].column(column)) for rows in (one, two))
        assert np.abs(left - right).max() < 1e-3  # two trainings of up to eight steps; the same weights agree to 1e-5
    assert set(two["recognition"].column("workers").to_pylist()) == {2}


def test_a_probe_that_fails_on_workers_costs_its_own_rows_only(executed: Executed) -> None:
    assert not executed.complete
    assert "ZeroDivisionError" in executed.page
    assert "5 of 6 conditions complete" in executed.page
    assert len(Store(executed.store).names("fragile")) == 1
    assert len(Store(executed.store).names("recognition")) == 6


class Hasty:
    """Stands in for a worker group: it ends, well or not, while its reports are still under way."""

    def __init__(self, reports: Queue, error: str | None) -> None:
        self.reports, self.error = reports, error

    def fit(self) -> SimpleNamespace:
        for step in (1, 2, 3):
            self.reports.put({"answered": [str(step)], "steps": step})
        if self.error is not None:
            raise ValueError(self.error)
        return SimpleNamespace(return_value=["a stage failed"])


@pytest.mark.parametrize("error", [None, "a worker died"])
def test_what_a_group_reports_at_its_end_arrives(error: str | None) -> None:
    heard: list[Progress] = []

    def slowly(progress: Progress) -> None:
        time.sleep(0.5)  # longer than the group takes for its end
        heard.append(progress)

    def trial(config: dict[str, Any]) -> None:
        reports = Queue(1, actor_options={"num_cpus": 0})
        failures = fit_group(Hasty(reports, error), reports)
        tune.report({"answered": [], "steps": 0, "failures": failures})

    attempt, trials = Attempt("hasty", "a"), [Mock(spec=Trial, resources=Resources(), phase=0)]
    listener = Listener(slowly, attempt, trials)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    needs = tune.PlacementGroupFactory([{"CPU": 1}])
    fit(trial, lambda _: needs, attempt, listener, tune.TuneConfig(), {NUMBER: 0})
    steps = [progress.steps for progress in heard]
    if error is None:
        assert steps == [1, 2, 3, 0] and listener.failures == ["a stage failed"]
    else:
        assert steps == [1, 2, 3] * 2  # a trial that dies is started once more
        assert listener.lost == {0: Death(f"ValueError: {error}")}
