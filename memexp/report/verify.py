"""Whether every file of a store is whole and has the columns it should have.

memexp verify --store results
"""

from __future__ import annotations

import pyarrow as pa

from memexp.errors import StoreError
from memexp.probes import BY_KIND
from memexp.records import BARE, MADE_WITH, SETTINGS, SINCE, SINCE_STAGES, measured_by, misfit
from memexp.store import Store
from memexp.wording import amount

__all__ = ["complaint", "print_verification"]


def print_verification(store: Store) -> int:
    """Print a line for every broken file and one for all; returns the exit status."""
    found = store.verify(complaint)
    for problem in found.problems:
        print(f"{store.path(problem.kind, problem.name)}: {problem.message}")
    print(f"{amount(found.files, 'file')}, {amount(found.rows, 'row')}, {len(found.problems)} broken")
    return 1 if found.problems else 0


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
