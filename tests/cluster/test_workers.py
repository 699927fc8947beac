"""Trials of two workers: a Tune trial that holds no CPU starts a TorchTrainer whose workers shard the model (FSDP2)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support import data

from memexp import Condition, Full, LoRA, Model, Pair, Recall, Recognition, Resources, Store, Study, Sweep

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_cluster")]


def test_two_workers_leave_the_rows_that_one_leaves(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    conditions = [
        Condition(
            tiny_model,
            Study(pair.targets, exposures=exposures, lr=lr, batch_size=3),
            method=LoRA(r=4) if lr > 2e-3 else Full(),
            probes=[Recognition(pair), Recall()],
        )
        for exposures in (0, 1, 2)
        for lr in (1e-3, 5e-3)
    ]
    for workers in (1, 2):
        sweep = Sweep(name=f"by{workers}", conditions=conditions, resources=Resources(workers=workers))
        page = io.StringIO()
        assert sweep.run(tmp_path / str(workers), console=Console(file=page, width=200)), page.getvalue()
    one, two = data(tmp_path / "1"), data(tmp_path / "2")
    for kind in one:
        assert one[kind].num_rows == two[kind].num_rows > 0
    for column in ("condition_id", "item", "target_tokens", "foil_tokens"):
        assert one["recognition"].column(column).equals(two["recognition"].column(column))
    for column in ("target_nll", "foil_nll"):
        left, right = (np.array(rows["recognition"].column(column)) for rows in (one, two))
        assert np.abs(left - right).max() < 1e-3  # two trainings of up to eight steps; the same weights agree to 1e-5
    assert set(two["recognition"].column("workers").to_pylist()) == {2}


def test_a_probe_that_fails_on_workers_costs_its_own_rows_only(tmp_path: Path, pair: Pair, tiny_model: Model) -> None:
    from test_sweep import Fragile

    sweep = Sweep(
        name="fragile",
        conditions=[
            Condition(
                tiny_model,
                Study(pair.targets, exposures=exposures, lr=1e-3, batch_size=4),
                probes=[Fragile(allowed=allowed), Recognition(pair)],
            )
            for exposures, allowed in ((0, 0.0), (1, 1e9))
        ],
        resources=Resources(workers=2),
    )
    page = io.StringIO()
    assert not sweep.run(tmp_path, console=Console(file=page, width=200))
    assert "ZeroDivisionError" in page.getvalue()
    assert "1 of 2 conditions complete" in page.getvalue()
    assert len(Store(tmp_path).names("fragile")) == 1
    assert len(Store(tmp_path).names("recognition")) == 2
