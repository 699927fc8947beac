"""A process that hangs ends itself and says so first; one that works, however slowly, is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memexp.trial.watch import STUCK, allowed

SCRIPT = """
import sys, time
from memexp.trial.watch import Activity, watched
work, limit = [0], {seconds} / 60
activity = Activity(None, work=lambda: work[0])
with watched(limit, activity, lambda: print("stuck", flush=True)):
    for _ in range({rounds}):
        time.sleep({pause})
        work[0] += 1
print("done", flush=True)
"""


def run(seconds: float, pause: float, rounds: int) -> tuple[int, str]:
    script = SCRIPT.format(seconds=seconds, pause=pause, rounds=rounds)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout.strip()


@pytest.mark.parametrize(
    ("pause", "rounds", "expected"),
    [(30.0, 1, (STUCK, "stuck")), (0.25, 8, (0, "done"))],
    ids=["hangs", "works longer than the limit"],
)
def test_only_what_makes_no_progress_is_ended(pause: float, rounds: int, expected: tuple[int, str]) -> None:
    assert run(1.0, pause, rounds) == expected


def test_one_that_hangs_while_it_says_so_is_ended_all_the_same() -> None:
    script = SCRIPT.format(seconds=1.0, rounds=1, pause=30.0)
    script = script.replace("work, limit", "import memexp.trial.watch; memexp.trial.watch.RECORDING = 0.5\nwork, limit")
    script = script.replace('print("stuck", flush=True)', '(print("stuck", flush=True), time.sleep(30))')
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout.strip()) == (STUCK, "stuck")


def test_a_rank_waits_for_another_that_waits_for_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "240")
    assert allowed(5, ranks=2, is_local=False) == 5 + 4
    assert allowed(5, ranks=1, is_local=False) == allowed(5, ranks=2, is_local=True) == 5
    assert allowed(None, ranks=2, is_local=False) is None
