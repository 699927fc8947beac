"""How far each sweep of a store is: complete, running, failed and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from memexp.plan.attempts import Log
from memexp.plan.heartbeat import running
from memexp.search.ledger import progress_of
from memexp.store import Store
from memexp.store.known import known_rows
from memexp.store.manifests import latest_manifests
from memexp.wording import amount

__all__ = ["Status", "incomplete", "print_status", "status_of"]


@dataclass(frozen=True)
class Status:
    """How far the sweeps of a store are."""

    lines: tuple[str, ...]
    """A line for each sweep, and below it the reasons of its failures."""
    complete: bool
    """Whether every sweep is."""
    running: bool
    """Whether any is being executed."""


def print_status(store: Store) -> int:
    """Print a line per sweep and the reasons of its failures; 0 if every sweep is complete, else 1."""
    console = Console(markup=False, highlight=False, soft_wrap=True)  # paths and reasons stay as they are
    status = status_of(store)
    for line in status.lines:
        console.print(line)
    return 0 if status.complete else 1


def status_of(store: Store) -> Status:
    """Look at the store."""
    sweeps, searches = latest_manifests(store), _searches(store)
    if not sweeps and not searches:
        return Status((f"{store.location} holds no sweep",), complete=True, running=bool(running(store)))
    lines: list[str] = []
    have = {kind: store.names(kind) for kind in store.kinds()}
    log, signs, complete = Log.read(store), running(store), True
    for sweep in sorted(sweeps.keys() | searches.keys()):
        progress = _progress(sweeps.get(sweep, []), searches.get(sweep, {}), have, log)
        complete = complete and progress.complete
        line = f"{sweep}: {', '.join(progress.parts())} complete"
        for sign in signs.get(sweep, []):
            line += f", running (pid {sign['pid']} on {sign['host']})"
        lines.append(line)
        if len(progress.searches) > 1:
            for name, (count, trials) in progress.searches.items():
                if count < trials:
                    lines.append(f"  search {name}: {count} of {trials}")
        for (status, error), count in _reasons(log, progress.lacking).most_common(10):
            lines.append(f"  {count} {status}: {error}")
    return Status(tuple(lines), complete, bool(signs))


def incomplete(store: Store) -> list[str]:
    """The sweeps that lack something, as they were last started, sorted by name."""
    sweeps, searches = latest_manifests(store), _searches(store)
    have = {kind: store.names(kind) for kind in store.kinds()}
    log = Log.read(store)
    names = sorted(sweeps.keys() | searches.keys())
    return [name for name in names if not _progress(sweeps.get(name, []), searches.get(name, {}), have, log).complete]


@dataclass(frozen=True)
class _Progress:
    """How far one sweep is. Counts are pairs: how many are complete, and how many there are."""

    conditions: tuple[int, int]
    searches: dict[str, tuple[int, int]]
    """Suggestions, by name of the search."""
    lacking: set[tuple[str, str]]
    """Stage and probe of every measurement that is not there."""

    @property
    def complete(self) -> bool:
        return all(count == of for count, of in (self.conditions, *self.searches.values()))

    def parts(self) -> list[str]:
        """In words: of conditions and searches, those that the sweep has."""
        count, of = self.conditions
        conditions = [f"{count} of {amount(of, 'condition')}"] if of else []
        return [*conditions, progress_of(self.searches)] if self.searches else conditions


def _progress(
    asks: list[dict[str, Any]], searches: dict[str, list[dict[str, Any]]], have: dict[str, set[str]], log: Log
) -> _Progress:
    """Of a sweep with these rows of its manifest, and of ``searches/`` by name of the search."""
    lacking = [ask for ask in asks if ask["name"] not in have.get(ask["kind"], set())]
    conditions = {ask["condition_id"] for ask in asks}
    complete = conditions - {ask["condition_id"] for ask in lacking}
    measured = {(ask["stage_id"], ask["probe_id"]) for ask in lacking}
    counts: dict[str, tuple[int, int]] = {}
    for name, rows in searches.items():
        undone = _undone(rows, have, log)
        # The name of a file begins with what was measured: stage and probe.
        measured |= {(row["stage_id"], file.split("-")[1]) for row in undone for file in row["results"] if "-" in file}
        trials = max(rows, key=lambda row: row["suggested"])["trials"]
        done = {row["suggestion"] for row in rows if row["suggestion"] < trials}
        done -= {row["suggestion"] for row in undone}
        counts[name] = len(done), trials
    return _Progress((len(complete), len(conditions)), counts, measured)


def _searches(store: Store) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The rows of ``searches/`` by name of the sweep and of the search: of the search that was continued last."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in sorted(known_rows(store, "searches"), key=lambda row: row["suggested"]):
        rows = found.setdefault(row["sweep"], {}).setdefault(row["search"], [])
        rows.append(row)
    for searches in found.values():
        for rows in searches.values():
            rows[:] = [row for row in rows if row["search_id"] == rows[-1]["search_id"]]
    return found


def _undone(rows: list[dict[str, Any]], have: dict[str, set[str]], log: Log) -> list[dict[str, Any]]:
    """The conditions of a search without results, but for those of suggestions that were stopped or that diverged."""
    files = {f"{kind}/{name}" for kind, names in have.items() for name in names}
    lacking = [row for row in rows if not files.issuperset(row["results"])]
    over = log.stopped(rows[0]["search_id"])
    over |= {row["suggestion"] for row in lacking if (log.end(row["stage_id"]) or {}).get("status") == "diverged"}
    return [row for row in lacking if row["suggestion"] not in over]


def _reasons(log: Log, lacking: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Why results are lacking, by stage: it failed, or one before it if it was skipped, or else the measurement.

    `lacking` has stage and probe of each.
    """
    reasons: set[tuple[str, str, str]] = set()
    for stage, probe in lacking:
        row = log.end(stage)
        if row is None or row["status"] == "complete":
            row = log.last.get((stage, probe))
        if row is not None and row["status"] in ("failed", "diverged"):
            why = (row["error"] or "for no stated reason").splitlines()[0]
            reasons.add((stage, row["status"], why))
    return Counter((status, why) for _, status, why in reasons)
