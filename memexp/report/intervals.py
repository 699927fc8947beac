"""Intervals of the means of a table on a terminal: as in the report, each says what it is over, and of how many.

found = intervals(store, "recognition", headline, {("tiny-s", 1): asks, ...})
found["tiny-s", 1].low, found["tiny-s", 1].n
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memexp.plan import Ask
from memexp.spec import Headline
from memexp.store import Store
from memexp.store.query import item_values

__all__ = ["Interval", "intervals", "said_of"]

SETTINGS = ("seed", "init_seed", "lora_seed", "pretrain_seed", "corpus_id", "corpus")
LABELS = ("replication", "counterbalanced")
"""What tells seeds and lists apart, see `memexp.stats.summary`."""


@dataclass(frozen=True)
class Interval:
    """Of one mean."""

    low: float | None
    """None where there is none: `reason` says why."""
    high: float | None
    n: int
    items: int
    seeds: int
    lists: int
    over: str
    reason: str | None


def intervals(
    store: Store, kind: str, headline: Headline, cells: Mapping[Hashable, Sequence[Ask]]
) -> dict[Hashable, Interval]:
    """The interval of the mean over each cell's asks, which have results; level 95 %.

    Raises StoreError for a file that cannot be read.
    """
    from memexp.stats import summary  # scipy, which only a finished run waits for

    asks = [ask for members in cells.values() for ask in members]
    of_cell = [at for at, members in enumerate(cells.values()) for _ in members]
    rows = item_values(store, kind, {ask.name for ask in asks}, headline.mean)
    place = pa.table(
        {
            "condition_id": [ask.condition_id for ask in asks],
            "probe_id": [ask.probe_id for ask in asks],
            "cell": pa.array(of_cell, pa.int64()),
            **{name: _column([_setting(ask, name) for ask in asks]) for name in (*SETTINGS, *LABELS)},
        }
    )
    joined = rows.join(place, ["condition_id", "probe_id"], join_type="inner")
    told = {row["cell"]: row for row in summary(joined, "value", ["cell"]).to_pylist()}
    return {cell: _interval(told[at]) for at, cell in enumerate(cells) if at in told}


def _setting(ask: Ask, name: str) -> Any:
    return ask.labels[name] if name in ask.labels else ask.settings.get(name)


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers that tell the values apart, truth values as they are, NULL for None."""
    if all(value is None or isinstance(value, bool) for value in values):
        return pa.array(values, pa.bool_())
    numbers: dict[str, int] = {}
    return pa.array([None if v is None else numbers.setdefault(str(v), len(numbers)) for v in values], pa.int64())


def _interval(row: Mapping[str, Any]) -> Interval:
    counts = {name: row[name] or 0 for name in ("items", "seeds", "lists")}
    return Interval(row["low"], row["high"], row["n"], over=row["over"], reason=row["reason"], **counts)


def said_of(found: Sequence[Interval]) -> str:
    """What the means are of and over, in a line; the widest interval where no cell shows its own."""
    ns = sorted({one.n for one in found})
    n = f"{ns[0]:,}" if len(ns) == 1 else f"{ns[0]:,} to {ns[-1]:,}"
    parts = [f"{n} values"]
    first = found[0]
    if all((one.items, one.seeds, one.lists) == (first.items, first.seeds, first.lists) for one in found):
        made = [f"{first.items:,} items"] if 0 < first.items < first.n else []
        made += [f"{count} {name}" for name, count in (("seeds", first.seeds), ("lists", first.lists)) if count > 1]
        parts[0] += f" ({' × '.join(made)})" if made else ""
    known = [one for one in found if one.low is not None and one.high is not None]
    if known:
        half = max((one.high - one.low) / 2 for one in known if one.high is not None and one.low is not None)
        over = " or ".join(dict.fromkeys(one.over for one in known))
        less = f" ({said[0]})" if len(said := list(dict.fromkeys(one.reason for one in known))) == 1 and said[0] else ""
        parts.append(f"95 % intervals over {over}{less}, at most ±{half:.2g}")
    elif first.reason:
        parts.append(f"no interval: {first.reason}")
    return f"Each mean is of {', '.join(parts)}."
