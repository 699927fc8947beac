"""Which columns of results are the same in all rows of a file: settings, labels and versions, but not the items.

constant_columns("recall", ["condition_id", ..., "list", "numerics", ..., "item", "cue"])    # all but item and cue
"""

from __future__ import annotations

from collections.abc import Sequence

from memexp.probes import BY_KIND
from memexp.records import MADE_WITH, MET, SETTINGS

__all__ = ["constant_columns"]


def constant_columns(kind: str, names: Sequence[str]) -> list[str]:
    """Of the columns of a kind those that are the same in all rows of a result: settings, labels, versions.

    Labels stand before the versions, items behind them (`memexp.records.rows_for`); in an export a label may come late,
    and is told from the items of memexp's own kinds by its name.
    """
    fixed = {*SETTINGS.names, *MADE_WITH.names}
    items = {*BY_KIND[kind].schema().names, *MET.names} if kind in BY_KIND else None
    versions = [at for at, name in enumerate(names) if name in MADE_WITH.names]
    end = versions[0] if versions else 0
    return [
        name for at, name in enumerate(names) if name in fixed or (at < end if items is None else name not in items)
    ]
