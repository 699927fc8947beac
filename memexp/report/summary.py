"""What a sweep found, as tables: means by all that varies, of the headline that each probe declares. Prints nothing.

found = summarized(store, forest)
found.tables[0].rows      # [(("tiny-s",), [0.5, 0.9])]: a group's names, and a mean for each of `columns`
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from memexp.errors import StoreError
from memexp.plan import Ask, Forest
from memexp.probes import BY_KIND
from memexp.records import SETTINGS, measured_by
from memexp.report.intervals import Interval, intervals
from memexp.spec import Headline
from memexp.store import Store
from memexp.store.query import totals

__all__ = ["Summary", "Table", "cell_text", "summarized"]

GROUPS = (
    *("model", "method", "lora_r", "lora_targets", "lr", "batch_size", "schedule", "optimizer", "momentum", "dtype"),
    *("forget_side", "forget_layer", "restudy_exposures", "unlearn_loss", "unlearn_steps", "unlearn_lr"),
    *("retention_steps", "presentation", "times", "variants", "further_batches"),
    *("then_corpus", "then_exposures", "then_lr"),
    *("interference_lr", "interference_batch_size", "interference_optimizer", "interference_replay"),
    *("interference_protect_strength", "task"),
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
_FIELD = re.compile(r"(?<=[/.])([^/.:]+):[^:@\s][^:@]*(?=$|@[0-9a-f]{40}$)")
"""The end of the name of a file or dataset, a colon and a column; lists made in Python are named freely."""
AXES = ("exposures", "retention_steps", "unlearn_steps", "pretrain_steps", "task")
"""The first of these that a sweep varies has a column of the table for each of its values."""
MOST_FILES = 2_000
MOST_ROWS = 40
MOST_ITEMS = 1_000_000
"""Of a kind, for whose means there are intervals: some seconds."""

Group = tuple[Any, ...]
"""The values of a row's columns."""


@dataclass(frozen=True)
class Table:
    """The means of one kind."""

    kind: str
    headline: Headline
    axis: str
    """What has a column for each of its values."""
    varied: list[str]
    """What has a column beside them: a row is a group of conditions that agree in it."""
    columns: list[Any]
    """Values of `axis`, in the order of the table."""
    rows: list[tuple[Group, list[float | None]]]
    """A group's values of `varied`, and its means; in the order of the sweep."""
    found: Found
    intervals: dict[Hashable, Interval]
    """Of the means, by group and value of the axis; none where there are more than `MOST_ITEMS` rows."""


@dataclass(frozen=True)
class Summary:
    """What is to be said of a sweep's results."""

    tables: list[Table]
    """Without those that have more rows than a terminal can hold."""
    over: list[str]
    """What their means are over."""
    others: list[str]
    """Kinds that no mean sums up."""
    first: str | None
    """The kind of the first table, None where no kind has a mean."""


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
    chance: float | None = None
    """Mean over the items of what guessing comes to, where it differs between them."""
    rows: pa.Table | None = None
    """Of each item what its mean is of; None where there are more than `MOST_ITEMS`."""


def summarized(store: Store, forest: Forest) -> Summary:
    """The tables of `sweep`, as far as its results are there. Raises StoreError for a file that cannot be read."""
    by_kind: dict[str, list[Ask]] = {}
    for ask in forest.asks:
        by_kind.setdefault(ask.kind, []).append(ask)
    there = {kind: store.names(kind) & {ask.name for ask in asks} for kind, asks in by_kind.items()}
    headlines = {kind: _headline(store, kind, max(names)) for kind, names in there.items() if names}
    kinds = {kind: (headline, _told_apart(by_kind[kind])) for kind, headline in headlines.items() if headline}
    tables = []
    for kind, (headline, asks) in kinds.items() if len(forest.asks) <= MOST_FILES else ():
        table = _table(store, kind, headline, asks, there[kind])
        tables += [table] if table is not None else []
    over = dict.fromkeys(
        name
        for table in tables
        for name in AVERAGED
        if _splits(kinds[table.kind][1], [*table.varied, table.axis], name)
    )
    others = [kind for kind, headline in headlines.items() if headline is None]
    return Summary(tables, list(over), others, next(iter(kinds), None))


def _headline(store: Store, kind: str, name: str) -> Headline | None:
    """What is to be shown of a kind: as one of its files says, or for those of memexp 0.1 as memexp's own probe."""
    schema = store.schema(kind, name)
    try:
        said = measured_by(schema)
    except StoreError as error:
        raise StoreError(f"{store.path(kind, name)}: {error}") from error
    if said is not None:
        return said.headline
    return BY_KIND[kind].headline if kind in BY_KIND else None


def _table(store: Store, kind: str, headline: Headline, asks: Sequence[Ask], names: set[str]) -> Table | None:
    """The table of one kind, None where it has more rows than `MOST_ROWS`."""
    axis = next((name for name in AXES if _varies(asks, name)), AXES[0])
    varied = [name for name in _varied(asks) if name != axis] or ["model"]
    groups = list(dict.fromkeys(_group(ask, varied) for ask in asks))
    if len(groups) > MOST_ROWS:
        return None
    found = _found(store, kind, headline, asks, names, varied, axis)
    met = {at for means in found.means.values() for at in means}
    columns = [at for at in found.values if at in met]
    if axis != "task":
        columns.sort(key=lambda at: -1 if at is None else at)
    rows = [(group, [found.means[group].get(at) for at in columns]) for group in groups if group in found.means]
    cells: dict[Hashable, list[Ask]] = {}
    for ask in asks:
        if ask.name in names and _value(ask, axis) in found.means.get(group := _group(ask, varied), ()):
            cells.setdefault((group, _value(ask, axis)), []).append(ask)
    bounds = intervals(kind, found.rows, cells) if cells and found.rows is not None else {}
    return Table(kind, headline, axis, varied, columns, rows, found, bounds)


def _found(
    store: Store,
    kind: str,
    headline: Headline,
    asks: Sequence[Ask],
    names: set[str],
    varied: Sequence[str],
    axis: str,
) -> Found:
    """Mean over the items of all files of `asks`, by group and value of `axis`."""
    by_id = {(ask.condition_id, ask.probe_id): ask for ask in asks}
    found = Found(values=list(dict.fromkeys(_value(ask, axis) for ask in asks)))
    sums: dict[tuple[Group, Any], list[float]] = {}
    chance = headline.chance if isinstance(headline.chance, str) else "NULL::double"
    guessed = [0.0, 0]
    told = totals(store, kind, names, [headline.mean, chance], MOST_ITEMS)
    found.rows = told.items
    for condition, probe, items, total, count, chances, guesses in told.rows:
        found.items, found.missing = found.items + items, found.missing + items - count
        guessed = [guessed[0] + (chances or 0), guessed[1] + guesses]
        ask = by_id.get((condition, probe))
        if ask is None:
            raise _misplaced(store, kind, names, asks)
        if count:
            so_far = sums.setdefault((_group(ask, varied), _value(ask, axis)), [0.0, 0.0])
            so_far[0] += total
            so_far[1] += count
    for (group, at), (total, count) in sums.items():
        found.means.setdefault(group, {})[at] = total / count
    absent = {(_group(ask, varied), _value(ask, axis)) for ask in asks if ask.name not in names}
    found.partial = len(absent & sums.keys())
    found.chance = guessed[0] / guessed[1] if guessed[1] else None
    return found


def _misplaced(store: Store, kind: str, names: set[str], asks: Sequence[Ask]) -> StoreError:
    """What is wrong with files of these names, of which at least one has rows that none of `asks` has asked for."""
    ids = {ask.name: (ask.condition_id, ask.probe_id) for ask in asks}
    for name in sorted(names):
        table = store.read(kind, name)
        said = [table[column].to_pylist() for column in ("condition_id", "probe_id") if column in table.column_names]
        if len(said) < 2 or set(zip(*said, strict=True)) - {ids[name]}:
            return StoreError(f"{store.path(kind, name)}: its rows are of another condition than its name; delete it")
    return StoreError(f"{store.path(kind)}: a file has rows of another condition than its name")


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
        files.setdefault(_FIELD.sub(r"\1", ask.settings["corpus"]), []).append(ask)
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

    def differing(ask: Ask) -> str:
        found = settings[ask.probe_id]
        return ", ".join(f"{name}={cell_text(found[name])}" for name in differ if name in found)

    return [dataclasses.replace(ask, settings={**ask.settings, "probe": differing(ask)}) for ask in asks]


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


def cell_text(value: Any) -> str:
    """A value of a setting or label, for people."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
