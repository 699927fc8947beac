"""The last lines of a run: where the page is that shows what the sweep found, and what draws one figure of it."""

from __future__ import annotations

import os
import shlex

from rich.console import Console

from memexp.errors import one_line
from memexp.report.terminal import say
from memexp.store import Store, option_for
from memexp.store.manifests import latest_manifests

__all__ = ["SWITCH", "say_page"]

SWITCH = "MEMEXP_REPORT"
"""The variable that is ``no`` where a run is to end without a page."""
MOST_FILES = 2_000
"""Of results that a run waits for a picture of: 5,000 take the better part of a minute."""


def say_page(store: Store, sweep: str, console: Console) -> None:
    """Write the page of a sweep and say where it is; what goes wrong is a line, since the results are there."""
    if os.environ.get(SWITCH, "").lower() in ("no", "0", "off", "false"):
        return
    try:
        from memexp.figures.own import FAMILIES
        from memexp.report.page import written

        files = len(latest_manifests(store).get(sweep, ()))
        if files > MOST_FILES:
            command = f"memexp report {option_for(store)}--sweep {shlex.quote(sweep)}"
            say(console, f"{files} result files take a while to draw: {command}")
            return
        path, figures = written(store, sweep)
    except Exception as error:  # whatever a drawing library raises: no sweep fails for its picture
        say(console, f"no report could be drawn: {one_line(error, 200)}", "yellow")
        return
    say(console, f"report: {path}")
    where = f"{option_for(store)}--sweep {shlex.quote(sweep)}"
    for figure in figures:
        if (family := figure.name.partition("-")[0]) in (*FAMILIES, "searches"):
            say(console, f"figure: memexp plot {family} {where}")
            break
