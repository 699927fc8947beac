"""The answer to one SELECT over a store: a table to read, or CSV, JSON or Parquet to work with.

memexp query recognition_by_condition
memexp query --sweep quickstart "FROM recall WHERE exact"
memexp query --format csv "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL"
memexp query --output recall.parquet recall

Of a table's ``*`` only what differs between rows is shown; files have it all.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from memexp.errors import SpecError, StoreError, visible
from memexp.records import BARE, MADE_WITH
from memexp.report.output import binary
from memexp.report.rendered import csv_text, json_text, parquet_bytes, plain
from memexp.report.views import View, views_of
from memexp.store import Store
from memexp.store.query import Asked, asked
from memexp.store.references import references

__all__ = ["FORMATS", "print_query", "print_views"]

FORMATS = ("table", "csv", "json", "parquet")
NARROWEST, WIDEST = 16, 40
"""A terminal without that many characters for each longer column shows part of an answer; that many of a value."""
UNTOLD = {*MADE_WITH.names, "condition_id", "stage_id", "probe_id", "probe_settings", "corpus_id", "model_id"}
"""Of what is the same in all rows the columns whose values nobody wants to read."""


def print_query(
    store: Store,
    sql: str,
    form: str | None = None,
    sweep: str | None = None,
    out: str | None = None,
    all_columns: bool = False,
) -> int:
    """Print what `memexp.store.query.asked` gives, or write it to a file.

    Args:
        store: what is asked.
        sql: one SELECT, or the name of a table or view.
        form: one of `FORMATS`; by default what the name of the file says, else a table.
        sweep: only what belongs to it as it was last started.
        out: the file.
        all_columns: whether a table has also those that are the same in all rows.

    Returns:
        The exit status.

    Raises:
        SpecError: the format and where it is to go do not fit.
        StoreError: see `asked`; or the file cannot be written.
    """
    form = _form(form, out, store)
    views = views_of(store)
    with asked(store, sql, sweep, views) as found:
        kinds = found.kinds
        if form == "table":
            _print_answer(found, views, all_columns)
        else:
            data = parquet_bytes(found.table()) if form == "parquet" else _text(form, found).encode()
    if form != "table":
        _give(data, out)
    if sweep is None:
        _note_older(store, kinds)
    return 0


def print_views(store: Store) -> int:
    """Print the views of a store, a line each; returns the exit status."""
    found = views_of(store)
    widest = max(map(len, found), default=0)
    for name, view in found.items():
        print(f"{name:{widest}}  {view.says}")
    if not found:
        print("no views: the store has no rows")
    return 0


def _form(form: str | None, out: str | None, store: Store) -> str:
    """The format that is asked for."""
    if out is None:
        if form == "parquet" and sys.stdout.isatty():
            raise SpecError("--format parquet is nothing to read: add --output FILE, or send it to a program")
        return form or "table"
    ending = Path(out).suffix.removeprefix(".").lower()
    form = form or ending
    if form not in FORMATS[1:]:
        raise SpecError(
            f"--output {out}: its name ends in .csv, .json or .parquet, or --format says which of them it is"
        )
    if store.is_local and Path(os.path.abspath(out)).is_relative_to(store.location):
        raise SpecError(f"--output {out}: lies in the store, which holds nothing but its own files; write it elsewhere")
    return form


def _text(form: str, found: Asked) -> str:
    text = (csv_text if form == "csv" else json_text)(*found.rows())
    return visible(text) if sys.stdout.isatty() else text


def _give(data: bytes, out: str | None) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    if out is None:
        binary(data)
        return
    try:
        partial = Path(out).with_name(f".{Path(out).name}.{os.getpid()}")
        try:
            partial.write_bytes(data)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from error
    print(out)


def _note_older(store: Store, kinds: Iterable[str]) -> None:
    """Say on standard error how many results in what was asked no sweep lists as it was last started."""
    with contextlib.suppress(StoreError):  # of what was not asked for
        known = None if store.is_export() else references(store)
        if known is None or not known.sweeps:
            return
        for kind in kinds:
            names = set() if kind in BARE else store.names(kind)
            if older := known.unlisted(kind, names):
                rest = f"{len(older)} of the {len(names)} results in {kind} belong to no sweep as it was last started"
                print(f"note: {rest}; --sweep NAME leaves them out, memexp prune shows them", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------
# Tables


def _print_answer(found: Asked, views: Mapping[str, View], all_columns: bool) -> None:
    """Print rows, of a ``*`` without the columns that say nothing of their differences."""
    names, rows = found.rows()
    if not rows:
        print("no rows")
        return
    cells = [[visible(_cell(value)) for value in row] for row in rows]
    kept = {name for view in found.views for name in views[view].shown}
    unnamed = frozenset() if all_columns or found.unnamed is None else found.unnamed - kept
    same = [at for at, name in enumerate(names) if name in unnamed and len({row[at] for row in cells}) == 1]
    if len(rows) == 1 and len(same) == len(names) > 1:
        _print_same(dict(zip(names, cells[0], strict=True)))
        return
    shown = [at for at in range(len(names)) if at not in same]
    if shown:
        _print_table([names[at] for at in shown], [[row[at] for at in shown] for row in cells])
    if same:
        told = [f"{names[at]} = {_short(cells[0][at])}" for at in same if cells[0][at] and names[at] not in UNTOLD]
        if told:
            print(f"the same in all rows: {', '.join(told)}")
        ways = "--all-columns shows them, files (--format csv) have them"
        print(f"rows: {len(rows)}; left out: {len(same)} columns that are the same in all rows or NULL; {ways}")


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _cell(value: Any) -> str:
    """A value for people: NULL is nothing, an empty text is not."""
    if value is None or value == "":
        return "" if value is None else '""'
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


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
        print(f"NULL: {', '.join(nothing)}")


def _line(widths: Iterable[int]) -> int:
    """Characters of a line of a table."""
    return sum(width + 3 for width in widths) + 1
