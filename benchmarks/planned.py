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
    command = python("-m", "memexp.cli", "plan", "--json", script, "--store", folder / "results")
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise Failed(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    plan = json.loads(said)
    if (plan["conditions"], plan["stages"]) != (1_000 * seeds, 1_000 * seeds + 1):
        raise Unequal(f"planning: {plan['conditions']} conditions of {plan['stages']} stages")
    return Planned(plan, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
