"""Which results the sweeps of a store refer to, as they were last started; and which of the others are memexp's own.

    known = references(store)
    known.unlisted("recognition", store.names("recognition"))    # of sweeps that were edited, or of none

What was imported, and what other tools have put into the store, belongs to no sweep and is never among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memexp.store.known import known_rows
from memexp.store.manifests import latest_of
from memexp.store.store import Store

__all__ = ["References", "references"]

_RESULT = re.compile(r"([0-9a-f]{16})-[0-9a-f]{16}-([0-9a-f]{16})")
"""What was measured, and who asked. Of imported results both are the same (memexp/exchange/llm_memory.py)."""


@dataclass(frozen=True)
class References:
    """What ``sweeps/`` and ``searches/`` say of results, as ``kind/name``."""

    sweeps: frozenset[str]
    """The names of all sweeps and of those with searches."""
    latest: frozenset[str]
    """What a sweep or search lists as it was last started."""
    earlier: Mapping[str, str]
    """What an earlier start listed and no last one does: the sweep's name."""
    stages: frozenset[str]
    """The stages after which what is in `latest` is measured."""

    def unlisted(self, kind: str, names: Iterable[str]) -> dict[str, str | None]:
        """Of these results those that are not in `latest`, each with the sweep that listed it earlier, if one did."""
        found: dict[str, str | None] = {}
        for name in names:
            match = _RESULT.fullmatch(name)
            if match and match[1] != match[2] and f"{kind}/{name}" not in self.latest:
                found[name] = self.earlier.get(f"{kind}/{name}")
        return found


def references(store: Store) -> References:
    """What the sweeps of `store` refer to. Raises StoreError naming a file that is not memexp's."""
    sweeps, searches = known_rows(store, "sweeps"), known_rows(store, "searches")
    last = [row for rows in latest_of(sweeps).values() for row in rows]
    newest = {
        (row["sweep"], row["search"]): row["search_id"] for row in sorted(searches, key=lambda row: row["suggested"])
    }
    going = [row for row in searches if newest[row["sweep"], row["search"]] == row["search_id"]]
    latest = {f"{row['kind']}/{row['name']}" for row in last} | {file for row in going for file in row["results"]}
    earlier = {f"{row['kind']}/{row['name']}": row["sweep"] for row in sweeps}
    earlier |= {file: row["sweep"] for row in searches for file in row["results"]}
    return References(
        frozenset(row["sweep"] for row in (*sweeps, *searches)),
        frozenset(latest),
        {file: sweep for file, sweep in earlier.items() if file not in latest},
        frozenset(row["stage_id"] for row in (*last, *going)),
    )
