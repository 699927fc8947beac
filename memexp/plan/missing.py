"""What of a forest a store does not have: to be measured, to be copied, or not to be had.

asks = find_missing(forest, store).asks
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import pyarrow as pa

from memexp.plan.attempts import Log
from memexp.plan.forest import Ask, Forest
from memexp.records import MADE_WITH, MET, rows_for, with_source
from memexp.store import Store
from memexp.store.threads import THREADS, threaded

__all__ = ["Copy", "Missing", "answered", "copy_results", "find_missing", "lacking"]


@dataclass(frozen=True)
class Copy:
    """A result whose numbers were measured for another condition already."""

    ask: Ask
    """Who asks now."""
    source: str
    """Name of the file that has the numbers."""


@dataclass
class Missing:
    """What of a forest the store does not have yet."""

    asks: list[Ask] = field(default_factory=list)
    """To be measured."""
    copies: list[Copy] = field(default_factory=list)
    """To be copied from other conditions' files."""
    diverged: list[Ask] = field(default_factory=list)
    """Not to be had: their training reached a loss that is not finite."""

    @property
    def open(self) -> list[Ask]:
        """All that has no file."""
        return [*self.asks, *self.diverged, *(copy.ask for copy in self.copies)]

    @property
    def conditions(self) -> int:
        """How many conditions lack something."""
        return len({ask.condition_id for ask in self.open})


def find_missing(
    forest: Forest, store: Store, retry_diverged: bool = False, gone: Collection[str] | None = None
) -> Missing:
    """What of `forest` is not in `store`.

    Args:
        forest: the whole sweep.
        store: where its results may be.
        retry_diverged: whether what diverged is to be measured after all.
        gone: the stages that diverged, where they were looked up before (see `memexp.plan.attempts.Log.diverged`).

    Raises:
        StoreError: a file that is to be relied on is not whole.
    """
    found = Missing()
    by_kind: dict[str, list[Ask]] = {}
    for ask in forest.asks:
        by_kind.setdefault(ask.kind, []).append(ask)
    for kind, asks in by_kind.items():
        # Of a few each by itself, as a search asks for every suggestion: a listing of all takes the longer the more
        # there is.
        prefixes = {ask.prefix for ask in asks} if len(asks) <= THREADS else {""}
        names = {name: file for some in threaded(partial(store.listed, kind), prefixes) for name, file in some.items()}
        measured = {tuple(name.split("-")[:2]): name for name in sorted(names)}
        store.check_whole(kind, {ask.name for ask in asks} & names.keys(), names)
        for ask in asks:
            if ask.name in names:
                continue
            if ask.measurement in measured:
                found.copies.append(Copy(ask, measured[ask.measurement]))
            else:
                found.asks.append(ask)
    if found.asks and not retry_diverged:
        gone = Log.read(store).diverged if gone is None else gone
        if gone:
            found.diverged = [ask for ask in found.asks if any(stage.id in gone for stage in forest.path(ask.stage))]
            lost = {(ask.kind, ask.name) for ask in found.diverged}
            found.asks = [ask for ask in found.asks if (ask.kind, ask.name) not in lost]
    return found


class Files(Protocol):
    """What tells which files there are; `memexp.store.Store` does."""

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is a file of this name."""


def lacking(asks: Sequence[Ask], store: Files) -> list[Ask]:
    """Those of `asks` without a file, each asked for by itself: a trial has few, and a store may have a million."""
    there = threaded(lambda ask: store.exists(ask.kind, ask.name), asks)
    return [ask for ask, found in zip(asks, there, strict=True) if not found]


def copy_results(missing: Missing, store: Store) -> None:
    """Give results that were measured for another condition to those who ask for them now."""

    def copied(item: Copy) -> None:
        store.commit(item.ask.kind, item.ask.name, answered(item.ask, store.read(item.ask.kind, item.source)))

    threaded(copied, missing.copies)
    missing.copies.clear()


def answered(ask: Ask, rows: pa.Table) -> pa.Table:
    """Rows that were measured for another condition, as those of the one that asks now."""
    items = rows.select([*ask.probe.schema().names, *(name for name in MET.names if name in rows.column_names)])
    made_with, *_ = rows.select(MADE_WITH.names).slice(0, 1).to_pylist() or [{}]  # a probe may find no items
    return with_source(rows_for(items, ask.settings, ask.labels, made_with), ask.kind, ask.probe.headline)
