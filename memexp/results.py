"""Rows of results in Python: of a sweep as it was last started, or of a whole store, read when they are asked for.

    recall = sweep.results("recall")                       # or memexp.open("results").recall(sweep="quickstart")
    recall.to_pandas().groupby("model").rouge1.mean()
    recall.to_duckdb().aggregate("model, avg(rouge1)")

Needs neither torch nor Ray, and pandas or polars only where their frames are asked for.
"""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from memexp.errors import StoreError
from memexp.store import Store, default_store
from memexp.store.closed import STREAM, closed, give
from memexp.store.manifests import latest_manifests
from memexp.store.query import rows_of
from memexp.wording import amount

if TYPE_CHECKING:
    import altair as alt
    import pandas
    import polars

__all__ = ["Opened", "Results", "open_store"]

SHOWN = 10
"""Rows of a table in a notebook."""
IDENTITIES = ("stage_id", "probe_id", "condition_id")


class Results:
    """The rows of one kind, each measurement once: not again for every condition that asked for it."""

    def __init__(self, store: Store, kind: str, sweep: str | None = None, copies: bool = False) -> None:
        """As `Opened.results`, which checks that the store has such rows."""
        self.store, self.kind, self.sweep, self.copies = store, kind, sweep, copies

    @functools.cached_property
    def _table(self) -> pa.Table:
        with closed() as connection:
            try:
                return self._read(connection)
            except duckdb.Error as error:
                if STREAM in str(error):  # which file it is DuckDB does not say
                    for name in sorted(self.store.names(self.kind)):
                        self.store.read(self.kind, name)
                raise StoreError(f"{self.store.path(self.kind)}: {str(error).splitlines()[0]}") from error

    def _read(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        rows = give(connection, f"{self.kind}/", self.store.datasets(self.kind))
        if self.sweep is not None:
            manifests = give(connection, "sweeps/", self.store.datasets("sweeps"))
            rows = f"(FROM {rows}{rows_of(self.sweep, self.kind, manifests)})"
        known = {column[0] for column in connection.execute(f"DESCRIBE FROM {rows}").fetchall()}
        first = ""
        if not self.copies and known.issuperset(IDENTITIES):
            stage, probe, condition = IDENTITIES
            one = f"SELECT {stage}, {probe}, min({condition}) FROM {rows} GROUP BY ALL"
            # Imported rows have no stage; they are measured once as it is.
            first = f" WHERE {stage} IS NULL OR ({', '.join(IDENTITIES)}) IN ({one})"
        return connection.sql(f"FROM {rows}{first}").to_arrow_table()

    @property
    def columns(self) -> list[str]:
        """Their names; docs/results.md and the schema of the probe say what they mean."""
        return list(self._table.column_names)

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame of pandas. Raises StoreError where pandas is not installed."""
        _there("pandas")
        return self._table.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """The rows as a data frame of polars. Raises StoreError where polars is not installed."""
        _there("polars")
        import polars

        frame = polars.from_arrow(self._table)
        assert isinstance(frame, polars.DataFrame)  # as it is of every table
        return frame

    def to_duckdb(self) -> duckdb.DuckDBPyRelation:
        """The rows as a relation of DuckDB's default connection: ``recall.to_duckdb().filter("exposures = 3")``."""
        return duckdb.from_arrow(self._table)

    def plot(
        self, kind: str | None = None, *, x: str | None = None, y: str | None = None, by: str | None = None
    ) -> alt.TopLevelMixin:
        """The rows as an altair chart, which notebooks show; see `memexp.figures.plot`.

        Every condition is drawn, whether or not it shares its numbers with another. Raises SpecError where a column is
        not there or nothing is to be drawn.
        """
        from memexp.figures import plot

        return plot(Results(self.store, self.kind, self.sweep, copies=True).to_arrow(), kind, x=x, y=y, by=by)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        of = "" if self.sweep is None else f", sweep {self.sweep!r}"
        size = f"{amount(len(self), 'row')}, {amount(len(self.columns), 'column')}"
        return f"<{self.kind} of {self.store.location}{of}: {size}>"

    def _repr_html_(self) -> str:
        """For notebooks: the first rows, of columns that are not the same in all of them."""
        table = self._table
        varied = [name for name in table.column_names if _varies(table[name])] or table.column_names
        head = table.select(varied).slice(0, SHOWN).to_pylist()
        names = "".join(f"<th>{html.escape(name)}</th>" for name in varied)
        rows = "".join(f"<tr>{''.join(_cell(row[name]) for name in varied)}</tr>" for row in head)
        said = html.escape(repr(self)[1:-1])
        return f"<p>{said}</p><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


class Opened:
    """A store that is there: each kind of rows is a method, ``opened.recall()``, as is ``opened.results("recall")``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def kinds(self) -> list[str]:
        """What it has rows of."""
        return self.store.kinds()

    @property
    def sweeps(self) -> list[str]:
        """The sweeps that were started on it."""
        return sorted(latest_manifests(self.store))

    def results(self, kind: str, sweep: str | None = None, copies: bool = False) -> Results:
        """The rows of a kind.

        Args:
            kind: a probe's, or ``training``, ``stages``, ``sweeps``, ``searches``.
            sweep: only what belongs to this sweep, as it was last started.
            copies: a measurement again for every condition that asked for it, as it lies in the store; so a condition
                of no exposures has rows for each learning rate.

        Raises:
            StoreError: the store has no such rows or no such sweep.
        """
        if kind not in self.kinds:
            raise StoreError(f"{self.store.location} has no {kind!r}; it has {', '.join(self.kinds) or 'nothing'}")
        if sweep is not None and sweep not in self.sweeps:
            known = ", ".join(self.sweeps) or "none"
            raise StoreError(f"{self.store.location} has no sweep {sweep!r}; it has {known}")
        return Results(self.store, kind, sweep, copies)

    def __getattr__(self, kind: str) -> Any:
        if kind.startswith("_"):
            raise AttributeError(kind)
        return functools.partial(self.results, kind)

    def __dir__(self) -> Sequence[str]:
        return [*super().__dir__(), *self.kinds]

    def __repr__(self) -> str:
        return f"<store {self.store.location}: {', '.join(self.kinds) or 'empty'}>"


def open_store(store: str | os.PathLike[str] | None = None) -> Opened:
    """A store to read from: a folder or URL, MEMEXP_STORE or ``results`` by default. Public as `memexp.open`.

    Raises StoreError where there is none.
    """
    opened = Store(store or default_store())
    if opened.is_local and not os.path.isdir(opened.location):
        raise StoreError(f"there is no store at {opened.location}")
    return Opened(opened)


def _there(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        advice = "pip install 'memexp[analysis]', or take .to_arrow() or .to_duckdb()"
        raise StoreError(f"{package} is not installed: {advice}")


def _varies(column: pa.ChunkedArray) -> bool:
    seen = column.slice(0, 1).to_pylist()
    return any(value != seen[0] for value in column.to_pylist())


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"<td>{html.escape(text if len(text) <= 200 else text[:199] + '…')}</td>"
