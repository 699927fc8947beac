"""Whether what is left of a sweep is executed in this process, since starting Ray for it takes longer.

    way = way_of(work)
    way.here, way.why

The rows are the same both ways. What could take this process with it, or needs more than it has, is Ray's in any case:
probes of the user's own, worker groups, GPUs, and whatever an earlier process died of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memexp import plan as planning
from memexp.driver.work import Work
from memexp.plan import Forest, Trial
from memexp.plan.attempts import Log
from memexp.plan.devices import DEVICES
from memexp.plan.heartbeat import died
from memexp.plan.inspection import Inspection, sizes
from memexp.plan.outlay import hours, seconds_per_token, work_of
from memexp.probes.lm_eval import LmEval
from memexp.spec import Probe, probes_within, written_by_user
from memexp.wording import span

__all__ = ["RAY_START", "Way", "way_of"]

RAY_START = 10.0
"""Seconds that the first trial begins later where Ray is started for it: 10 to 13 were measured on two cores. On one of
several that work side by side a sweep ends no later here than there if it takes up to twice as long."""
AROUND = 0.02
"""Seconds that a stage or a measurement takes however small it is: a file is written, durably."""


@dataclass(frozen=True)
class Way:
    """Where a sweep is executed."""

    here: bool
    """Whether in this process."""
    why: str
    """A part of a line."""


def way_of(
    work: Work,
    cluster: str | None = None,
    log: Log | None = None,
    known: Mapping[str, Inspection] | None = None,
    trials: Sequence[Trial] | None = None,
) -> Way:
    """Where `work` is executed when nobody said so.

    Args:
        work: what is left to do.
        cluster: why a cluster is to execute it in any case, such as that its address was given.
        log: ``stages/`` of its store, where it has been read already.
        known: what its models are like, where they have been looked at, by identity.
        trials: those of its conditions, where they have been made, however many there are at a time.

    Raises ModelError where a model cannot be inspected.
    """
    against = cluster or next(_against(work), None)
    if against is not None:
        return Way(False, against)
    if known is None:
        known = sizes([model for _, models in work.models for model in models])
    trials = planning.bundle(work.forest, work.missing.asks, lambda _: 1) if trials is None else trials
    seconds = _seconds(work, known, None, trials)
    if seconds[0] < RAY_START:  # to read the log takes a request for every file, in a bucket
        seconds = _seconds(work, known, log or Log.read(work.store), trials)
    least, most = seconds
    if most >= RAY_START:
        return Way(False, f"{_told(least)} to {_told(most)} of work, and Ray starts in about {RAY_START:.0f} s")
    return Way(True, f"up to {_told(most)} of work, and starting Ray takes longer")


def _told(seconds: float) -> str:
    return span(max(seconds, 1))


def _against(work: Work) -> Iterator[str]:
    """What speaks for Ray, but for the time."""
    needs = work.needs
    if any(one.workers > 1 for one in needs):
        yield "trials of several workers"
    if any(one.gpus for one in needs):
        yield "trials on GPUs"
    if any(one.cpus > (os.cpu_count() or 1) for one in needs):
        yield "trials of more CPUs than there are here"
    if any(ledger.prepared.search.concurrent != 1 for ledger in work.searches):
        yield "a search that tries several suggestions at a time"
    probes = {id(ask.probe): ask.probe for forest in (work.forest, *_edges(work)) for ask in forest.asks}
    own = next((name for probe in probes.values() if (name := _own(probe))), None)
    if own is not None:
        yield f"{own} executes code of your own"
    if "torch" in sys.modules and "memexp.trial.base" not in sys.modules:
        yield "the script has loaded torch, whose settings may be others"
    if died(work.store, work.sweep):
        yield "an earlier process that executed it was killed"


def _edges(work: Work) -> list[Forest]:
    return [edge.forest for ledger in work.searches for edge in ledger.prepared.edges]


def _own(probe: Probe) -> str | None:
    """The name of a class that executes what a user wrote: of a probe, or of one within it."""
    for one in probes_within(probe):
        if written_by_user(type(one)) or (isinstance(one, LmEval) and one.include_path is not None):
            return type(one).__name__
    return None


def _seconds(
    work: Work, known: Mapping[str, Inspection], log: Log | None, bundled: Sequence[Trial]
) -> tuple[float, float]:
    """At least and at most; a search as many times its longest suggestion as it has left."""
    least = most = 0.0
    parts: list[tuple[Forest, Sequence[Trial], int]] = [(work.forest, bundled, 1)]
    for ledger in work.searches:
        search, edges = ledger.prepared.search, [edge.forest for edge in ledger.prepared.edges]
        longest = max(edges, key=lambda forest: forest.steps)
        parts.append((longest, [planning.whole(longest, longest.asks)], search.trials - ledger.done))
    for forest, trials, times in parts:
        for base in dict.fromkeys(trial.base.id for trial in trials):
            low, high = _of_base(forest, base, trials, known, log)
            least, most = least + times * low, most + times * high
    return least, most


def _of_base(
    forest: Forest, base: str, trials: Sequence[Trial], known: Mapping[str, Inspection], log: Log | None
) -> tuple[float, float]:
    stage = forest.base(base)
    per_token = None if log is None else seconds_per_token(log, stage.model.name, "cpu")
    size, resources = known[stage.model.id], forest.resources[base]
    low, _, high = hours(work_of(base, trials), size, stage, resources, DEVICES["cpu"], per_token)
    mine = [trial for trial in trials if trial.base.id == base]
    around = AROUND * sum(1 + len(trial.stages) + len(trial.asks) for trial in mine)
    return 3600 * low + around, 3600 * high + around
