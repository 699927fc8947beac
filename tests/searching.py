"""What tests of searches without a cluster share: a search, what trials would leave, and trials one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pyarrow as pa

from memexp import (
    Resources,
    Search,
    Uniform,
)
from memexp.cluster.active_search import ActiveSearch, RunningSuggestion
from memexp.plan import Ask
from memexp.plan.attempts import Attempt
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import MADE_WITH, rows_for
from memexp.search.candidates import Prepared, prepare
from memexp.search.ledger import Entry, Ledger
from memexp.sources import Sources
from memexp.store import Store

__all__ = ["LR", "MADE", "NLL", "answer", "line", "loss", "lr_of", "prepared", "search", "tried", "tried_by"]

NLL = "SELECT avg(target_nll) FROM recognition"
LR = Uniform(1e-5, 1e-1, log=True)
MADE = {field.name: None for field in MADE_WITH}


def search(condition: Callable[..., Any], **fields: Any) -> Search:
    """A search over the learning rate."""
    known = {"name": "lr", "space": {"lr": LR}, "metric": NLL, "mode": "min", "trials": 4}
    return Search(condition=condition, **(known | fields))


def prepared(one: Search, lanes: int | Literal["auto"] = 1) -> Prepared:
    return prepare(one, Resources(lanes=lanes), Sources())


def line(one: Search, store: Store, lanes: int | Literal["auto"] = 1) -> ActiveSearch:
    """The search as it is executed with what `store` has."""
    return ActiveSearch(Ledger(prepared(one, lanes), store), Attempt("sweep", "attempt"))


def answer(store: Store, asks: Iterator[Ask] | list[Ask], value: float) -> None:
    """What a trial would leave."""
    for ask in asks:
        items = pa.Table.from_pylist([{"item": 0, "target_nll": value, "foil_nll": 1.0}], schema=RECOGNITION)
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, MADE))


def loss(lr: float, exposures: int = 1) -> float:
    """Best at 1e-3, and better with more exposures."""
    return (math.log10(lr) + 3) ** 2 + 1 / exposures


def tried(one: ActiveSearch, store: Store, stop_after: int | None = None) -> list[float]:
    """Try what is left of a search as trials would, one at a time; the learning rates of the trials there were."""
    rates = []
    while (going := one.next(set())) is not None:
        lr = going.candidate.point["lr"]
        rates.append(lr)
        for stop in going.candidate.stops:
            answer(store, [ask for ask in stop.asks if ask in going.asks], loss(lr, stop.at))
            one.observe(going, stop.files)
            if going.stopped:
                break
        one.end(going)
        if len(rates) == stop_after:
            break
    return rates


def tried_by(there: ActiveSearch, going: RunningSuggestion, store: Store) -> int:
    """Finish one suggestion; how many there are now."""
    answer(store, going.asks, 1.0)
    there.observe(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
    there.end(going)
    return len(store.names("searches"))


def lr_of(entry: Entry) -> float:
    """The learning rate of a suggestion."""
    return float(entry.candidate.point["lr"])
