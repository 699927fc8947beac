"""What a sweep comes to, before anything is executed: the numbers of ``memexp plan``."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp import plan as planning
from memexp.driver.short import way_of
from memexp.driver.work import Work
from memexp.errors import SpecError
from memexp.plan import Forest, Missing, Stage, TrainingStage, Trial
from memexp.plan.attempts import Log
from memexp.plan.devices import DEVICES
from memexp.plan.forest import BaseStage
from memexp.plan.inspection import Inspection, sizes
from memexp.plan.memory import Need, fewest, memory_per_worker, needed
from memexp.plan.outlay import hours, load_of, seconds_per_token, work_alone, work_of
from memexp.plan.uncollected import uncollected
from memexp.report.purchase import model_rows
from memexp.search.candidates import Prepared
from memexp.search.ledger import Ledger
from memexp.spec import Resources, Snapshots
from memexp.store import Store, snapshots
from memexp.store.snapshots import Marks
from memexp.wording import amount, noun

__all__ = ["Plan", "Purchase", "forests", "plan_of", "remarks"]


@dataclass(frozen=True)
class Plan:
    """What a sweep comes to, and what of it the store has."""

    conditions: int
    """Distinct conditions."""
    stages: int
    """Stages of the whole forest, bases included."""
    steps: int
    """Optimizer steps of the whole forest."""
    steps_unshared: int
    """Optimizer steps if every condition were trained by itself."""
    stored: int
    """Conditions whose every result is in the store."""
    trials: int
    """Trials that would be executed now."""
    steps_missing: int
    """Optimizer steps that would be made now."""
    copies: int
    """Results that would be copied from other conditions' files."""
    diverged: int
    """Conditions not to be had: their training diverged (repeated with ``--retry-diverged``)."""
    here: bool | None
    """Whether `run` would execute that in this process, since Ray takes longer to start; None where nothing is left."""
    way: str
    """Why there."""
    models: tuple[Mapping[str, Any], ...]
    """For each base: model, method, dtype, parameters and workers; bytes of a worker's weights, gradients and moments;
    bytes at the peak of a worker, of what, and of a host with all of them; bytes of a worker that keeps sharded weights
    gathered for recall, where it has so much; hours of one device: likely, from least to most, and the same if every
    condition were trained by itself; where it is asked for, what they cost, and the smallest number of workers that
    fits so much memory."""
    searches: tuple[Mapping[str, Any], ...] = ()
    """For each search: name, identity, trials, those of them that are through, and optimizer steps that the others
    come to at most."""
    remarks: tuple[str, ...] = ()
    """What to know before anything is trained: texts that interference shares with study or takes again, texts that are
    cut, come twice, or are their own foils."""

    def json(self) -> str:
        """One JSON object with these fields as keys."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def rows(self) -> list[tuple[str, str, str]]:
        """As people read it: what, how much, and what is to be said of it."""
        rows = []
        if self.conditions:
            saved = f"{self.steps_unshared} if every condition were trained by itself"
            left = f"{amount(self.steps_missing, 'step')}, {amount(self.copies, 'result')} to copy"
            rows += [
                ("conditions", f"{self.conditions}", f"{self.stored} of them in the store"),
                ("stages", f"{self.stages}", ""),
                ("optimizer steps", f"{self.steps}", saved),
                ("to do", amount(self.trials, "trial"), left),
            ]
        for search in self.searches:
            left = f"{search['stored']} in the store, others at most {amount(search['steps_at_most'], 'step')}"
            rows.append((f"search {search['search']}", amount(search["trials"], "suggestion"), left))
        if self.diverged:
            again = noun(self.diverged, "condition") + "; --retry-diverged trains again"
            rows.append(("diverged", f"{self.diverged}", again))
        if self.here is not None:
            how = ("in this process", f"{self.way}; --ray starts it") if self.here else ("by Ray", self.way)
            rows.append(("executed", *how))
        return rows + model_rows(self.models)

    def _repr_html_(self) -> str:
        """For notebooks."""
        cells = (f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.remarks)
        return f"<table><tbody>{''.join(cells)}</tbody></table>{said}"


@dataclass(frozen=True)
class Purchase:
    """What a plan is asked to decide."""

    memory: float | None = None
    """GB of a device."""
    price: float | None = None
    """Of a device for an hour."""
    device: str | None = None
    """A key of `memexp.plan.devices.DEVICES`; by default an H100 where GPUs are asked for."""

    def __post_init__(self) -> None:
        for name, value in (("--memory", self.memory), ("--price", self.price)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpecError(f"{name} must be a number above 0, got {value:g}")
        if self.device is not None and self.device not in DEVICES:
            raise SpecError(f"--device: {self.device!r} is not known; known are {', '.join(DEVICES)}")


@uncollected
def plan_of(
    sweep: str,
    forest: Forest,
    searches: Sequence[Prepared],
    store: Store,
    purchase: Purchase = Purchase(),
    cluster: str | None = None,
) -> Plan:
    """The numbers of a sweep with these conditions and searches, on this machine, given what `store` has.

    `cluster` says why it is executed by a cluster however short it is.
    """
    missing, log = planning.find_missing(forest, store), Log.read(store)
    ledgers = [Ledger(search, store) for search in searches]
    work = Work(sweep, forest, missing, ledgers, store, Snapshots())
    inspections = sizes([one.base(base).model for one in forests(forest, searches) for base in one.resources])
    trials = planning.bundle(forest, missing.asks, _slots_here)
    way = way_of(work, cluster, log, inspections, trials) if work.left else None
    return Plan(
        conditions=forest.conditions,
        stages=len(forest.stages),
        steps=forest.steps,
        steps_unshared=forest.steps_unshared,
        stored=forest.conditions - missing.conditions,
        trials=len(trials),
        steps_missing=sum(trial.steps for trial in trials),
        copies=len(missing.copies),
        diverged=len({ask.condition_id for ask in missing.diverged}),
        here=way.here if way else None,
        way=way.why if way else "",
        models=_models(forests(forest, searches), trials, inspections, log, purchase),
        searches=tuple(_search(ledger) for ledger in ledgers),
        remarks=(*remarks(forest, searches), *_made_before(forest, missing, store)),
    )


def forests(forest: Forest, searches: Sequence[Prepared]) -> list[Forest]:
    """The conditions' forest and those at the edges of the searches' spaces."""
    return [forest, *(edge.forest for search in searches for edge in search.edges)]


def remarks(forest: Forest, searches: Sequence[Prepared]) -> tuple[str, ...]:
    """What a user should know before anything is trained, a line each."""
    lines = [line for one in forests(forest, searches) for line in one.remarks]
    for prepared in searches:
        asked = max(one.most_lanes for edge in prepared.edges for one in edge.forest.resources.values())
        if asked > 1 and prepared.search.stopping is not None:
            lines.append(
                f"search {prepared.search.name}: a rule may stop any of its suggestions, so each is tried by itself, "
                "in one lane; without Search.stopping several are tried in one pass"
            )
    return tuple(dict.fromkeys(lines))


def _made_before(forest: Forest, missing: Missing, store: Store) -> Iterator[str]:
    """A line where steps will be made that were made before: what they led to is in the store, weights are not."""
    if not missing.asks:
        return
    measured = {name.split("-")[0] for kind in {ask.kind for ask in forest.asks} for name in store.names(kind)}
    if not measured:
        return
    marks = snapshots.find(store)
    again: dict[str, int] = {}
    for ask in missing.asks:
        path = forest.path(ask.stage)
        last = max((at for at, stage in enumerate(path) if stage.steps and stage.id in measured), default=-1)
        while last >= 0 and not _saved(path[last], marks):
            again[path[last].id] = path[last].steps
            last -= 1
    if steps := sum(again.values()):
        yield (
            f"{steps} of the steps to do were made before: what goes on from there is trained again from its "
            "beginning, since weights are not kept; Sweep(snapshots=Snapshots(keep=True)) keeps them from now on"
        )


def _saved(stage: Stage, marks: Marks) -> bool:
    return isinstance(stage, TrainingStage) and bool(marks.of(stage.trajectory, stage.first_step, stage.last_step))


def _slots_here(resources: Resources) -> int:
    """What this machine's CPUs could hold at a time, for a plan made before any cluster is asked."""
    return max(1, int((os.cpu_count() or 1) / (resources.cpus * resources.workers)))


def _models(
    forests: Sequence[Forest],
    trials: Sequence[Trial],
    inspections: Mapping[str, Inspection],
    log: Log,
    purchase: Purchase,
) -> tuple[Mapping[str, Any], ...]:
    """What `Plan.models` says of every base."""
    found = {base: (forest, forest.base(base)) for forest in forests for base in forest.resources}
    return tuple(
        _model(forest, stage, inspections[stage.model.id], trials, log, purchase) for forest, stage in found.values()
    )


def _model(
    forest: Forest, stage: BaseStage, inspection: Inspection, trials: Sequence[Trial], log: Log, purchase: Purchase
) -> Mapping[str, Any]:
    resources, load = forest.resources[stage.id], load_of(forest, stage.id)

    def need(workers: int) -> Need:
        lanes = resources.lanes if workers == 1 or resources.lanes == "auto" else 1
        like = dataclasses.replace(resources, workers=workers, lanes=lanes)
        return needed(inspection, stage.method, stage.dtype, like, load)

    now = need(resources.workers)
    told: dict[str, Any] = {
        "model": stage.model.name,
        "method": type(stage.method).__name__.lower(),
        "dtype": stage.dtype,
        "parameters": inspection.parameters,
        "workers": resources.workers,
        "bytes_per_worker": memory_per_worker(inspection, stage.method, resources, load.moments),
        "peak_bytes_per_worker": now.worker,
        "peak_bytes_per_host": now.host,
        "recall_bytes_per_worker": now.together,
        "peak_parts": {**now.parts, "forks and base": now.copies, "process": now.process + now.host_process},
        **_time(stage, inspection, resources, trials, log, purchase),
    }
    if purchase.memory is not None:
        told["workers_that_fit"] = fewest(need, 1e9 * purchase.memory)
    return told


def _time(
    stage: BaseStage,
    inspection: Inspection,
    resources: Resources,
    trials: Sequence[Trial],
    log: Log,
    purchase: Purchase,
) -> dict[str, Any]:
    """What `Plan.models` says of time, and of money where a price is known."""
    device = purchase.device or ("h100" if resources.gpus else "cpu")
    per_token = seconds_per_token(log, stage.model.name, device)
    (least, likely, most), alone = (
        hours(work(stage.id, trials), inspection, stage, resources, DEVICES[device], per_token)
        for work in (work_of, work_alone)
    )
    told: dict[str, Any] = {
        "device": device,
        "device_hours": likely,
        "device_hours_range": [least, most],
        "device_hours_unshared": alone[1],
        "device_hours_unshared_range": [alone[0], alone[2]],
        "measured": per_token is not None,
    }
    if purchase.price is not None:
        told |= {"price": likely * purchase.price, "price_range": [least * purchase.price, most * purchase.price]}
        told["price_unshared"] = alone[1] * purchase.price
    return told


def _search(ledger: Ledger) -> Mapping[str, Any]:
    """What `Plan.searches` says of a search."""
    search, done = ledger.prepared.search, ledger.done
    return {
        "search": search.name,
        "search_id": ledger.prepared.id,
        "trials": search.trials,
        "stored": done,
        "steps_at_most": (search.trials - done) * ledger.prepared.steps,
    }
