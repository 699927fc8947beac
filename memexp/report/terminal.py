"""What a sweep found, for the terminal: recognition and recall against exposures, and how to ask for more."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memexp.plan import Ask, Forest
from memexp.records import SETTINGS
from memexp.search.ledger import Ledger
from memexp.spec.search import shown
from memexp.store import Store, option_for

__all__ = ["print_searches", "print_summary", "say"]


def say(console: Console, line: str, style: str | None = None) -> None:
    """One line, as it is: no markup, no colour by content, no wrapping in the middle of a path."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Measure:
    """What a table of results shows of a kind of record."""

    title: str
    """Its heading."""
    column: str
    """The expression over an item's columns whose mean it shows."""
    why_missing: str = "texts of one token have nothing to measure, nor has a model whose outputs are no numbers"
    """What makes an item NULL."""

    @property
    def mean(self) -> str:
        """The same in SQL."""
        return f"avg({self.column})"


TOO_LONG = "prompts that do not fit the model's context are not asked"
MEASURES = {
    "recognition": Measure("recognition: share of pairs told apart (chance is 0.50)", "(target_nll < foil_nll)::int"),
    "recall": Measure("recall: mean ROUGE-2 of the completion", "completion_rouge2"),
    "qa": Measure("qa: share of answers that match exactly", "exact::int", TOO_LONG),
    "choice": Measure("choice: share of questions answered with the right choice", "correct::int", TOO_LONG),
}
GROUPS = (
    *("model", "method", "lora_r", "lora_targets", "lr", "batch_size", "schedule", "dtype"),
    *("forget_side", "forget_layer", "restudy_exposures", "retention_steps"),
    *("interference_lr", "interference_batch_size", "interference_optimizer", "task"),
    *("pretrain_steps", "pretrain_lr", "pretrain_batch_size", "pretrain_seed"),
)
"""Settings that get a column of the table where the sweep varies them, as all labels do but ``counterbalanced``."""
AVERAGED = ("corpus", "seed", "init_seed", "lora_seed", "counterbalanced")
"""What a mean may be taken over; every other setting gets a column where conditions differ in nothing else."""
_SAID_BY_OTHERS = ("condition_id", "stage_id", "probe_id", "probe_settings", "corpus_id", "model_id")
OTHERS = (
    "probe",
    *(name for name in SETTINGS.names if name not in (*GROUPS, *AVERAGED, *_SAID_BY_OTHERS)),
    "model_id",  # where neither its name nor anything above tells a model from another
)
_SAID_OTHERWISE = ("forget_layer", "restudy_exposures", "pretrain_lr", "pretrain_batch_size", "pretrain_seed")
AXES = ("exposures", "retention_steps", "pretrain_steps", "task")
"""The first of these that a sweep varies has a column of the table for each of its values."""
_FIELD = re.compile(r":[^:@]*(?=$|@[0-9a-f]{40}$)")
"""What the name of a corpus says of the column of its file."""
MOST_FILES = 2_000
MOST_ROWS = 40

Group = tuple[Any, ...]
"""The values of a row's columns."""


@dataclass
class Found:
    """What the files of one kind hold."""

    means: dict[Group, dict[Any, float]] = field(default_factory=dict)
    """By group and value of the axis."""
    values: list[Any] = field(default_factory=list)
    """Of the axis, in the order of the sweep."""
    items: int = 0
    """Rows."""
    missing: int = 0
    """Rows of which nothing could be measured."""
    partial: int = 0
    """Means of which some conditions have no file."""


def print_summary(store: Store, sweep: str, forest: Forest, console: Console) -> None:
    """Print the means of `sweep` where a terminal can hold them, and the query that gives them."""
    kinds = {kind: _told_apart([ask for ask in forest.asks if ask.kind == kind]) for kind in MEASURES}
    kinds = {kind: asks for kind, asks in kinds.items() if any(store.exists(kind, ask.name) for ask in asks)}
    others = [kind for kind in dict.fromkeys(ask.kind for ask in forest.asks) if kind not in MEASURES]
    others = [k for k in others if any(store.exists(ask.kind, ask.name) for ask in forest.asks if ask.kind == k)]
    if others:
        query = f'memexp query {option_for(store)}"SELECT * FROM {others[0]}"'
        line = f"Rows of {', '.join(others)} are in the store: {query}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not kinds:
        return
    over: dict[str, None] = {}
    for kind, asks in kinds.items() if len(forest.asks) <= MOST_FILES else ():
        axis = next((name for name in AXES if _varies(asks, name)), AXES[0])
        varied = [name for name in _varied(asks) if name != axis] or ["model"]
        groups = list(dict.fromkeys(_group(ask, varied) for ask in asks))
        if len(groups) <= MOST_ROWS:
            _print_table(kind, _found(store, asks, kind, varied, axis), groups, varied, axis, console)
            over |= dict.fromkeys(name for name in AVERAGED if _splits(asks, [*varied, axis], name))
    if over:
        console.print(f"Means are over {', '.join(over)}.", highlight=False, markup=False, soft_wrap=True)
    console.print("\nOne row per item is in the store. For more, in DuckDB:", highlight=False, soft_wrap=True)
    first = next(iter(kinds))
    query = _query(store, sweep, first, _varied(kinds[first]))
    console.print(f"  {query}\n", highlight=False, markup=False, soft_wrap=True)


def print_searches(ledgers: Sequence[Ledger], console: Console) -> None:
    """Print the best point of each search, and how its suggestions ended."""
    if not ledgers:
        return
    table = Table()
    for name in ("search", "best", "value", "of", "stopped", "diverged"):
        table.add_column(Text(name), justify="left" if name in ("search", "best") else "right")
    for ledger in ledgers:
        states = Counter(entry.state for entry in ledger.entries.values())
        best = ledger.best
        table.add_row(
            Text(ledger.prepared.search.name),
            Text(shown(best.candidate.point) if best else ""),
            "" if best is None else f"{best.value:.4g}",
            *(str(states[state]) for state in ("complete", "stopped", "diverged")),
        )
    console.print("\nThe best suggestion of each search", highlight=False)
    console.print(table)
    for ledger in ledgers:
        complete = [entry for entry in ledger.entries.values() if entry.state == "complete"]
        empty = sum(entry.value is None for entry in complete)
        if empty:
            line = f"search {ledger.prepared.search.name}: Search.metric came to no finite number for {empty} of its"
            console.print(f"{line} {len(complete)} complete suggestions", highlight=False, soft_wrap=True)


def _varied(asks: Sequence[Ask]) -> list[str]:
    """The columns of the table: in no mean are conditions that differ in more than `AVERAGED`."""
    labels = dict.fromkeys(name for ask in asks for name in ask.labels if name != "counterbalanced")
    found = [name for name in GROUPS if name not in labels and _varies(asks, name)]
    found += [name for name in labels if len({ask.labels.get(name) for ask in asks}) > 1]
    for name in OTHERS:
        if _splits(asks, [*found, *AXES, *(["init_seed"] if name == "model_id" else [])], name):
            found.append(name)
    if _has_two_fields(asks, [*found, *AXES, *(name for name in AVERAGED if name != "corpus")]):
        found.append("corpus")
    return found or ["model"]


def _has_two_fields(asks: Sequence[Ask], by: Sequence[str]) -> bool:
    """Whether asks that agree in all of `by` have studied different columns of one file: no replications of a list."""
    files: dict[str, list[Ask]] = {}
    for ask in asks:
        files.setdefault(_FIELD.sub("", ask.settings["corpus"]), []).append(ask)
    return any(_splits(group, by, "corpus") for group in files.values())


def _splits(asks: Sequence[Ask], by: Sequence[str], name: str) -> bool:
    """Whether there are asks that differ in `name` and agree in all of `by`."""
    if name in by or len({_value(ask, name) for ask in asks}) < 2:
        return False
    met: dict[Group, Any] = {}
    return any(met.setdefault(_group(ask, by), _value(ask, name)) != _value(ask, name) for ask in asks)


def _told_apart(asks: list[Ask]) -> list[Ask]:
    """`asks` with a setting ``probe`` that says what the probes of a condition differ in, where it has several.

    What they are called is not looked at: the column ``task`` says it.
    """
    settings = {ask.probe_id: _flat(json.loads(ask.settings["probe_settings"])) for ask in asks}
    together: dict[Group, list[dict[str, Any]]] = {}
    for ask in asks:
        together.setdefault((ask.condition_id, _value(ask, "task")), []).append(settings[ask.probe_id])
    differ: dict[str, None] = {}
    for group in together.values():
        names = dict.fromkeys(name for one in group for name in one) if len(group) > 1 else ()
        differ |= dict.fromkeys(name for name in names if any(one.get(name) != group[0].get(name) for one in group))
    if not differ:
        return asks

    def told(ask: Ask) -> str:
        found = settings[ask.probe_id]
        return ", ".join(f"{name}={_shown(found[name])}" for name in differ if name in found)

    return [dataclasses.replace(ask, settings={**ask.settings, "probe": told(ask)}) for ask in asks]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The fields of nested descriptions, without the names of classes."""
    if not isinstance(value, dict):
        return {name: value if isinstance(value, str | int | float) else json.dumps(value)}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, name if key[:1].isupper() else f"{name}.{key}".lstrip("."))
    return found


def _varies(asks: Sequence[Ask], name: str) -> bool:
    values = {_value(ask, name) for ask in asks}
    if name.startswith(("lora_", "interference_")) or name in _SAID_OTHERWISE:
        values.discard(None)  # that there is none is what another column says
    return len(values) > 1


def _value(ask: Ask, name: str) -> Any:
    if name in ask.labels:
        return ask.labels[name]
    if name == "task":  # of the probe: what `qa` and `choice` call their test
        return getattr(ask.probe, "task", None)
    return ask.settings.get(name)


def _group(ask: Ask, varied: Sequence[str]) -> Group:
    return tuple(_value(ask, name) for name in varied)


def _print_table(kind: str, found: Found, groups: list[Group], varied: list[str], axis: str, console: Console) -> None:
    """One table: a row for each group, in the order of the sweep, a column for each value of `axis`."""
    met = {at for means in found.means.values() for at in means}
    columns = [at for at in found.values if at in met]
    if axis != "task":
        columns.sort(key=lambda at: -1 if at is None else at)
    table = Table()
    for name in varied:
        table.add_column(Text(name))
    for at in columns:
        table.add_column(Text(_shown(at)), justify="right")
    rows = [(group, [found.means[group].get(at) for at in columns]) for group in groups if group in found.means]
    for group, row in rows:
        # Text, since a name in brackets would be taken for a style.
        names = [Text(_shown(value)) for value in group]
        table.add_row(*names, *("" if mean is None else f"{mean:.2f}" for mean in row))
    console.print(f"\n{MEASURES[kind].title}, by {axis}", highlight=False, soft_wrap=True)
    console.print(table)
    if axis == "exposures" and "task" not in varied and (line := _in_a_line([row for _, row in rows], columns)):
        console.print(line, highlight=False, soft_wrap=True)
    if found.missing:
        why = MEASURES[kind].why_missing
        console.print(f"{found.missing} of {found.items} items are NULL: {why}.", highlight=False, soft_wrap=True)
    if found.partial:
        line = f"{found.partial} of the means are over part of their conditions: the others have no result"
        console.print(f"{line} (yet).", highlight=False, soft_wrap=True)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _query(store: Store, sweep: str, kind: str, varied: Sequence[str]) -> str:
    """The SQL that gives the table of `kind`."""
    names = ["probe_settings" if name == "probe" else name for name in varied if name != "exposures"]
    columns = ", ".join([*(name if name in (*SETTINGS.names, "task") else f'"{name}"' for name in names), "exposures"])
    source = f"read_parquet({_quoted(store.path(kind))}, union_by_name=true)"
    where = ""
    if store.names("sweeps"):  # rows of other sweeps, of searches or of before an edit may be there as well
        manifests = f"read_parquet({_quoted(store.path('sweeps'))})"
        latest = f"SELECT max(started) FROM {manifests} WHERE sweep = {_quoted(sweep)}"
        keys = "stage_id, probe_id, condition_id"
        where = f" WHERE ({keys}) IN (SELECT ({keys}) FROM {manifests} WHERE started = ({latest}))"
    return f"SELECT {columns}, {MEASURES[kind].mean} AS {kind} FROM {source}{where} GROUP BY ALL ORDER BY ALL"


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


def _found(store: Store, asks: Sequence[Ask], kind: str, varied: Sequence[str], axis: str) -> Found:
    """Mean over the items of all files of `asks`, by group and value of `axis`."""
    by_id = {(ask.condition_id, ask.probe_id): ask for ask in asks}
    names = {ask.name for ask in asks} & store.names(kind)
    column = MEASURES[kind].column
    with duckdb.connect() as connection:
        if store.is_local:
            files = connection.read_parquet([store.path(kind, name) for name in sorted(names)], union_by_name=True)
        else:
            tables = [store.read(kind, name) for name in sorted(names)]
            files = connection.from_arrow(pa.concat_tables(tables, promote_options="permissive"))
        rows = files.aggregate(f"condition_id, probe_id, sum({column}), count({column}), count(*)").fetchall()
    found, sums = (
        Found(values=list(dict.fromkeys(_value(ask, axis) for ask in asks))),
        dict[tuple[Group, Any], list[float]](),
    )
    for condition, probe, total, count, items in rows:
        found.items, found.missing = found.items + items, found.missing + items - count
        if count:
            ask = by_id[condition, probe]
            so_far = sums.setdefault((_group(ask, varied), _value(ask, axis)), [0.0, 0.0])
            so_far[0] += total
            so_far[1] += count
    for (group, at), (total, count) in sums.items():
        found.means.setdefault(group, {})[at] = total / count
    absent = {(_group(ask, varied), _value(ask, axis)) for ask in asks if ask.name not in names}
    found.partial = len(absent & sums.keys())
    return found
