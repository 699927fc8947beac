"""Where memexp's time goes in one part, in a process of its own, as `python -m benchmarks --profile PART` starts it.

    python -m benchmarks.profiled recall FOLDER OUT.json      # or recall@bfloat16

Two looks: Python's stack every 2 ms of CPU time, which costs next to nothing and names lines; torch's own profiler,
which names operations and makes small ones look dearer than they are.
"""

from __future__ import annotations

import json
import linecache
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import memexp
from benchmarks.material import Material
from benchmarks.ways import LR, Memexp, run, timed

INTERVAL = 0.002
SHOWN = 15
OWN = str(Path(memexp.__file__).parent)


def sampled(work: Callable[[], Any]) -> dict[str, Any]:
    """Shares of CPU time while `work` goes on: by the memexp line that is being executed, and by innermost function."""
    lines, functions = Counter[str](), Counter[str]()
    last = time.process_time()

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal last
        # Signals that come during one long call, a backward pass say, arrive as one when it is over.
        now = time.process_time()
        weight, last = int((now - last) * 1e9), now
        if frame is None:
            return
        functions[f"{_short(frame.f_code.co_filename)}: {frame.f_code.co_name}"] += weight
        at: FrameType | None = frame
        while at is not None and not at.f_code.co_filename.startswith(OWN):
            at = at.f_back
        if at is not None:
            # Between two lines there may be none.
            text = linecache.getline(at.f_code.co_filename, at.f_lineno or at.f_code.co_firstlineno).strip()
            lines[f"{_short(at.f_code.co_filename)}: {text}"] += weight

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    total = max(1, functions.total())
    return {
        name: [[where, spent / total] for where, spent in counter.most_common(SHOWN)]
        for name, counter in (("lines", lines), ("functions", functions))
    }


def operations(work: Callable[[], Any]) -> list[list[Any]]:
    """Name, share of all operations' own CPU time, and calls, of torch's operations while `work` goes on."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events) or 1
    return [[event.key, event.self_cpu_time_total / total, event.count] for event in events[:SHOWN]]


def _short(file: str) -> str:
    for root in ("site-packages/", f"{Path(OWN).parent}/", f"{Path(sys.prefix)}/", f"{Path(sys.base_prefix)}/"):
        _, found, rest = file.partition(root)
        if found:
            return rest
    return Path(file).name


def main() -> None:
    """Profile a part and write the tables."""
    asked, folder, out = sys.argv[1:]
    part, _, dtype = asked.partition("@")
    torch.set_num_threads(1)
    material = Material(Path(folder))
    way = Memexp(material.model if part == "study" else material.trained)
    way.lm.dtype = dtype or way.lm.dtype
    cpu, _, _ = timed(way, part, material)
    tables = sampled(lambda: run(way, part, material, lr=LR))
    tables["operations"] = operations(lambda: run(way, part, material, lr=LR))
    Path(out).write_text(json.dumps({"cpu": cpu, **tables}))


if __name__ == "__main__":
    main()
