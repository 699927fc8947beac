"""One measurement: a user's own code beside a model, and in a process, that others still need.

guard = Inert(lm, weights=runs_users_code(probe))
items, about = measured(probe, Session(lm, untaught), texts, guard, printed)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from memexp.core.inert import Inert
from memexp.core.pass_memory import PassMemory
from memexp.core.session import Session
from memexp.errors import SpecError
from memexp.plan import Ask
from memexp.probes.checks import checked
from memexp.signals import Interrupted, Stopped, asked
from memexp.spec import Probe, located, runs_users_code
from memexp.trial.printed import Printed

__all__ = ["Quit", "measured", "passes_of"]


class Quit(Exception):
    """A probe raised what ends a process (sys.exit, KeyboardInterrupt), and is its cause."""


def passes_of(measurements: Iterable[Sequence[Ask]], texts: Callable[[Ask], Mapping[str, Sequence[str]]]) -> PassMemory:
    """The passes that measurements after one stage share, by their probes' identities; a user's own share none."""
    asks = [asks[0] for asks in measurements if not runs_users_code(asks[0].probe)]
    return PassMemory({ask.probe_id: ask.probe.passed(texts(ask)) for ask in asks})


def measured(
    probe: Probe, session: Session, texts: Mapping[str, Sequence[str]], guard: Inert, printed: Printed
) -> tuple[pa.Table, Sequence[str | None] | None]:
    """What a probe measures, and the text that each row is about; afterwards all is as before, but for the model where
    `guard` says that it changed.

    Raises:
        Stopped: the process was asked to stop meanwhile, whatever the probe made of that.
        Interrupted: the main thread is not to go on, as where the store is gone.
        Quit: it meant to end the process by itself.
        SpecError: it has changed the model, or its rows are not of its schema.
        Exception: whatever else it raises.
    """
    try:
        with guard, printed:
            items = probe.measure(session, texts)
            table = checked(probe, items)
            about = _about(probe, table, texts)
    except BaseException as error:
        if asked() is not None:
            raise Stopped from error
        if isinstance(error, Exception | Interrupted):
            raise
        raise Quit(type(error).__name__) from error
    if asked() is not None:  # and the probe took it for its own
        raise Stopped
    if guard.changed is not None:
        raise SpecError(
            f"{located(type(probe))}: measure() changed {guard.changed} of the model, which others are still to be "
            "measured with: change a copy, or ask within session.ablated()"
        )
    return table, about


def _about(probe: Probe, table: pa.Table, texts: Mapping[str, Sequence[str]]) -> Sequence[str | None] | None:
    about = probe.texts_of(table, texts)
    if about is not None and len(about) != table.num_rows:
        raise SpecError(f"{located(type(probe))}: texts_of() gave {len(about)} texts for {table.num_rows} rows")
    return about
