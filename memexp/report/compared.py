"""Two stores or sweeps, condition by condition, for the terminal.

    memexp compare results-laptop results-gpu
    memexp compare spaced massed --store results --by model,lr

Published results are a store once they are imported. What a verdict means: `memexp.stats.compare`.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memexp.errors import StoreError
from memexp.probes import BY_KIND
from memexp.records import BARE, MADE_WITH, MET, measured_by
from memexp.report.summary import cell_text
from memexp.report.terminal import say
from memexp.spec import Headline
from memexp.stats import compare
from memexp.store import Store
from memexp.store.closed import closed, give, identifier
from memexp.store.manifests import latest_manifests
from memexp.store.query import rows_of

__all__ = ["print_comparison"]

VALUE = "value of the headline"
ITEM_COLUMNS = ("item", "target", "task")
"""Of a probe's own columns those that tell items and conditions apart."""


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    store: Store
    sweep: str | None
    """None for all of the store."""

    def headline(self, kind: str) -> Headline | None:
        """What the newest of its files says; None where there is none, or nothing that sums it up."""
        names = self.store.names(kind)
        said = measured_by(self.store.schema(kind, max(names))) if names else None
        return said.headline if said else BY_KIND[kind].headline if names and kind in BY_KIND else None

    def rows(self, kind: str, headline: Headline) -> pa.Table:
        """Its rows of a kind, with the number that `headline` makes of each as column `VALUE`."""
        own = {*(BY_KIND[kind].schema().names if kind in BY_KIND else ()), *MET.names} - {*ITEM_COLUMNS}
        with closed() as connection:
            try:
                rows = give(connection, kind, self.store.datasets(kind))
                where = ""
                if self.sweep is not None:
                    where = rows_of(self.sweep, kind, give(connection, "sweeps/", self.store.datasets("sweeps")))
                have = [row[0] for row in connection.execute(f"DESCRIBE FROM {rows}").fetchall()]
                names = [identifier(name) for name in have if name not in own and name not in MADE_WITH.names]
                value = f"({headline.mean})::double AS {identifier(VALUE)}"
                return connection.sql(f"SELECT {', '.join([*names, value])} FROM {rows}{where}").to_arrow_table()
            except duckdb.Error as error:
                raise StoreError(f"{self.store.path(kind)}: {str(error).splitlines()[0]}") from error


def print_comparison(
    sides: tuple[str, str],
    default: Store,
    kinds: Sequence[str],
    as_csv: bool,
    **options: Any,
) -> int:
    """Print a table for each kind that both sides have; returns the exit status.

    Args:
        sides: a sweep of `default`, or a folder or address of a store, each.
        default: the store of sweeps.
        kinds: which to compare; all if there are none.
        options: of `memexp.stats.compare`.

    Raises:
        StoreError: a side is neither, or they have no kind with a headline in common.
    """
    a, b = (_side(name, default) for name in sides)
    there = [set(side.store.kinds()) - {*BARE} for side in (a, b)]
    asked = list(kinds) or sorted(there[0] & there[1])
    for side, its in zip((a, b), there, strict=True):
        if missing := [kind for kind in kinds if kind not in its]:
            raise StoreError(f"{side.name} has no {missing[0]}; it has {', '.join(sorted(its)) or 'nothing'}")
    found = {kind: headline for kind in asked if (headline := a.headline(kind)) is not None and b.headline(kind)}
    if not found:
        raise StoreError(f"{a.name} and {b.name} have nothing in common that a mean sums up")
    for kind, headline in found.items():
        rows = [side.rows(kind, headline) for side in (a, b)]
        if not all(part.num_rows for part in rows):
            raise StoreError(f"{kind}: {a.name if not rows[0].num_rows else b.name} has no rows of it")
        table = compare(rows[0], rows[1], VALUE, **options)
        if as_csv:
            _print_csv(kind, table)
        else:
            _print_table(f"{kind}: {headline.title}, {a.name} less {b.name}", table)
    return 0


def _side(name: str, default: Store) -> Side:
    """A sweep of the store at hand, else a store."""
    exists = not default.is_local or os.path.isdir(default.location)
    sweeps = latest_manifests(default) if exists else {}
    if name in sweeps:
        return Side(name, default, name)
    if "://" not in name and not os.path.isdir(name):
        known = f"; sweeps of {default.location}: {', '.join(sorted(sweeps)) or 'none'}"
        raise StoreError(f"{name} is neither a store nor a sweep of one{known}")
    return Side(name, Store(name), None)


def _print_csv(kind: str, table: pa.Table) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["kind", *table.column_names])
    writer.writerows([kind, *row.values()] for row in table.to_pylist())


def _print_table(title: str, table: pa.Table) -> None:
    """Conditions by row; then what the verdicts are about, in words."""
    by = table.column_names[: table.column_names.index("verdict")]
    rows = table.sort_by([(name, "ascending") for name in by]).to_pylist() if by else table.to_pylist()
    console = Console(width=None if sys.stdout.isatty() else 200)
    grid = Table()
    for name in by:
        grid.add_column(Text(name))
    for name in ("A", "B", "A - B", "interval", "n"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("over")
    grid.add_column("verdict")
    for row in rows:
        interval = "" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
        means = ("" if row[name] is None else f"{row[name]:.3f}" for name in ("mean_a", "mean_b"))
        n = f"{row['n_a']}" if row["n_a"] == row["n_b"] else f"{row['n_a']}, {row['n_b']}"
        difference = "" if row["difference"] is None else f"{row['difference']:+.3f}"
        names = (Text(cell_text(row[name])) for name in by)
        grid.add_row(*names, *means, difference, interval, n, row["over"], _verdict(row))
    say(console, title)
    console.print(grid)
    for line in _in_words(table, rows):
        say(console, line)


def _verdict(row: dict[str, Any]) -> str:
    if row["verdict"] != "undecided":
        return str(row["verdict"])
    least = row["detectable"]
    return f"undecided: {row['reason']}" if least is None else f"undecided, would have found {least:.3f}"


def _in_words(table: pa.Table, rows: list[dict[str, Any]]) -> list[str]:
    count = Counter(row["verdict"] for row in rows)
    one = rows[0]
    paired = sum(row["shared_items"] > 0 for row in rows)
    lines = [
        f"{len(rows)} condition{'s' if len(rows) > 1 else ''}: {count['differs']} differ, {count['equivalent']} "
        f"equivalent within {one['margin']:g}, {count['undecided']} undecided; {paired} with shared items, paired.",
        f"Intervals of {one['level']:.0%}; verdicts at {1 - one['level']:.2g} by Holm's correction over conditions.",
        f"Undecided is not equal: what is told would have been found with probability {one['power']:g}.",
    ]
    only = {name: int((table.schema.metadata or {}).get(f"only_{name}".encode(), b"0")) for name in "ab"}
    if any(only.values()):
        lines.append(f"In one alone, and left out: {only['a']} of A, {only['b']} of B.")
    narrower = {row["reason"] for row in rows if row["reason"] and row["low"] is not None}
    return [*lines, *(f"{reason[0].upper()}{reason[1:]}." for reason in sorted(narrower))]
