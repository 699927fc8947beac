"""``memexp status --watch``: how far sweeps are, and the loss of each running trial, until none runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from memexp.plan.heartbeat import running
from memexp.report.status import status_of
from memexp.store import Store

__all__ = ["trial_lines", "watch"]

EVERY = 5.0
"""Seconds between two looks; a store that takes long to read is looked at less often."""
SHARE = 4
"""How many times as long as a look takes is waited until the next one."""
LONGEST = 60
"""Characters of a name."""


def watch(store: Store, console: Console | None = None, wait: Callable[[float], None] = time.sleep) -> int:
    """Show what `memexp status` says and a line for each running trial again and again; on a terminal in place, else a
    line whenever one is another.

    Returns when no sweep is running on the store any more: 0 if every sweep is complete, else 1.
    """
    console = console or Console(markup=False, highlight=False, soft_wrap=True)
    shown: list[str] = []
    with Live(console=console, auto_refresh=False, screen=False) if console.is_terminal else _Nothing() as live:
        while True:
            began = time.monotonic()
            status = status_of(store)
            lines = [*status.lines, *trial_lines(running(store))]
            if isinstance(live, Live):
                live.update(Text("\n".join(lines), overflow="fold"), refresh=True)
            else:
                for line in lines:
                    if line not in shown:
                        console.print(line)
                shown = lines
            if not status.running:
                return 0 if status.complete else 1
            wait(max(EVERY, SHARE * (time.monotonic() - began)))


class _Nothing:
    """What is not shown in place."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def trial_lines(signs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A line for each trial that signs of life tell of, by sweep; what is not as memexp writes it is passed over.

    Args:
        signs: as `memexp.plan.heartbeat.running` finds them.
    """
    lines = []
    for sweep in sorted(signs):
        trials = [one for sign in signs[sweep] for one in sign.get("trials", []) if isinstance(one, dict)]
        for one in sorted(trials, key=lambda one: str(one.get("trial"))):
            try:
                lines.append(f"  {_text(sweep)}, {_trial(one)}")
            except (KeyError, TypeError, ValueError, OverflowError):  # anyone may write into a shared store
                continue
    return lines


def _trial(one: dict[str, Any]) -> str:
    ago = max(0, round(time.time() - float(one["time"])))
    said = f"trial {_text(one['trial'])}: {_text(one['model'])}"
    if "step" not in one:
        return f"{said}, begun {ago} s ago"
    loss = one["loss"]
    value = "" if loss is None or not math.isfinite(loss) else f", loss {float(loss):.3f}"
    where = f"{_text(one['kind'])} with lr {float(one['lr']):g}, seed {int(one['seed'])}"
    return f"{said}, {where}: step {int(one['step'])} of {int(one['last'])}{value} ({ago} s ago)"


def _text(value: object) -> str:
    """A name as a terminal may have it."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))[:LONGEST]
