"""What a sweep found, for the terminal: recognition and recall against exposures, and how to ask for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from memexp.plan import Forest
from memexp.store import Store

__all__ = ["print_summary"]

MEASURES = {
    "recognition": ("recognition: share of pairs told apart (chance is 0.50)", "avg((target_nll < foil_nll)::int)"),
    "recall": ("recall: mean ROUGE-2 of the completion", "avg(completion_rouge2)"),
}
GROUPS = ("model", "method", "lr", "batch_size")
"""Settings that get a column of the table where the sweep varies them; it averages over all others."""
MOST_FILES = 2_000
MOST_ROWS = 30


def print_summary(store: Store, sweep: str, forest: Forest, console: Console) -> None:
    """Print the means of `sweep` and the query that gives them, or nothing where a terminal could not hold them."""
    kinds = [kind for kind in MEASURES if any(ask.kind == kind for ask in forest.asks)]
    if not kinds or len(forest.asks) > MOST_FILES:
        return
    first = forest.asks[0].settings
    varied = [name for name in GROUPS if any(ask.settings[name] != first[name] for ask in forest.asks)] or ["model"]
    means: dict[tuple[Any, ...], dict[tuple[str, int], float]] = {}
    for kind in kinds:
        for row in _means(store, forest, kind, varied):
            means.setdefault(row[:-2], {})[kind, row[-2]] = row[-1]
    if not means or len(means) > MOST_ROWS:
        return
    listed = {group: i for i, group in enumerate(dict.fromkeys(_group(ask.settings, varied) for ask in forest.asks))}
    means = {group: means[group] for group in sorted(means, key=lambda group: listed.get(group, len(listed)))}
    exposures = sorted({at for found in means.values() for _, at in found})
    for kind in kinds:
        console.print(f"\n{MEASURES[kind][0]}, by exposures", highlight=False, soft_wrap=True)
        table = Table()
        for name in varied:
            table.add_column(name)
        for at in exposures:
            table.add_column(str(at), justify="right")
        for group, found in means.items():
            cells = [f"{found[kind, at]:.2f}" if found.get((kind, at)) is not None else "" for at in exposures]
            table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in group), *cells)
        console.print(table)
        if line := _in_a_line([[found.get((kind, at)) for at in exposures] for found in means.values()], exposures):
            console.print(line, highlight=False, soft_wrap=True)
    columns = ", ".join([*varied, "exposures"])
    source = f"read_parquet('{store.path(kinds[0])}', union_by_name=true)"
    keys = "(stage_id, probe_id, condition_id)"
    its = f"(SELECT {keys[1:-1]} FROM read_parquet('{store.path('sweeps')}') WHERE sweep = '{sweep}')"
    where = f" WHERE {keys} IN {its}" if len(store.names("sweeps")) > 1 else ""
    query = f"SELECT {columns}, {MEASURES[kinds[0]][1]} AS {kinds[0]} FROM {source}{where} GROUP BY ALL ORDER BY ALL"
    console.print("\nOne row per item is in the store. For more, in DuckDB:", highlight=False, soft_wrap=True)
    console.print(f"  {query}\n", highlight=False, markup=False, soft_wrap=True)


def _group(settings: Mapping[str, Any], varied: list[str]) -> tuple[Any, ...]:
    """The row of a table that a condition belongs to."""
    return tuple(settings[name] for name in varied)


def _in_a_line(rows: list[list[float | None]], exposures: list[int]) -> str | None:
    """What a table shows, in words; None where there is nothing to compare."""
    ends = [(row[0], row[-1]) for row in rows if row[0] is not None and row[-1] is not None]
    if not ends or len(exposures) < 2:
        return None
    rising = sum(last > first for first, last in ends)
    before, after = (sum(values) / len(ends) for values in zip(*ends, strict=True))
    return (
        f"From {exposures[0]} to {exposures[-1]} exposures it rises in {rising} of {len(ends)} "
        f"{'row' if len(ends) == 1 else 'rows'}, on average from {before:.2f} to {after:.2f}."
    )


def _means(store: Store, forest: Forest, kind: str, varied: list[str]) -> list[tuple[Any, ...]]:
    """Rows of group, exposures, mean over this sweep's files of `kind`."""
    names = sorted({ask.name for ask in forest.asks if ask.kind == kind} & store.names(kind))
    if not names:
        return []
    with duckdb.connect() as connection:
        if store.is_local:
            files = connection.read_parquet([store.path(kind, name) for name in names], union_by_name=True)
        else:
            import pyarrow as pa

            tables = [store.read(kind, name) for name in names]
            files = connection.from_arrow(pa.concat_tables(tables, promote_options="permissive"))
        columns = ", ".join([*varied, "exposures"])
        return files.aggregate(f"{columns}, {MEASURES[kind][1]}").fetchall()
