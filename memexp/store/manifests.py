"""Which results belong to a sweep, as ``sweeps/`` has it."""

from __future__ import annotations

from typing import Any

from memexp.store import Store

__all__ = ["latest_manifests"]


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
