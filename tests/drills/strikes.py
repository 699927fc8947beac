"""What the drills of whole sweeps share: a small grid, faults that strike at an exact moment, the command again.

with held(script, store, Fault("os:link", path="/recall/")) as struck:
    struck.process.kill()
assert finish(script, store) == (0, FILES)

Imported as `drills.strikes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from support import command, data, sweep_script

from memexp.store import Store
from memexp.store.snapshots import find

__all__ = [
    "FILES",
    "FORTY",
    "ON_RAY",
    "RECOVERIES",
    "WITHOUT_RAY",
    "Fault",
    "Struck",
    "finish",
    "grid",
    "held",
    "kill",
    "marked",
    "results",
    "rows",
    "same",
    "steps_made",
    "under_fault",
    "until",
]

GRID: dict[str, Any] = {"exposures": (0, 2), "lrs": (1e-3, 3e-3), "stops": (None, 20, 70), "items": 40}
"""Two trajectories of 20 steps of study and 70 of interference, and one of interference alone."""
FILES = 2 * 2 * 3 * 2
"""Results of the grid: two probes of each condition."""
EVERY = 10
"""Steps between two snapshots."""
RECOVERIES: list[tuple[str, float, float]] = []
"""What was recovered from, seconds from the second command to its first new result, and to its end."""
PATIENCE = 600
"""Seconds for a command on a busy machine."""


@dataclass(frozen=True)
class Fault:
    """A moment in a process of a command, and what happens then; see faults/sitecustomize.py."""

    at: str
    """A function, as ``module:name``."""
    path: str = ""
    """Only calls with an argument that has this in it count."""
    nth: int = 1
    """Which of a process's calls it is."""
    after: bool = False
    """After the call and not before it."""
    act: str = "wait"
    """``wait`` until the drill lets the process go on, or ``kill``: the process itself, with -9."""
    times: int = 1
    """How often it strikes at most, over all processes."""


FORTY = Fault("os:replace", path="000000040.json", after=True)
"""A snapshot after 40 steps of interference has just been published."""


def grid(folder: Path, **settings: Any) -> Path:
    """The script of the grid, with snapshots."""
    return sweep_script(folder, **{**GRID, "snapshots": EVERY, **settings})


def results(store: Path | str) -> int:
    """Result files there are."""
    return sum(len(Store(store).names(kind)) for kind in ("recognition", "recall"))


def rows(store: Path | str, kind: str) -> list[dict[str, Any]]:
    """All rows of a kind."""
    table = Store(store).scan(kind)
    return [] if table is None else table.to_pylist()


def steps_made(store: Path, kind: str) -> list[int]:
    """The optimizer steps of every complete stage of a kind, sorted: after a recovery those since the snapshot only."""
    return sorted(row["steps"] for row in rows(store, "stages") if (row["kind"], row["status"]) == (kind, "complete"))


def same(store: Path | str, undisturbed: dict[str, pa.Table]) -> bool:
    """Whether every data column of every row is the same; nothing is missing, doubled, broken or left behind."""
    found = data(store)
    assert not Store(store).verify().problems
    assert not find(Store(store)).trajectories, "snapshots that nothing needs"
    return all(found[kind].equals(undisturbed[kind]) for kind in undisturbed)


ON_RAY = ("--address", "local")
"""How a sweep is executed: on a Ray of this machine, where a drill is about that."""
WITHOUT_RAY = ("--local",)
"""Or in the process of the command, where it is about the store and snapshots: half the time."""


def finish(
    script: Path,
    store: Path,
    after: str = "",
    prefix: Sequence[str] = (),
    seen: Path | None = None,
    where: Sequence[str] = ON_RAY,
) -> tuple[int, int]:
    """Give the command and wait: its exit status, and the number of result files afterwards.

    Args:
        script: the sweep.
        store: where to.
        after: what this is the recovery from, to be timed.
        prefix: another command that executes it.
        seen: the store as the test sees it, where that is another path.
        where: `ON_RAY` or `WITHOUT_RAY`.
    """
    seen = seen or store
    before, began, first = results(seen), time.monotonic(), None
    process = command("run", script, "--store", store, *where, prefix=prefix)
    while process.poll() is None:
        assert time.monotonic() - began < PATIENCE, "the command hangs"
        if first is None and results(seen) > before:
            first = time.monotonic()
        time.sleep(0.05)
    page, _ = process.communicate()
    print(page)
    if after:
        RECOVERIES.append((after, (first or time.monotonic()) - began, time.monotonic() - began))
    return process.returncode, results(seen)


def until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def marked(mark: str, title: str = "") -> list[psutil.Process]:
    """The processes of one command whose title begins with `title`; nobody else's carry its mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MEMEXP_DRILL") == mark and process.cmdline()[:1][0].startswith(title):
                found.append(process)
    return found


@dataclass(frozen=True)
class Struck:
    """A command in which a fault strikes."""

    process: subprocess.Popen[str]
    mark: str
    """What its processes carry in their environment."""
    folder: Path
    """Where the fault leaves a file for every strike."""

    @property
    def pids(self) -> list[int]:
        """The processes that were struck."""
        return [int(path.read_text()) for path in sorted(self.folder.glob("struck-*"))]

    def release(self) -> None:
        """Let what waits go on, and what is to come not wait."""
        (self.folder / "go").touch()

    def ended(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for the command: its exit status and what it said."""
        page, _ = self.process.communicate(timeout=seconds)
        print(page)
        return self.process.returncode, page


@contextlib.contextmanager
def under_fault(
    script: Path, store: Path, fault: Fault, prefix: Sequence[str] = (), where: Sequence[str] = ON_RAY
) -> Iterator[Struck]:
    """The command under way, with a fault to come; whatever is left of it afterwards is killed."""
    mark = uuid.uuid4().hex
    folder = script.parent / f"fault-{mark}"
    folder.mkdir()
    environment = {
        "MEMEXP_DRILL": mark,
        "MEMEXP_FAULT": json.dumps(dataclasses.asdict(fault) | {"folder": str(folder)}),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "faults"), os.environ.get("PYTHONPATH", "")]),
    }
    process = command("run", script, "--store", store, *where, prefix=prefix, **environment)
    try:
        yield Struck(process, mark, folder)
    finally:
        kill(mark)
        process.communicate(timeout=60)


@contextlib.contextmanager
def held(
    script: Path, store: Path, fault: Fault = FORTY, prefix: Sequence[str] = (), where: Sequence[str] = ON_RAY
) -> Iterator[Struck]:
    """The command with one of its processes held where the fault says; the others go on."""
    with under_fault(script, store, fault, prefix, where) as struck:
        until(lambda: struck.pids or struck.process.poll() is not None)
        assert struck.process.poll() is None, struck.ended()
        yield struck


def kill(mark: str) -> None:
    """As when the power fails: everything of a command at once."""
    while left := marked(mark):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(left, timeout=10)
