"""What the SQL of a user asks for by name, and what DuckDB says of it, in one line with the names there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import duckdb

from memexp.errors import near_first
from memexp.identity import parsed
from memexp.records import MADE_WITH, SETTINGS
from memexp.store.closed import identifier

__all__ = ["columns_of", "complaint", "labels_of", "starred", "told_apart"]


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of columns, each once: the second `a` is ``a_1``."""
    found: dict[str, None] = {}
    for name in names:
        number, new = 0, name
        while new in found:
            number += 1
            new = f"{name}_{number}"
        found[new] = None
    return list(found)


def starred(connection: duckdb.DuckDBPyConnection, sql: str) -> frozenset[str] | None:
    """What is asked for by name beside a ``*``; None where there is none, or one that chooses columns."""
    (text,) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0]
    statements = parsed(text).get("statements") or [{"node": {}}]
    chosen = statements[0]["node"].get("select_list", [])
    stars = [one for one in chosen if one["class"] == "STAR"]
    if not stars or any(one["columns"] for one in stars):
        return None
    others = [one for one in chosen if one["class"] != "STAR"]
    return frozenset(one["alias"] or (one.get("column_names") or [""])[-1] for one in others)


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """The columns of a table or view; none where it cannot be asked, which the question itself will tell."""
    try:
        return [row[0] for row in connection.execute(f"DESCRIBE {identifier(table)}").fetchall()]
    except duckdb.Error:
        return []


def labels_of(files: Iterable[Sequence[str]]) -> list[str]:
    """The labels that result files with these columns have: they stand between the settings and the versions."""
    found: dict[str, None] = {}
    for names in files:
        if "condition_id" not in names:  # a log of attempts, losses
            continue
        versions = next((at for at, name in enumerate(names) if name in MADE_WITH.names), 0)
        found |= dict.fromkeys(name for name in names[:versions] if name not in SETTINGS.names)
    return list(found)


MOST_NAMES = 24
"""Columns that an error names."""
_NO_COLUMN = re.compile(
    r'(?i)column(?: named)? "([^"]+)"(?: in EXCLUDE list| in REPLACE list)?(?: was)? not found|'
    r'does not have a column named "([^"]+)"'
)
_NO_TABLE = re.compile(r"Table with name (.+?) does not exist")


def complaint(
    connection: duckdb.DuckDBPyConnection,
    said: str,
    opened: Sequence[str],
    called: Sequence[str],
    kinds: Sequence[str],
    views: Sequence[str],
    labels: Sequence[str],
) -> str:
    """DuckDB's complaint in a line, with the names there are: those most like the one that there is not come first, and
    labels, which a reader of the documentation cannot know, are never among those left out."""
    line = said.splitlines()[0]
    if (match := _NO_COLUMN.search(line)) and (opened or called):
        tables = [*called, *(kind for kind in opened if not called)]
        names = near_first(match[1] or match[2], dict.fromkeys(c for t in tables for c in columns_of(connection, t)))
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        own = [name for name in labels if name in names]
        named = f"; labels: {', '.join(own[:MOST_NAMES])}" if own else ""
        return f"{line} (columns of {', '.join(tables)}: {', '.join(names[:MOST_NAMES])}{more}{named})"
    match = _NO_TABLE.search(line)
    wanted = match[1] if match else ""
    there = ", ".join(near_first(wanted, kinds) if match else kinds) or "none, the store is empty"
    also = f" (views: {', '.join(near_first(wanted, views))})" if match and views else ""
    return f"{line} (tables: {there}){also}"
