"""How far each sweep of a store is: complete, running, failed and why."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from rich.console import Console

from memexp.store import Store

__all__ = ["latest_manifests", "print_status"]

SILENT_AFTER = 60.0
"""Seconds after which a sweep without a sign of life is taken for dead."""


def print_status(store: Store) -> int:
    """Print a line per sweep and the reasons of its failures; 0 if every sweep is complete, else 1."""
    console = Console(markup=False, highlight=False, soft_wrap=True)  # paths and reasons stay as they are
    sweeps = latest_manifests(store)
    if not sweeps:
        console.print(f"{store.location} holds no sweep")
        return 0
    have = {kind: store.names(kind) for kind in store.kinds()}
    attempts = store.scan("stages")
    ends = _last_attempts(attempts.to_pylist() if attempts is not None else [])
    running = _running(store)
    whole = True
    for sweep, asks in sorted(sweeps.items()):
        lacking = [ask for ask in asks if ask["name"] not in have.get(ask["kind"], set())]
        conditions = {ask["condition_id"] for ask in asks}
        open_conditions = {ask["condition_id"] for ask in lacking}
        whole = whole and not open_conditions
        line = f"{sweep}: {len(conditions) - len(open_conditions)} of {len(conditions)} conditions complete"
        for sign in running.get(sweep, []):
            line += f", running (pid {sign['pid']} on {sign['host']})"
        console.print(line)
        for (status, error), count in _reasons(ends, lacking).most_common(10):
            console.print(f"  {count} {status}: {error}")
    return 0 if whole else 1


def latest_manifests(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The rows of ``sweeps/`` by name of the sweep: those it was last started with, since scripts get edited."""
    table = store.scan("sweeps")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(table.to_pylist() if table is not None else [], key=lambda row: row["started"]):
        rows = found.setdefault(row["sweep"], [])
        if rows and rows[0]["started"] != row["started"]:
            rows.clear()
        rows.append(row)
    return found


Ends = dict[tuple[str, str | None], dict[str, Any]]
"""The latest row of each stage, and with the identity of a probe of what went wrong with its measurement."""


def _last_attempts(rows: list[dict[str, Any]]) -> Ends:
    """Without those whose numbers differ from stored ones, which is no state of a stage."""
    last: Ends = {}
    for row in sorted(rows, key=lambda row: row["finished"]):
        if row["status"] not in ("differs", "unsaved"):
            last[row["stage_id"], row["probe_id"]] = row
    return last


def _reasons(ends: Ends, lacking: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Why results are lacking, by stage: it failed, or one before it if it was skipped, or else the measurement."""
    reasons: set[tuple[str, str, str]] = set()
    for ask in lacking:
        row = ends.get((ask["stage_id"], None))
        while row is not None and row["status"] == "skipped" and (row["parent_id"], None) in ends:
            row = ends[row["parent_id"], None]
        if row is None or row["status"] == "complete":
            row = ends.get((ask["stage_id"], ask["probe_id"]))
        if row is not None and row["status"] in ("failed", "diverged"):
            why = (row["error"] or "for no stated reason").splitlines()[0]
            reasons.add((ask["stage_id"], row["status"], why))
    return Counter((status, why) for _, status, why in reasons)


def _running(store: Store) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in store.list_text(".running/"):
        text = store.get_text(path)
        if text is None:
            continue
        try:
            sign = json.loads(text)
            alive = time.time() - sign["time"] < SILENT_AFTER
            if alive:
                found.setdefault(sign["sweep"], []).append(sign)
        except (ValueError, TypeError, KeyError):  # not one of ours
            continue
    return found
