"""What a sweep cost, what of it failed, and with which versions it was made: tables of a page, from ``stages/``."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from memexp.errors import redacted
from memexp.records import STAGES
from memexp.report.samples import shown
from memexp.store import Store
from memexp.store.closed import closed, give
from memexp.store.query import quoted
from memexp.wording import amount

__all__ = ["account"]

MOST = 12
"""Rows of a table."""


def account(store: Store, sweep: str | None) -> str:
    """HTML of the attempts of a sweep, or of all; "" where there are none.

    Raises StoreError for a file that cannot be read.
    """
    datasets = store.datasets("stages") if "stages" in store.kinds() else []
    if not datasets:
        return ""
    its = "true" if sweep is None else f"sweep = {quoted(sweep)}"
    with closed() as connection:
        rows = give(connection, "stages", datasets)
        have = {name for name, *_ in connection.execute(f"DESCRIBE FROM {rows}").fetchall()}
        columns = ", ".join(name if name in have else f"NULL AS {name}" for name in STAGES.names)
        connection.execute(f"CREATE TEMP TABLE own AS SELECT {columns} FROM {rows} WHERE {its}")
        cost = connection.execute(COST).fetchall()
        failed = connection.execute(FAILED).fetchall()
        made = connection.execute(MADE).fetchall()
    if not cost:
        return ""
    parts = [_table("What it cost", ("model", "part", "done", "time", "optimizer steps", "tokens"), map(_cost, cost))]
    if failed:
        parts.append(_table("What failed", ("status", "attempts", "stage", "reason"), failed[:MOST]))
        if len(failed) > MOST:
            parts.append(
                f"<p class='about'>and {amount(len(failed) - MOST, 'more reason')}: `memexp status` has them</p>"
            )
    heads = ("memexp", "torch", "transformers", "device", "precision", "threads", "workers", "code")
    parts.append(_table("Made with", heads, made[:MOST]))
    return f"<section class='card'>{''.join(parts)}</section>"


COST = """
    SELECT model, if(probe_id IS NULL, kind, 'measuring ' || kind), count(*), sum(seconds * coalesce(workers, 1)),
           sum(steps), sum(tokens)
    FROM own WHERE status = 'complete' GROUP BY ALL ORDER BY 4 DESC LIMIT 40
"""
FAILED = """
    SELECT status, count(*), kind, any_value(error) FROM own
    WHERE status NOT IN ('complete', 'begun', 'skipped') GROUP BY status, kind, left(error, 200) ORDER BY 2 DESC
"""
MADE = """
    SELECT memexp, torch, transformers, device, precision, threads, workers, left("commit", 10) FROM own
    WHERE status = 'complete' GROUP BY ALL ORDER BY count(*) DESC
"""


def _cost(row: Sequence[Any]) -> tuple[Any, ...]:
    model, part, done, seconds, steps, tokens = row
    return model, part, f"{done:,}", _time(seconds or 0.0), f"{steps or 0:,}", f"{tokens or 0:,}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _table(title: str, names: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{'' if cell is None else shown(redacted(str(cell)))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h2>{html.escape(title)}</h2><div class='scroll'>{table}</div>"
