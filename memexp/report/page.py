"""`memexp report`: one HTML page of a sweep, or of all that a store holds, that opens anywhere and asks nobody.

    path = write_page(Store("results"), sweep="quickstart", out=None)

Charts are drawn in the browser by Vega, whose JavaScript is in the page (`vl_convert`); their points were aggregated
before. A policy in the page forbids the browser every request. All text is escaped: what a model wrote is shown.
"""

from __future__ import annotations

import functools
import html
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memexp.errors import StoreError
from memexp.figures import Chapter, Figure, chapters
from memexp.figures.style import config
from memexp.report.account import account
from memexp.report.samples import sample
from memexp.sources.cache import recall_answer, remember_answer
from memexp.store import Store
from memexp.wording import noun

__all__ = ["page", "write_page", "written"]

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the browser may load: nothing but what is in the page. Without `eval`: Vega interprets its expressions."""
FILTERS = ("model", "lr", "seed")
VEGA = "window.vegaEmbed = vegaEmbed;"


def write_page(store: Store, sweep: str | None = None, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a sweep, or of the whole store, and say where.

    Args:
        store: where the results are.
        sweep: only this one, as it was last started.
        out: the file; by default ``report.html`` or ``report-SWEEP.html`` in the store, of a store in a bucket in the
            current folder.

    Raises:
        StoreError: there is no such sweep, a file cannot be read, or the page cannot be written.
    """
    return written(store, sweep, out)[0]


def written(store: Store, sweep: str | None, out: str | os.PathLike[str] | None = None) -> tuple[Path, list[Figure]]:
    """The same, with the figures that are on the page."""
    name = "report.html" if sweep is None else f"report-{sweep}.html"
    path = Path(out) if out is not None else Path(store.location if store.is_local else ".") / name
    text, figures = _page(store, sweep)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    return path.absolute(), figures


def page(store: Store, sweep: str | None = None) -> str:
    """The HTML."""
    return _page(store, sweep)[0]


def _page(store: Store, sweep: str | None) -> tuple[str, list[Figure]]:
    """The same, with the figures that are on it."""
    vega = _Later(javascript)
    found = chapters(store, sweep, sample)
    figures = [figure for chapter in found for figure in chapter.figures]
    title = f"memexp: {sweep or os.path.basename(store.location)}"
    numbers = iter(range(len(figures)))
    body = "\n".join(
        _chapter(store, chapter, [next(numbers) for _ in chapter.figures], len(found)) for chapter in found
    )
    charts = [
        {
            "panels": [
                {
                    "title": panel.title,
                    "data": panel.data,
                    "rows": panel.rows,
                    "charts": {axis: _spec(chart, panel.height) for axis, chart in panel.charts.items()},
                }
                for panel in figure.panels
            ]
        }
        for figure in figures
    ]
    filters = _filters(row for figure in figures for panel in figure.panels for row in panel.rows)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = _template().format(
        policy=html.escape(POLICY),
        title=html.escape(title),
        css=_piece("page.css"),
        heading=html.escape(sweep or "All results"),
        about=html.escape(f"{store.location}, {made}"),
        filters=filters,
        body=body,
        data=in_script(charts),
        config=in_script(config()),
        vega=vega.result(),
        script=_piece("page.js"),
    )
    return text, figures


def in_script(value: Any) -> str:
    """JSON that ends no script, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed, as ``vegaEmbed``: seconds of work in which Python stands still, so it is kept."""
    import vl_convert

    question = ["vega", version("vl-convert-python"), VEGA]
    bundle = recall_answer(question)
    if not isinstance(bundle, str):
        bundle = str(vl_convert.javascript_bundle(VEGA))
        remember_answer(question, bundle)
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise StoreError("the JavaScript of vl-convert would end the script it is in: install the pinned version")
    return bundle


class _Later:
    """What another thread works on meanwhile."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._work, self._found = work, ""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        try:
            self._found = self._work()
        except Exception as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> str:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


def _piece(name: str) -> str:
    return resources.files("memexp.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> str:
    return _piece("page.html")


def _spec(chart: Any, height: int) -> dict[str, Any]:
    # Checked against Vega's schema where they are tested: a hundred charts take a second.
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict(validate=False)
    return {name: _without_legends(value) for name, value in spec.items() if name not in ("config", "$schema")}


def _without_legends(part: Any) -> Any:
    """The page has them in words, and Vega draws one that is described whatever its configuration says."""
    if isinstance(part, list):
        return [_without_legends(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {name: _without_legends(value) for name, value in part.items() if name != "legend"}


def _filters(rows: Iterable[dict[str, Any]]) -> str:
    """A choice for each of `FILTERS` that has several values."""
    values: dict[str, dict[str, None]] = {name: {} for name in FILTERS}
    for row in rows:
        for name in FILTERS:
            if isinstance(row.get(name), str) and row[name] not in ("", "all"):
                values[name][row[name]] = None
    parts = []
    for name, found in values.items():
        if len(found) > 1:
            first = "mean over seeds" if name == "seed" else "all"
            options = "".join(f"<option>{html.escape(value)}</option>" for value in sorted(found, key=_order))
            choice = f"<select data-filter='{name}'><option value=''>{first}</option>{options}</select>"
            parts.append(f"<label>{name} {choice}</label>")
    return f"<form class='filters' aria-label='filters'>{''.join(parts)}</form>" if parts else ""


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def _chapter(store: Store, chapter: Chapter, numbers: Sequence[int], of: int) -> str:
    """The figures of a sweep; `numbers` are theirs in the page."""
    name = chapter.sweep or "Results that belong to no sweep"
    heading = f"<h2 class='chapter'>{html.escape(name)}</h2>" if of > 1 else ""
    drawn = "\n".join(_figure(figure, at) for figure, at in zip(chapter.figures, numbers, strict=True))
    cost = account(store, chapter.sweep) if chapter.sweep is not None else ""
    return (
        heading
        + (drawn or "<p class='empty'>There is nothing to draw: no results are there.</p>")
        + chapter.more
        + cost
    )


def _figure(figure: Figure, at: int) -> str:
    axes = list(figure.panels[0].charts)
    choice = ""
    if len(axes) > 1:
        options = "".join(f"<option>{html.escape(axis)}</option>" for axis in axes)
        choice = f"<label class='axis'>x-axis <select data-axis='{at}'>{options}</select></label>"
    legend = "".join(f"<li>{_symbol(colour, shape)}{html.escape(name)}</li>" for name, colour, shape in figure.legend)
    legend += "".join(f"<li>{_dash(lengths)}{html.escape(name)}</li>" for name, lengths in figure.dashes)
    if legend and figure.legend_title:
        legend = f"<li class='title'>{html.escape(figure.legend_title)}</li>{legend}"
    legend = f"<ul class='legend' aria-label='{html.escape(figure.legend_title)}'>{legend}</ul>" if legend else ""
    panels = "".join(
        f"<div class='panel' data-panel='{number}'>"
        + (f"<h3>{html.escape(panel.title)}</h3>" if panel.title else "")
        + "<div class='chart'></div></div>"
        for number, panel in enumerate(figure.panels)
    )
    return (
        f"<figure id='{html.escape(figure.name)}' data-figure='{at}'><div class='head'><h2>{html.escape(figure.title)}"
        f"</h2>{choice}</div>{legend}<div class='panels'>{panels}</div>"
        f"<figcaption>{html.escape(figure.caption)}</figcaption>{_numbers(figure)}</figure>"
    )


_OUTLINES = {
    "circle": "<circle cx='6' cy='6' r='4.5'/>",
    "square": "<rect x='2' y='2' width='8' height='8'/>",
    "triangle-up": "<path d='M6 1.5 11 10.5H1Z'/>",
    "triangle-down": "<path d='M6 10.5 11 1.5H1Z'/>",
    "diamond": "<path d='M6 0.5 10.5 6 6 11.5 1.5 6Z'/>",
    "cross": "<path d='M4 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z'/>",
}


def _symbol(colour: str, shape: str) -> str:
    return (
        f"<svg viewBox='0 0 12 12' width='12' height='12' fill='{colour}' aria-hidden='true'>{_OUTLINES[shape]}</svg>"
    )


def _dash(lengths: Sequence[int]) -> str:
    drawn = " ".join(map(str, lengths))
    line = f"<line x1='0' y1='6' x2='30' y2='6' stroke='currentColor' stroke-width='2' stroke-dasharray='{drawn}'/>"
    return f"<svg viewBox='0 0 30 12' width='30' height='12' aria-hidden='true'>{line}</svg>"


MOST_NUMBERS = 400


def _numbers(figure: Figure) -> str:
    """The points as a table."""
    if not figure.numbers:
        return ""
    names = [*figure.columns, "mean", "interval", "n"]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    rows = "".join(_line([row.get(c) for c in figure.columns], row) for row in figure.numbers[:MOST_NUMBERS])
    left = len(figure.numbers) - MOST_NUMBERS
    more = f"<p>and {left:,} more {noun(left, 'row')}</p>" if left > 0 else ""
    return (
        f"<details><summary>Numbers</summary><div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{more}</details>"
    )


def _line(values: Sequence[Any], row: dict[str, Any]) -> str:
    cells = [*map(str, values), row["_mean"], row["_interval"], row["_n"]]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
