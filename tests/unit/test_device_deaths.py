"""A process that ends itself for an error of its GPU has recorded it: however often that happens, the rest is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from memexp import Condition, Model, Pair, Recall, Recognition, Study
from memexp.plan import Trial, grow, whole
from memexp.plan.attempts import Attempt, failures, row, write
from memexp.plan.retries import DEVICE_LOST, Death, Outcome, execute_with_retries, leave_out
from memexp.store import Store

ENDED = Death(f"memexp.errors.DeviceError: {DEVICE_LOST}: CUDA error: device-side assert triggered")


@pytest.mark.parametrize("lrs", [(1e-3,), (1e-3, 1e-2)], ids=["one tree", "two"])
@pytest.mark.parametrize("death", [ENDED, Death("killed")], ids=["recorded", "killed"])
def test_every_failure_costs_its_own_rows_only(
    death: Death, lrs: Sequence[float], pair: Pair, tiny_model: Model, tmp_path: Path
) -> None:
    conditions = [
        Condition(tiny_model, Study(pair.targets, exposures, lr, 4), probes=[Recognition(pair), Recall()])
        for exposures in range(5)
        for lr in lrs
    ]
    forest, store = grow(conditions), Store(tmp_path)
    bad = {ask.measurement for ask in forest.asks if ask.kind == "recall" and 1 <= ask.settings["exposures"] <= 3}
    parts: list[str] = []

    def execute(now: Sequence[Trial], attempt: Attempt) -> Outcome:
        """As Tune does it: a process for each trial, a second one where the first dies."""
        parts.append(attempt.part)
        outcome = Outcome()
        for number, trial in enumerate(now):
            own = attempt.of_trial(trial.phase, number)
            if any(process(trial, own) for _ in range(2)):
                outcome.failures += failures(store, own, [trial.base, *trial.stages]).values()
            else:
                outcome.lost[number] = death
        return outcome

    def process(trial: Trial, own: Attempt) -> bool:
        """Whether it comes to the end of what none before it recorded as failed."""
        by, stages = own.begun(), {stage.id: stage for stage in (trial.base, *trial.stages)}
        for ask in leave_out(trial, failures(store, own, stages.values()), store, by).asks:
            if trial.cautious:
                write(store, by, [row(stages[ask.stage], by, "begun", probe_id=ask.probe_id)])
            if ask.measurement in bad:
                if death is ENDED:
                    write(store, by, [row(stages[ask.stage], by, "failed", error="why", probe_id=ask.probe_id)])
                return False
            store.commit(ask.kind, ask.name, pa.table({"item": [0]}))
        return True

    lines = execute_with_retries([whole(forest, forest.asks)], execute, store, Attempt("sweep", "a"))
    if death is ENDED:
        assert len(store.names("recognition")) == 5 * len(lrs) and len(store.names("recall")) == 2 * len(lrs)
        assert len(lines) == 3 * len(lrs) and all("failed: why" in line for line in lines)
        assert set(parts[1:]) == {"apart"}
    elif len(lrs) == 1:
        assert len(store.names("recognition")) < 5
