"""What a sweep comes to, before anything is executed: the numbers of ``memexp plan``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp import plan as planning
from memexp.plan import Forest
from memexp.plan.inspection import sizes
from memexp.plan.memory import memory_per_worker
from memexp.search.candidates import Prepared
from memexp.search.ledger import Ledger
from memexp.spec import Resources
from memexp.store import Store

__all__ = ["Plan", "forests", "plan_of", "remarks"]


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
    models: tuple[Mapping[str, Any], ...]
    """For each base: model, method, parameters, workers, bytes per worker."""
    searches: tuple[Mapping[str, Any], ...] = ()
    """For each search: name, identity, trials, those of them that are through, and optimizer steps that the others
    come to at most."""
    remarks: tuple[str, ...] = ()
    """What to know before anything is trained: texts that interference shares with study or takes again, texts that are
    cut, come twice, or are their own foils."""

    def json(self) -> str:
        """One JSON object with these fields as keys."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def plan_of(forest: Forest, searches: Sequence[Prepared], store: Store) -> Plan:
    """The numbers of a sweep with these conditions and searches, on this machine, given what `store` has."""
    missing = planning.find_missing(forest, store)
    trials = planning.bundle(forest, missing.asks, _slots_here)
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
        models=_models(forests(forest, searches)),
        searches=tuple(_search(Ledger(search, store)) for search in searches),
        remarks=remarks(forests(forest, searches)),
    )


def forests(forest: Forest, searches: Sequence[Prepared]) -> list[Forest]:
    """The conditions' forest and those at the edges of the searches' spaces."""
    return [forest, *(edge.forest for search in searches for edge in search.edges)]


def remarks(forests: Sequence[Forest]) -> tuple[str, ...]:
    """What a user should know before anything is trained, a line each."""
    return tuple(dict.fromkeys(line for forest in forests for line in forest.remarks))


def _slots_here(resources: Resources) -> int:
    """What this machine's CPUs could hold at a time, for a plan made before any cluster is asked."""
    return max(1, int((os.cpu_count() or 1) / (resources.cpus * resources.workers)))


def _models(forests: Sequence[Forest]) -> tuple[Mapping[str, Any], ...]:
    """What `Plan.models` says of every base."""
    found = {base: (forest, forest.stages[base]) for forest in forests for base in forest.resources}
    inspected = sizes([stage.model for _, stage in found.values()])
    return tuple(
        {
            "model": stage.model.name,
            "method": type(stage.method).__name__.lower(),
            "parameters": inspected[stage.model.id].parameters,
            "workers": forest.resources[stage.id].workers,
            "bytes_per_worker": memory_per_worker(inspected[stage.model.id], stage.method, forest.resources[stage.id]),
        }
        for forest, stage in found.values()
    )


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
