"""Whether every file of a store is whole and has the columns it should have.

memexp verify --store results
"""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa

from memexp.errors import StoreError
from memexp.probes import BY_KIND
from memexp.records import BARE, MADE_WITH, SETTINGS, SINCE, SINCE_STAGES, measured_by, misfit
from memexp.store import Store
from memexp.store.manifests import latest_manifests
from memexp.wording import amount

__all__ = ["complaint", "print_verification"]

SHOWN = 3
"""Names of results that a line has."""


def print_verification(store: Store) -> int:
    """Print a line for every broken file and one for all; returns the exit status."""
    found = store.verify(complaint)
    for problem in found.problems:
        print(f"{store.path(problem.kind, problem.name)}: {problem.message}")
    print(f"{amount(found.files, 'file')}, {amount(found.rows, 'row')}, {len(found.problems)} broken")
    if not store.is_export() and not any(problem.kind == "sweeps" for problem in found.problems):
        _say_what_lacks(store)
    return 1 if found.problems else 0


def _say_what_lacks(store: Store) -> None:
    """A line for each sweep that lists results which are not there; they are no fault of the store's."""
    have = {kind: store.names(kind) for kind in store.kinds()}
    sweeps: dict[str, list[dict[str, Any]]] = {}
    with contextlib.suppress(StoreError):  # of a file that reads and says what no sweep says; `status` names it
        sweeps = latest_manifests(store)
    for sweep, rows in sorted(sweeps.items()):
        lacking = [f"{row['kind']}/{row['name']}" for row in rows if row["name"] not in have.get(row["kind"], ())]
        if lacking:
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            said = f"sweep {sweep} lists {len(rows)} results, of which {len(lacking)} are not in the store"
            print(f"{said}: {', '.join(sorted(lacking)[:SHOWN])}{more}; running it again makes them")


def complaint(kind: str, schema: pa.Schema) -> str | None:
    """What is wrong with the columns of a file, or None. Files of a user's own probes need the settings only."""
    if kind in BARE:
        return misfit(schema, BARE[kind], SINCE_STAGES if kind == "stages" else ())
    own = BY_KIND[kind].schema() if kind in BY_KIND else ()
    try:
        measured_by(schema)
    except StoreError as error:
        return str(error)
    return misfit(schema, [*SETTINGS, *MADE_WITH, *own], SINCE)
