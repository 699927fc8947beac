"""A few sentences studied as in the quickstart: what a tiny model's card says holds for some of them as well."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memexp.core.processes import World
from memexp.plan import Trial, grow
from memexp.plan.attempts import Attempt
from memexp.probes import Recall, Recognition
from memexp.spec import Condition, Model, Pair, Resources, ShippedText, Study
from memexp.store import Store
from memexp.trial.execute import execute

__all__ = ["assert_remembered", "few_shot"]

SENTENCES = 24


def few_shot(model: Model, folder: Path) -> dict[tuple[str, int], float]:
    """Recognition and mean ROUGE-2 of the completion by exposures, at the quickstart's higher learning rate."""
    pair = Pair(ShippedText("sentences-targets", first=SENTENCES), ShippedText("sentences-foils", first=SENTENCES))
    forest = grow(
        Condition(
            model=model,
            study=Study(pair.targets, exposures=exposures, lr=1e-3, batch_size=4),
            probes=[Recognition(pair), Recall()],
        )
        for exposures in (0, 3, 10)
    )
    base, *stages = sorted(forest.stages.values(), key=lambda stage: stage.parent is not None)
    store = Store(folder)
    trial = Trial(base, stages, forest.asks, Resources(), forest.texts)
    assert execute(trial, store, World.current(), Attempt("tiny", "first")) == []
    found: dict[tuple[str, int], list[float]] = {}
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "recognition": lambda row: float(row["target_nll"] < row["foil_nll"]),
        "recall": lambda row: float(row["completion_rouge2"]),
    }
    for kind, measure in measures.items():
        table = store.scan(kind)
        assert table is not None
        for row in table.to_pylist():
            found.setdefault((kind, row["exposures"]), []).append(measure(row))
    assert {len(values) for values in found.values()} == {SENTENCES}
    return {key: statistics.fmean(values) for key, values in found.items()}


def assert_remembered(shares: Mapping[tuple[str, int], float]) -> None:
    # 24 sentences where the card has 80: the standard error of one half is .1.
    assert 0.25 <= shares["recognition", 0] <= 0.75
    assert shares["recognition", 3] >= 0.9
    assert shares["recall", 0] <= 0.1
    assert shares["recall", 10] >= 0.5
