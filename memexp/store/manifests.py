"""Which results belong to a sweep, as ``sweeps/`` has it: a file for every start of a sweep whose results changed."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from memexp.records import SWEEPS
from memexp.store.known import known_rows
from memexp.store.store import Store

__all__ = ["Manifest", "latest_manifests", "latest_of", "write_manifest"]


@dataclass(frozen=True)
class Manifest:
    """One result of a sweep: what of it ``sweeps/`` says."""

    kind: str
    name: str
    condition_id: str
    stage_id: str
    probe_id: str


def latest_manifests(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The rows of ``sweeps/`` by name of the sweep: those it was last started with, since scripts get edited.

    Raises StoreError naming a file that is not memexp's.
    """
    return latest_of(known_rows(store, "sweeps"))


def latest_of(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of rows of ``sweeps/`` those that each sweep was last started with, by its name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["started"]):
        last = found.setdefault(row["sweep"], [])
        if last and last[0]["started"] != row["started"]:
            last.clear()
        last.append(row)
    return found


def write_manifest(store: Store, sweep: str, results: Sequence[Manifest]) -> None:
    """Say which files hold a sweep's results, unless that is what was said last."""
    said = latest_manifests(store).get(sweep, [])
    if {(one.kind, one.name) for one in results} == {(row["kind"], row["name"]) for row in said}:
        return
    # The latest is the one that counts, also where the clock has been set back since.
    started = max([datetime.now(UTC), *(row["started"] + timedelta(microseconds=1) for row in said)])
    rows = [{"sweep": sweep, "started": started, **dataclasses.asdict(one)} for one in results]
    store.commit("sweeps", f"{sweep}-{uuid.uuid4().hex[:12]}", pa.Table.from_pylist(rows, schema=SWEEPS))
