"""Ray's own memory monitor kills what takes too much: that costs its own rows only, and what was beside it nothing."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from drills.strikes import WITHOUT_RAY, finish, rows, same
from support import command, data, sweep_script
from three_nodes import a_bucket, three_nodes

from memexp.cluster.deaths import MEMORY

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

MARGIN = 8 * 2**30
"""Bytes that may be used beyond what is in use when the command begins. Ray, a driver and two trials take 2 GiB, three
nodes 4; nothing else of size may begin meanwhile, which is why `make drills` has these alone."""

GREEDY = '''
import dataclasses
import os
import time
from typing import ClassVar
import pyarrow as pa
from memexp.spec import spec
@spec
class Greedy(Probe):
    """Wants twice the margin in one condition, until a file says that it has been mended."""
    kind: ClassVar[str] = "greedy"
    exposures: int = 0
    lr: float = 0.0
    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])
    def bind(self, condition):
        return Greedy(condition.study.exposures, condition.study.lr)
    def measure(self, session, texts):
        held = []
        if (self.exposures, self.lr) == (2, 3e-3) and not os.path.exists({mended!r}):
            for _ in range(2 * {margin} // 2**26):
                held.append(os.urandom(1024) * 2**16)
                time.sleep(0.02)
        return pa.table({{"item": [len(held)]}})
sweep = dataclasses.replace(sweep, conditions=[
    dataclasses.replace(condition, probes=[Greedy(), *condition.probes]) for condition in sweep.conditions
])
'''
GRID = {"exposures": (0, 1, 2, 3), "lrs": (1e-3, 3e-3)}


def limited() -> dict[str, str]:
    """What makes the monitor act at the margin, twenty times a second."""
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + MARGIN) / memory.total
    return {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "50"}


def ran(script: Path, store: str | Path, address: str = "local", **environment: str) -> str:
    """What a command says that leaves one condition undone."""
    process = command("run", script, "--store", store, "--address", address, **environment)
    page, _ = process.communicate(timeout=600)
    print(page)
    assert process.returncode == 1, page
    if f"failed: greedy: the trial died: {MEMORY}" not in page:
        pytest.fail(" | ".join(page.splitlines()[2:]))  # whole: what of it pytest would leave out is what is asked
    assert "Traceback" not in page and "documentation" not in page
    return page


def check_failed(store: str | Path, times: int) -> None:
    """One measurement alone failed, so often."""
    failed = [row for row in rows(store, "stages") if row["status"] == "failed"]
    assert len(failed) == times and len({(row["stage_id"], row["probe_id"]) for row in failed}) == 1


def check_grid(page: str, store: str | Path, times: int) -> None:
    """All but one of the grid's conditions are there, and that one failed so often."""
    assert "7 of 8 conditions complete, 1 failed or skipped" in page
    assert len(rows(store, "recognition")) == 8 * 12 and len(rows(store, "greedy")) == 7
    check_failed(store, times)


def test_what_takes_all_memory_costs_its_own_rows_only(tmp_path: Path) -> None:
    folder, store = tmp_path / "sweep", tmp_path / "store"
    script = sweep_script(folder, **GRID, more=GREEDY.format(mended=str(folder / "mended"), margin=MARGIN))
    for times in (1, 2):  # the same command tries that one only
        check_grid(ran(script, store, **limited()), store, times)
    status = command("status", "--store", store)
    page, _ = status.communicate(timeout=120)
    assert status.returncode == 1 and f"  1 failed: greedy: the trial died: {MEMORY}" in page
    (folder / "mended").touch()
    assert finish(script, store) == (0, 2 * 8)
    assert finish(sweep_script(folder, **GRID), tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, 2 * 8)
    assert same(store, data(tmp_path / "undisturbed"))


def test_two_workers(tmp_path: Path) -> None:
    more = GREEDY.format(mended=str(tmp_path / "mended"), margin=MARGIN)
    script = sweep_script(tmp_path / "sweep", **GRID, workers=2, more=more)
    check_grid(ran(script, tmp_path / "store", **limited()), tmp_path / "store", times=1)


def test_a_sharded_sweep_on_three_nodes(tmp_path: Path) -> None:
    """Here the memory of all nodes is one, and every node's monitor kills: what is on the head, and both workers."""
    more = GREEDY.format(mended=str(tmp_path / "mended"), margin=MARGIN)
    script = sweep_script(tmp_path / "sweep", **GRID, workers=2, spread=True, more=more)
    with a_bucket("memexp-memory") as bucket, three_nodes(limited()) as nodes:
        for times in (1, 2):
            check_grid(ran(script, f"{bucket}/three", nodes.address), f"{bucket}/three", times)


SEARCH = """
def condition(lr):
    study = Study(pair.targets, exposures=2, lr=lr, batch_size=4, block_size=64)
    return Condition(model, study, probes=[Greedy(), Recognition(pair)])

metric = "SELECT avg(target_nll) FROM recognition"
searches = [Search("lr", condition, {"lr": Choices([1e-3, 2e-3, 3e-3, 4e-3])}, metric, "min", trials=4)]
sweep = Sweep(name="small", searches=searches)
"""


def test_a_suggestion_of_a_search(tmp_path: Path) -> None:
    folder, store = tmp_path / "sweep", tmp_path / "store"
    more = GREEDY.format(mended=str(folder / "mended"), margin=MARGIN) + SEARCH
    script = sweep_script(folder, more=more)
    assert "3 of 4 suggestions of search lr complete" in ran(script, store, **limited())
    assert len(rows(store, "recognition")) == 4 * 12 and len(rows(store, "greedy")) == 3
    check_failed(store, times=1)
