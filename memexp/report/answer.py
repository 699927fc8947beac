"""The answer to one SELECT over a store, for the terminal or as CSV.

memexp query "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL"
memexp query --sweep quickstart "FROM recall"
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from memexp.store import Store
from memexp.store.query import answer

__all__ = ["print_query"]

NARROWEST, WIDEST = 16, 40
"""A terminal without that many characters for each longer column shows part of an answer; that many of a value."""


def print_query(store: Store, sql: str, as_csv: bool, sweep: str | None = None) -> int:
    """Print what `memexp.store.query.answer` gives, and raise what it raises; returns the exit status."""
    names, rows = answer(store, sql, sweep)
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif rows:
        _print_table(names, [[_cell(value) for value in row] for row in rows])
    else:
        print("no rows")
    return 0


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print all in a pipe or file, which have room for every column, and on a terminal as much as it has room for."""
    console = Console(emoji=False, width=None if sys.stdout.isatty() else 100_000)
    longest = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    shown = list(range(len(names)))
    whole = not sys.stdout.isatty() or _line(min(width, NARROWEST) for width in longest) <= console.width
    if not whole:
        same = [at for at in shown if len({row[at] for row in rows}) == 1]
        _print_same({names[at]: rows[0][at] for at in same})
        shown = [at for at in shown if at not in same]
        while len(shown) > 1 and _line(min(longest[at], WIDEST) for at in shown) > console.width:
            shown.remove(max(shown, key=lambda at: (min(longest[at], WIDEST), at)))  # most columns stay so
    table = Table()
    for at in shown:
        if whole:
            table.add_column(names[at], overflow="fold")
        else:
            table.add_column(names[at], no_wrap=True, max_width=WIDEST)
    for row in rows:
        table.add_row(*(row[at] if whole else row[at].replace("\n", "\\n") for at in shown))
    if shown:
        console.print(table, markup=False)
    if not whole:
        left_out = [names[at] for at in range(len(names)) if at not in {*shown, *same}]
        print(f"rows: {len(rows)}, columns: {len(names)}")
        if left_out:
            print(f"no room for {', '.join(left_out)}")


def _print_same(values: Mapping[str, str]) -> None:
    """What is the same in all rows, as most settings are, is said once."""
    for name, value in values.items():
        if value:
            print(f"{name} = {value}")
    if nothing := [name for name, value in values.items() if not value]:
        print(f"NULL or empty: {', '.join(nothing)}")


def _line(widths: Iterable[int]) -> int:
    """Characters of a line of a table."""
    return sum(width + 3 for width in widths) + 1
