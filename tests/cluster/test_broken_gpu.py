"""An error of the GPU in a Tune actor that is used again, and in a worker group: it costs its own rows only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import torch
from ray import cloudpickle
from rich.console import Console

from memexp import Condition, Model, Pair, Probe, Recognition, Resources, Store, Study, Sweep
from memexp.spec import spec

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_cluster")]


@spec
class Breaking(Probe):
    """Breaks the GPU of its process after one exposure: from then on every pass there fails."""

    kind: ClassVar[str] = "breaking"
    exposures: int = 0

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("process", pa.int64())])

    def bind(self, condition: Condition) -> Probe:
        return Breaking(condition.study.exposures)

    def measure(self, session: Any, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        from memexp.core.model import LanguageModel

        if self.exposures == 1:

            def broken(*_: Any, **__: Any) -> Any:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")

            LanguageModel.forward = broken  # type: ignore[method-assign] # of a process that ends with it
        session.token_nlls([[1, 2, 3]])
        return pa.table({"process": [os.getpid()]})


@pytest.mark.parametrize("workers", [1, 2])
def test_what_follows_is_done_by_other_processes(
    workers: int, pair: Pair, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    conditions = [
        Condition(tiny_model, Study(pair.targets, n, lr, 4), probes=[Breaking(), Recognition(pair)])
        for n in (0, 1, 2)
        for lr in (1e-3, 1e-2)[: 3 - workers]
    ]
    sweep = Sweep(name="broken", conditions=conditions, resources=Resources(workers=workers))
    lines: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", lambda *said, **_: lines.extend(map(str, said)))
    assert not sweep.run(tmp_path, console=console)
    store = Store(tmp_path)
    assert len(store.names("recognition")) == len(conditions)
    broken = len(conditions) // 3
    assert len(store.names("breaking")) == 2 * broken, "after none and after two exposures"
    stages = store.scan("stages")
    assert stages is not None
    failed = [row for row in stages.to_pylist() if row["status"] == "failed"]
    assert len({(row["stage_id"], row["probe_id"]) for row in failed}) == broken
    assert all("AcceleratorError: CUDA error: device-side assert" in row["error"] for row in failed)
    assert sum("AcceleratorError" in line for line in lines) == broken, lines


@spec
class Hungry(Probe):
    """Memory runs out on the second worker of a group whose batches are as large as they may be."""

    kind: ClassVar[str] = "hungry"

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("rows", pa.int64())])

    def measure(self, session: Any, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        rows = session.lm.budget.recall_rows
        if session.lm.world.rank == 1 and rows > 48:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        session.token_nlls([[1, 2, 3]])
        return pa.table({"rows": [rows]})


def test_a_group_whose_memory_ran_out_is_followed_by_one_with_half_the_batch(
    pair: Pair, tiny_model: Model, tmp_path: Path
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    study = Study(pair.targets, 1, 1e-3, 4)
    conditions = [Condition(tiny_model, study, probes=[Recognition(pair), Hungry()])]
    sweep = Sweep(name="hungry", conditions=conditions, resources=Resources(workers=2))
    assert sweep.run(tmp_path, console=Console(quiet=True))
    store = Store(tmp_path)
    found, stages = store.scan("hungry"), store.scan("stages")
    assert found is not None and stages is not None
    assert found.column("rows").to_pylist() == [48]  # of 96
    statuses = [row["status"] for row in stages.to_pylist()]
    assert statuses.count("halved") == 1 and "failed" not in statuses
