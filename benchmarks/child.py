"""A command in a process of its own: one thread, offline, with what it cost.

cost = execute([sys.executable, "-m", "benchmarks.timed", ...])
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENT", "Cost", "Failed", "execute", "python"]

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""The same for every way, and for the process that prepares what they work on."""


class Failed(Exception):
    """A process ended with an error."""


@dataclass(frozen=True)
class Cost:
    """What a process cost, from its start to its end."""

    cpu: float
    """CPU seconds, user and system, its own children included."""
    wall: float
    """Seconds."""
    began: float
    """Time of its start, in seconds since the epoch."""


def python(*arguments: object) -> list[str]:
    """A command that runs this interpreter."""
    return [sys.executable, *map(str, arguments)]


def execute(command: Sequence[str], extra: Mapping[str, str] | None = None) -> Cost:
    """Wait for `command`, run from the repository's root. Raises Failed with the last of what it said."""
    with tempfile.TemporaryFile() as said:
        began, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **ENVIRONMENT, **(extra or {})}, stdout=said, stderr=said
        )
        try:
            _, status, used = os.wait4(process.pid, 0)  # only this tells what a single child used
        except BaseException:
            process.terminate()
            raise
        wall = time.perf_counter() - clock
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-15:]
            raise Failed("\n".join([f"{' '.join(command[1:])} ended with {process.returncode}:", *last]))
    return Cost(used.ru_utime + used.ru_stime, wall, began)
