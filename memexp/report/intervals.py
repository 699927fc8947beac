"""Intervals of the means of a table on a terminal: as in the report, each says what it is over, and of how many.

found = intervals("recognition", rows, {("tiny-s", 1): asks, ...})
found["tiny-s", 1].low, found["tiny-s", 1].n
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memexp.plan import Ask
from memexp.wording import made_of, noun

__all__ = ["Interval", "intervals", "said_of"]

SETTINGS = ("seed", "init_seed", "lora_seed", "pretrain_seed", "corpus_id", "corpus")
LABELS = ("replication", "counterbalanced")
"""What tells seeds and lists apart, see `memexp.stats.summary`."""
SHARES = frozenset(
    {"recognition", "recall", "qa", "choice", "ablation", "extraction", "prefix_offset", "truth_ratio", "continuation"}
)
"""Kinds whose headline lies between 0 and 1, and so does what its mean may be."""


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


def intervals(kind: str, rows: pa.Table, cells: Mapping[Hashable, Sequence[Ask]]) -> dict[Hashable, Interval]:
    """The interval of the mean over each cell's asks, which have results; level 95 %.

    Args:
        kind: of the results.
        rows: of each item condition_id, probe_id, item and value, as `memexp.store.query.totals` gives them.
        cells: the asks that each mean is over.
    """
    from memexp.stats import summary  # scipy, which only a finished run waits for

    asks = [ask for members in cells.values() for ask in members]
    of_cell = [at for at, members in enumerate(cells.values()) for _ in members]
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
    return {cell: _interval(told[at], kind in SHARES) for at, cell in enumerate(cells) if at in told}


def _setting(ask: Ask, name: str) -> Any:
    return ask.labels[name] if name in ask.labels else ask.settings.get(name)


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers that tell the values apart, truth values as they are, NULL for None."""
    if all(value is None or isinstance(value, bool) for value in values):
        return pa.array(values, pa.bool_())
    numbers: dict[str, int] = {}
    return pa.array([None if v is None else numbers.setdefault(str(v), len(numbers)) for v in values], pa.int64())


def _interval(row: Mapping[str, Any], share: bool) -> Interval:
    counts = {name: row[name] or 0 for name in ("items", "seeds", "lists")}
    ends = [bound if bound is None or not share else min(1.0, max(0.0, bound)) for bound in (row["low"], row["high"])]
    return Interval(ends[0], ends[1], row["n"], over=row["over"], reason=row["reason"], **counts)


def said_of(found: Sequence[Interval], shown: bool) -> str:
    """What the means are of and over, in a line, and the widest interval; `shown`: whether each is in its cell."""
    counts = list(dict.fromkeys(made_of(one.n, one.items, one.seeds, one.lists) for one in found))
    least, most = (end(found, key=lambda one: one.n) for end in (min, max))
    n = counts[0] if len(counts) == 1 else f"{least.n:,} to {most.n:,}"
    if not (known := [(one, one.low, one.high) for one in found if one.low is not None and one.high is not None]):
        return f"Each mean is of {n} values; no interval: {found[0].reason}."
    half = max((high - low) / 2 for _, low, high in known)
    over = " or ".join(dict.fromkeys(one.over for one, *_ in known))
    reasons = list(dict.fromkeys(one.reason for one, *_ in known))
    less = f" ({reasons[0]})" if len(reasons) == 1 and reasons[0] else ""
    said = f"Each mean is of {n} values; 95 % intervals over {over}{less}, at most ±{half:.2g}"
    said += "" if shown else ", which a wider terminal shows"
    if without := [one for one in found if one.low is None]:
        said += f"; {len(without)} {noun(len(without), 'has', 'have')} none: {without[0].reason}"
    return f"{said}."
