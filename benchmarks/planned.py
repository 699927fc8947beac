"""What it takes to plan a large sweep: `memexp plan` of 100,000 conditions, in a process of its own.

cost = planned(folder, pairs=3)
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import ENVIRONMENT, Failed, python
from benchmarks.equality import Unequal

__all__ = ["SEEDS", "Planned", "planned"]

SEEDS = 100
SCRIPT = """\
from memexp import *
pair = Pair(ShippedText("sentences-targets"), ShippedText("sentences-foils"))
sweep = Sweep(name="large", conditions=[
    Condition(Model("tiny-s"), Study(pair.targets, exposures=exposures, lr=(i + 1) * 1e-6, batch_size=16),
              seed=seed, probes=[Recognition(pair), Recall()])
    for i in range(100) for exposures in range(1, 11) for seed in range({seeds})])
if __name__ == "__main__":
    sweep.main()
"""
MEASURED = """\
import pathlib, re, sys
from memexp.cli import main
out = pathlib.Path(sys.argv.pop(1))
try:
    sys.exit(main(sys.argv[1:]))
finally:
    out.write_text(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""`memexp`, which leaves its peak in KiB: rusage has that of the process that started it, where that is larger."""


@dataclass(frozen=True)
class Planned:
    """One plan."""

    plan: Mapping[str, Any]
    cpu: float
    """CPU seconds of the whole command, user and system."""
    mib: float
    """MiB that its process had at most."""


def planned(folder: Path, seeds: int = SEEDS) -> Planned:
    """The plan of 100 learning rates, 10 numbers of exposures and so many seeds.

    Raises Unequal where conditions do not share their exposures.
    """
    script = folder / "large.py"
    script.write_text(SCRIPT.format(seeds=seeds))
    command = python("-c", MEASURED, folder / "peak", "plan", "--json", script, "--store", folder / "results")
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise Failed(f"memexp plan {script} ended with {os.waitstatus_to_exitcode(status)}")
    plan, peak = json.loads(said), int((folder / "peak").read_text())
    if (plan["conditions"], plan["stages"]) != (1_000 * seeds, 1_000 * seeds + 1):
        raise Unequal(f"planning: {plan['conditions']} conditions of {plan['stages']} stages")
    return Planned(plan, usage.ru_utime + usage.ru_stime, peak / 1024)
