"""The last line of a run: where the page is that shows what the sweep found."""

from __future__ import annotations

import os

from rich.console import Console

from memexp.errors import one_line
from memexp.report.terminal import say
from memexp.store import Store

__all__ = ["SWITCH", "say_page"]

SWITCH = "MEMEXP_REPORT"
"""The variable that is ``no`` where a run is to end without a page."""


def say_page(store: Store, sweep: str, console: Console) -> None:
    """Write the page of a sweep and say where it is; what goes wrong is a line, since the results are there."""
    if os.environ.get(SWITCH, "").lower() in ("no", "0", "off", "false"):
        return
    try:
        from memexp.report.page import write_page

        path = write_page(store, sweep)
    except Exception as error:  # whatever a drawing library raises: no sweep fails for its picture
        say(console, f"no report could be drawn: {one_line(error, 200)}", "yellow")
        return
    say(console, f"report: {path}")
