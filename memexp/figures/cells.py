"""The points of a figure: means over the items of results that differ in seeds and lists only, with n and interval.

    points = cells(found, "recognition", "recognition", results, by=["model", "lr", "exposures"])

Intervals are those of `memexp.stats`; over what they generalise is a part of each point. Every point is there once over
all seeds and once for each of several seeds, so that a page can show either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memexp.figures.gathered import Gathered, Result
from memexp.figures.varied import lists_of, seed_of, split
from memexp.stats import summary
from memexp.wording import made_of

__all__ = ["ALL", "Cell", "cells", "item_rows"]

ALL = "all"
"""What a point over all seeds has for its seed."""


@dataclass(frozen=True)
class Cell:
    """One mean."""

    at: dict[str, Any]
    """The values of what it was asked by."""
    seed: str
    """`ALL`, or one of several seeds."""
    mean: float
    n: int
    """Values that the mean is over."""
    results: tuple[Result, ...]
    low: float | None = None
    high: float | None = None
    over: str = ""
    """What the interval generalises over."""
    reason: str = ""
    """Why there is none, or none over more."""
    items: int = 0
    seeds: int = 0
    lists: int = 0

    @property
    def counted(self) -> str:
        """The n, for people."""
        return made_of(self.n, self.items, self.seeds, self.lists)


def cells(found: Gathered, kind: str, measure: str, results: Sequence[Result], by: Sequence[str]) -> list[Cell]:
    """A point for every group of results that agree in `by`, in their order, and for each of its seeds.

    Args:
        found: where the results are from.
        kind, measure: what is averaged.
        results: of the kind.
        by: settings, labels or parts.
    """
    groups = split([result for result in results if result.sums.get(measure, (0, 0))[1]], by)
    if not groups:
        return []
    spreads = _spreads(found, kind, measure, list(groups.values()))
    points = []
    for (group, members), spread in zip(groups.items(), spreads, strict=True):
        at = dict(zip(by, group, strict=True))
        points.append(_cell(at, ALL, members, measure, spread))
        seeds: dict[str, list[Result]] = {}
        for result in members:
            seeds.setdefault(seed_of(result.settings) or "", []).append(result)
        if len(seeds) > 1:
            points += [_cell(at, seed, few, measure, {}) for seed, few in seeds.items()]
    return points


def _cell(at: dict[str, Any], seed: str, members: Sequence[Result], measure: str, spread: dict[str, Any]) -> Cell:
    sums = [result.sums[measure] for result in members]
    total, count = (sum(column) for column in zip(*sums, strict=True))
    return Cell(at, seed, total / count, int(count), tuple(members), **spread)


def item_rows(
    found: Gathered, kind: str, measure: str, groups: Sequence[Sequence[Result]], names: Sequence[str] = ()
) -> pa.Table:
    """A row for each item of some results: the number of its group, item, value, and `names` of settings.

    ``seed`` and ``list`` are numbers that tell these apart: NULL where a seed is not known, or all have one list.
    """
    members = [result.settings for group in groups for result in group]
    rows = found.items(kind, measure, groups)
    places = rows.column("result")
    lists = lists_of(members)
    columns = {
        "seed": _numbered([seed_of(settings) for settings in members]),
        "list": _numbered(lists if len(set(lists)) > 1 else [None] * len(members)),
        **{name: pa.array([settings.get(name) for settings in members]) for name in names},
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values.take(places))
    return rows


def _numbered(values: Sequence[str | None]) -> pa.Array:
    """A number for each different text: of millions of rows numbers are told apart faster than texts."""
    numbers: dict[str, int] = {}
    found = [None if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return pa.array(found, pa.int64())


def _spreads(found: Gathered, kind: str, measure: str, groups: Sequence[Sequence[Result]]) -> list[dict[str, Any]]:
    """Interval and counts of each group."""
    rows = item_rows(found, kind, measure, groups)
    lists = "list" if rows.column("list").null_count < rows.num_rows else ()
    told = {row["cell"]: row for row in summary(rows, "value", ["cell"], seeds="seed", lists=lists).to_pylist()}
    return [_told(told.get(at, {})) for at in range(len(groups))]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    found = {name: row.get(name) for name in ("low", "high")}
    found |= {name: row.get(name) or "" for name in ("over", "reason")}
    return found | {name: row.get(name) or 0 for name in ("items", "seeds", "lists")}
