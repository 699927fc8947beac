"""What a sweep found, for the terminal: recognition and recall against exposures, and how to ask for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memexp.plan import Ask, Forest
from memexp.store import Store

__all__ = ["print_summary"]

MEASURES = {
    "recognition": ("recognition: share of pairs told apart (chance is 0.50)", "avg((target_nll < foil_nll)::int)"),
    "recall": ("recall: mean ROUGE-2 of the completion", "avg(completion_rouge2)"),
}
GROUPS = (
    *("model", "method", "lora_r", "lora_targets", "lr", "batch_size", "schedule", "dtype"),
    *("forget_side", "forget_layer", "restudy_exposures"),
)
"""Settings that get a column of the table where the sweep varies them, as all labels do but ``counterbalanced``."""
MOST_FILES = 2_000
MOST_ROWS = 30

Group = tuple[Any, ...]
"""The values of a row's columns."""


def print_summary(store: Store, sweep: str, forest: Forest, console: Console) -> None:
    """Print the means of `sweep` where a terminal can hold them, and the query that gives them."""
    kinds = [kind for kind in MEASURES if any(ask.kind == kind and store.exists(kind, ask.name) for ask in forest.asks)]
    if not kinds:
        return
    varied = _varied(forest.asks)
    groups = dict.fromkeys(_group(ask, varied) for ask in forest.asks)
    if len(forest.asks) <= MOST_FILES and len(groups) <= MOST_ROWS:
        for kind in kinds:
            _print_table(kind, _means(store, forest, kind, varied), list(groups), varied, console)
        if over := _averaged(forest.asks, varied):
            console.print(f"Means are over {', '.join(over)}.", highlight=False, markup=False, soft_wrap=True)
    console.print("\nOne row per item is in the store. For more, in DuckDB:", highlight=False, soft_wrap=True)
    query = _query(store, sweep, kinds[0], varied)
    console.print(f"  {query}\n", highlight=False, markup=False, soft_wrap=True)


def _varied(asks: Sequence[Ask]) -> list[str]:
    """The columns of the table."""
    found = [name for name in GROUPS if _varies(asks, name)]
    ids = {(ask.settings["model"], ask.settings["model_id"]) for ask in asks if ask.settings["init"] == "pretrained"}
    if len({model for model, _ in ids}) < len(ids):  # a shipped model and a folder of its name, say
        found.insert(0, "model_id")
    labels = dict.fromkeys(name for ask in asks for name in ask.labels if name != "counterbalanced")
    found += [name for name in labels if len({ask.labels.get(name) for ask in asks}) > 1]
    return found or ["model"]


def _averaged(asks: Sequence[Ask], varied: Sequence[str]) -> list[str]:
    """What else differs among the conditions of a row."""
    names = ("corpus", "seed", "init_seed", "lora_seed", "block_size", "weight_decay", "dropout", "counterbalanced")
    return [name for name in names if name not in varied and _varies(asks, name)]


def _varies(asks: Sequence[Ask], name: str) -> bool:
    values = {_value(ask, name) for ask in asks}
    if name.startswith("lora_") or name in ("forget_layer", "restudy_exposures"):
        values.discard(None)  # that there is none is what `method` and `forget_side` say
    return len(values) > 1


def _value(ask: Ask, name: str) -> Any:
    return ask.settings[name] if name in ask.settings else ask.labels.get(name)


def _group(ask: Ask, varied: Sequence[str]) -> Group:
    return tuple(_value(ask, name) for name in varied)


def _print_table(
    kind: str, means: dict[Group, dict[int, float]], groups: list[Group], varied: list[str], console: Console
) -> None:
    """One table: a row for each group, in the order of the sweep, a column for each number of exposures."""
    exposures = sorted({at for found in means.values() for at in found})
    table = Table()
    for name in varied:
        table.add_column(Text(name))
    for at in exposures:
        table.add_column(str(at), justify="right")
    rows = [(group, [means[group].get(at) for at in exposures]) for group in groups if group in means]
    for group, row in rows:
        # Text, since a name in brackets would be taken for a style.
        names = [Text(_shown(value)) for value in group]
        table.add_row(*names, *("" if mean is None else f"{mean:.2f}" for mean in row))
    console.print(f"\n{MEASURES[kind][0]}, by exposures", highlight=False, soft_wrap=True)
    console.print(table)
    if line := _in_a_line([row for _, row in rows], exposures):
        console.print(line, highlight=False, soft_wrap=True)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _query(store: Store, sweep: str, kind: str, varied: Sequence[str]) -> str:
    """The SQL that gives the table of `kind`."""
    columns = ", ".join([*(name if name in GROUPS else f'"{name}"' for name in varied), "exposures"])
    source = f"read_parquet({_quoted(store.path(kind))}, union_by_name=true)"
    where = ""
    if len(store.names("sweeps")) > 1:  # other sweeps, or this one before it was edited
        manifests = f"read_parquet({_quoted(store.path('sweeps'))})"
        latest = f"SELECT max(started) FROM {manifests} WHERE sweep = {_quoted(sweep)}"
        keys = "stage_id, probe_id, condition_id"
        where = f" WHERE ({keys}) IN (SELECT ({keys}) FROM {manifests} WHERE started = ({latest}))"
    return f"SELECT {columns}, {MEASURES[kind][1]} AS {kind} FROM {source}{where} GROUP BY ALL ORDER BY ALL"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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


def _means(store: Store, forest: Forest, kind: str, varied: Sequence[str]) -> dict[Group, dict[int, float]]:
    """Mean over the items of all of this sweep's files of `kind`, by group and exposures."""
    asks = {(ask.condition_id, ask.probe_id): ask for ask in forest.asks if ask.kind == kind}
    names = sorted({ask.name for ask in asks.values()} & store.names(kind))
    measure = MEASURES[kind][1]
    with duckdb.connect() as connection:
        if store.is_local:
            files = connection.read_parquet([store.path(kind, name) for name in names], union_by_name=True)
        else:
            tables = [store.read(kind, name) for name in names]
            files = connection.from_arrow(pa.concat_tables(tables, promote_options="permissive"))
        counted = measure.replace("avg(", "count(")
        rows = files.aggregate(f"condition_id, probe_id, {measure}, {counted}").fetchall()
    sums: dict[tuple[Group, int], list[float]] = {}
    for condition, probe, mean, count in rows:
        if count:  # else every item is NULL
            ask = asks[condition, probe]
            total = sums.setdefault((_group(ask, varied), ask.settings["exposures"]), [0.0, 0.0])
            total[0] += mean * count
            total[1] += count
    found: dict[Group, dict[int, float]] = {}
    for (group, at), (total_of_items, items) in sums.items():
        found.setdefault(group, {})[at] = total_of_items / items
    return found
