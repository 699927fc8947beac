"""What a sweep found, for the terminal: a table of means for each kind, the best of each search, a query for more."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from memexp.errors import redacted
from memexp.plan import Forest
from memexp.report.intervals import Interval, said_of
from memexp.report.summary import Table, cell_text, summarized
from memexp.report.views import by_condition
from memexp.search.ledger import Ledger
from memexp.spec.search import point_text
from memexp.store import Store, option_for
from memexp.wording import amount, listed, noun

__all__ = ["print_searches", "print_summary", "say"]

LONGEST = 100
"""Characters of a line that is to be copied; a longer one goes on in the next."""

_OVER = {
    "seed": "all seeds",
    "corpus": "all study lists",
    "corpus_id": "all study lists",
    "counterbalanced": "both halves of the counterbalancing (targets studied, foils studied)",
    "replication": "all replications",
}
"""What means are over, in words."""


def say(console: Console, line: str, style: str | None = None) -> None:
    """One line, as it is: no markup, no colour by content, no wrapping in the middle of a path."""
    console.print(redacted(line), style=style, highlight=False, markup=False, soft_wrap=True)


def print_summary(store: Store, sweep: str, forest: Forest, console: Console) -> None:
    """Print the means of `sweep` where a terminal can hold them, and the query that gives them."""
    found = summarized(store, forest)
    if found.others:
        query = f'memexp query {option_for(store)}"SELECT * FROM {found.others[0]}"'
        say(console, f"Rows of {', '.join(found.others)} are in the store: {query}")
    for table in found.tables:
        _print_table(table, console)
    if found.over:
        say(console, f"Each mean is taken over {listed([_OVER.get(name, f'all {name}') for name in found.over])}.")
    if found.first is not None:
        say(console, "\nOne row per item is in the store. For more:")
        words = f"--sweep {shlex.quote(sweep)} {by_condition(found.first)}"
        command = f"  memexp query {option_for(store)}{words}"
        if len(command) > LONGEST:
            command = f"  memexp query {option_for(store)}\\\n      {words}"
        say(console, f"{command}\n")


def _print_table(table: Table, console: Console) -> None:
    """A row for each group, in the order of the sweep, a column for each value of the axis; and what it shows."""
    grid = _grid(table, with_intervals=True)
    wide = Measurement.get(console, console.options.update(width=1_000), grid).maximum
    if narrow := wide > console.width:
        grid = _grid(table, with_intervals=False)
    headline, found = table.headline, table.found
    chance = f" (chance is {headline.chance:.2f})" if isinstance(headline.chance, float) else ""
    say(console, f"\n{table.kind}: {headline.title}{chance}, by {table.axis}")
    console.print(grid)
    if table.intervals:
        say(console, said_of(list(table.intervals.values()), shown=not narrow))
    if found.chance is not None:
        say(console, f"Chance is {found.chance:.2f}.")
    if table.axis == "exposures" and "task" not in table.varied:
        line = _in_a_line([row for _, row in table.rows], table.columns)
        if line is not None:
            say(console, line)
    if found.missing:
        are = noun(found.missing, "is", "are")
        say(console, f"{found.missing} of {amount(found.items, 'item')} {are} NULL: {headline.why_null}.")
    if found.partial:
        are = noun(found.partial, "is", "are")
        line = f"{found.partial} of the means {are} over part of their conditions: the others have no result"
        say(console, f"{line} (yet).")


def _grid(table: Table, with_intervals: bool) -> Grid:
    grid = Grid()
    # Text, since a name in brackets would be taken for a style.
    for name in table.varied:
        grid.add_column(Text(name, overflow="fold"), vertical="bottom", overflow="fold")
    for number, at in enumerate(table.columns):
        above = table.axis.replace("_", " ") if number == 0 else ""
        grid.add_column(Text(f"{above}\n{cell_text(at)}", overflow="fold"), justify="right", overflow="fold")
    for group, row in table.rows:
        names = [Text(cell_text(value)) for value in group]
        cells = [
            _cell(mean, table.intervals.get((group, at)) if with_intervals else None)
            for at, mean in zip(table.columns, row, strict=True)
        ]
        grid.add_row(*names, *cells)
    return grid


def _cell(mean: float | None, interval: Interval | None) -> Text:
    if mean is None:
        return Text("")
    cell = Text(f"{mean:.2f}")
    if interval is not None and interval.low is not None and interval.high is not None:
        cell.append(f" [{interval.low:.2f}, {interval.high:.2f}]", "dim")
    return cell


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


def print_searches(ledgers: Sequence[Ledger], console: Console) -> None:
    """Print the best point of each search, and how its suggestions ended."""
    if not ledgers:
        return
    table = Grid()
    for name in ("search", "best point", "metric", "complete", "stopped", "diverged"):
        table.add_column(Text(name), justify="left" if name in ("search", "best point") else "right")
    for ledger in ledgers:
        states = Counter(entry.state for entry in ledger.entries.values())
        best = ledger.best
        table.add_row(
            Text(ledger.prepared.search.name),
            Text(point_text(best.candidate.point) if best else ""),
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
