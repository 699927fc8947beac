"""Trials that hang, diverge or want more memory than there is: the rest completes, the command ends, and says why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from drills.strikes import WITHOUT_RAY, finish, results, rows, same
from support import command, data, sweep_script

from memexp.plan.attempts import Log
from memexp.store import Store

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

TROUBLE = '''
import dataclasses
import os
from typing import ClassVar
import pyarrow as pa
from memexp.spec import spec
@spec
class Trouble(Probe):
    """In trouble, until a file says that what was wrong is mended."""
    kind: ClassVar[str] = "trouble"
    exposures: int = 0
    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])
    def bind(self, condition):
        return Trouble(condition.study.exposures)
    def measure(self, session, texts):
        if not os.path.exists({mended!r}):
            exec({troubles!r}.get(self.exposures, ""))
        return pa.table({{"item": [1]}})
sweep = dataclasses.replace(sweep, conditions=[
    dataclasses.replace(condition, probes=[Trouble(), *condition.probes]) for condition in sweep.conditions
])
'''
STALL = 0.5
"""Minutes: an idle machine needs some seconds to load and begin, a busy one more."""


HANGS = "import time; time.sleep(3600)"
STUCK = f"trouble: no progress for {STALL} minutes (Resources.stall_minutes)"
TOO_LARGE = "import torch; torch.empty(1 << 48)"
MEMORY = "trouble: RuntimeError: "


def reasons(store: Path) -> list[str]:
    """Why attempts failed, the first line of each, sorted; once where several workers of one attempt say the same."""
    stored, found = Store(store), set()
    for row in Log.read(stored).rows(status="failed"):
        found.add((row["attempt"], row["trial"], row["start"], row["error"].splitlines()[0]))
    return sorted(reason for *_, reason in found)


@pytest.mark.parametrize(
    ("workers", "troubles", "failed"),
    [(1, {1: TOO_LARGE, 2: HANGS}, [MEMORY, STUCK]), (2, {1: HANGS}, [STUCK])],
    ids=["out of memory and hanging", "hanging on two workers"],
)
def test_a_probe_in_trouble_costs_its_own_rows_only(
    tmp_path: Path, workers: int, troubles: dict[int, str], failed: list[str]
) -> None:
    folder, store = tmp_path / "sweep", tmp_path / "store"
    settings: dict[str, Any] = {"lrs": (1e-3,), "workers": workers}
    more = TROUBLE.format(mended=str(folder / "mended"), troubles=troubles)
    script = sweep_script(folder, **settings, stall=STALL, more=more)
    process = command("run", script, "--store", store, "--address", "local")
    page, _ = process.communicate(timeout=600)
    print(page)
    whole = f"{3 - len(failed)} of 3 conditions complete"
    assert process.returncode == 1, page
    assert f"{whole}, {len(failed)} failed or skipped" in page and "Traceback" not in page
    assert all(page.count(f"failed: {why}") == failed.count(why) for why in failed)
    assert results(store) == 2 * 3 and len(rows(store, "trouble")) == 3 - len(failed)
    said = reasons(store)
    assert len(said) == len(failed) and all(map(str.startswith, said, failed)), said  # none was tried again
    status = command("status", "--store", store)
    page, _ = status.communicate(timeout=120)
    assert status.returncode == 1 and whole in page
    assert all(f"  1 failed: {why}" in page for why in failed)

    (folder / "mended").touch()
    assert finish(script, store) == (0, 2 * 3)
    assert len(rows(store, "trouble")) == 3
    if workers == 1:  # of two, whose groups take minutes to start, the drills of kills see that
        assert finish(sweep_script(folder, **settings), tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, 2 * 3)
        assert same(store, data(tmp_path / "undisturbed"))


def test_a_loss_that_is_no_number_is_an_outcome_and_not_tried_again(tmp_path: Path) -> None:
    script, store = sweep_script(tmp_path / "sweep", lrs=(1e-3, 1e30), snapshots=1), tmp_path / "store"

    def diverged() -> int:
        return sum(row["status"] == "diverged" for row in rows(store, "stages"))

    assert finish(script, store) == (1, 2 * 4)
    assert diverged() == 1
    attempts = len(rows(store, "stages"))
    assert finish(script, store) == (1, 2 * 4)  # nothing is trained, the outcome stands
    assert len(rows(store, "stages")) == attempts
    process = command("run", script, "--store", store, "--address", "local", "--retry-diverged")
    page, _ = process.communicate(timeout=600)
    assert process.returncode == 1 and "2 diverged (an outcome" in page
    assert diverged() == 2
    plain = sweep_script(tmp_path / "sweep", lrs=(1e-3,))
    assert finish(plain, tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, 2 * 3)
    only = data(tmp_path / "undisturbed")["training"]
    assert data(store)["training"].filter([lr == 1e-3 for lr in data(store)["training"]["lr"].to_pylist()]).equals(only)


SLOW = """
import time
from memexp.report.progress import Display

real = Display.__call__

def slow(self, progress):
    time.sleep(5)
    real(self, progress)

Display.__call__ = slow
"""
"""A driver that takes longer for a report than a worker group for its end, as on a busy machine."""


def test_a_group_that_ends_before_its_reports_are_heard(tmp_path: Path) -> None:
    """Where a thread beside the trial's reports to Tune as well, as with Ray's TuneReportCallback, this never ends."""
    script = sweep_script(tmp_path / "sweep", exposures=(0, 1, 2), lrs=(1e-3,), workers=2, more=SLOW)
    process = command("run", script, "--store", tmp_path / "store", "--address", "local")
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "3 of 3 conditions complete" in page, page
    assert set(re.findall("([0-9]) of 3 conditions, ", page)) >= {"1", "3"}, page  # all of them arrived
