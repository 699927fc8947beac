"""What probes on the way cost a long trajectory, in a process of its own, as the part "retention" starts it.

    python -m benchmarks.retained twelve 1000 80 FOLDER OUT.json

tiny-m studies 80 shipped sentences once and goes on with unrelated ones. FOLDER is not looked at: material and settings
ship with memexp.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memexp import Condition, Interference, Model, Pair, Recall, Recognition, ShippedText, Snapshots, Study
from memexp.core.processes import World
from memexp.plan import Trial, grow
from memexp.plan.attempts import Attempt
from memexp.spec import Probe
from memexp.store import Store
from memexp.trial.base import WarmBase
from memexp.trial.execute import execute

__all__ = ["main", "stops"]

PROBES = 12


def stops(way: str, steps: int) -> list[int]:
    """The retention intervals of a way: the last alone, or twelve, evenly spaced on a log scale."""
    if way == "one":
        return [steps]
    spaced: list[int] = []
    for i in range(PROBES):
        spaced.append(max(spaced[-1] + 1 if spaced else 1, round(steps ** (i / (PROBES - 1)))))
    return spaced


def trial(way: str, steps: int, items: int) -> Trial:
    """The trajectory with its probes."""
    pair = Pair(ShippedText("sentences-targets", first=items), ShippedText("sentences-foils", first=items))
    conditions = [
        Condition(
            Model("tiny-m"),
            Study(pair.targets, exposures=1, lr=1e-3, batch_size=4),
            probes=[Recognition(pair), Recall()],
            interference=Interference(ShippedText("sentences-interference"), steps=after, lr=1e-3),
        )
        for after in stops(way, steps)
    ]
    forest = grow(conditions)
    base, *others = forest.stages.values()
    snapshots = Snapshots(minutes=None, steps=max(1, steps // 10) if way == "snapshots" else None)
    return Trial(base, others, forest.asks, forest.resources[base.id], forest.texts, snapshots=snapshots)


@contextmanager
def probes_timed() -> Iterator[list[float]]:
    """CPU seconds of every measurement made in the context."""
    spent: list[float] = []

    def timed(measure: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Probe, *arguments: Any) -> Any:
            began = time.process_time()
            try:
                return measure(self, *arguments)
            finally:
                spent.append(time.process_time() - began)

        return wrapped

    plain = {kind: kind.measure for kind in (Recognition, Recall)}
    for kind, measure in plain.items():
        kind.measure = timed(measure)  # type: ignore[method-assign] # for the time of the context
    try:
        yield spent
    finally:
        for kind, measure in plain.items():
            kind.measure = measure  # type: ignore[method-assign]


def main() -> None:
    """Execute it; write CPU seconds with and without the probes' own, and the rows of the last interval."""
    way, steps, items, _, out = sys.argv[1:]
    work, world = trial(way, int(steps), int(items)), World.current()
    base = WarmBase()
    base.get(work.base, work.resources, world)  # loaded, and kept for the trial
    with tempfile.TemporaryDirectory() as folder, probes_timed() as spent:
        store = Store(folder)
        began = time.process_time()
        failures = execute(dataclasses.replace(work), store, world, Attempt("benchmark", way), base=base)
        cpu = time.process_time() - began
        if failures:
            raise SystemExit(failures[0])
        rows = store.scan("recognition")
        assert rows is not None  # nothing failed
        last = [row for row in rows.to_pylist() if row["retention_steps"] == int(steps)]
    result = [[row["target_nll"], row["foil_nll"]] for row in sorted(last, key=lambda row: row["item"])]
    Path(out).write_text(json.dumps({"cpu": cpu, "probes": sum(spent), "measured": len(spent), "result": result}))


if __name__ == "__main__":
    main()
