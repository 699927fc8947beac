"""What travels to the workers: a list of texts once, however many trials have it."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import ray

from memexp.cluster.sending import Sender
from memexp.plan import bundle, grow
from memexp.probes import Recall
from memexp.spec import Condition, Model, Study, TextFile

LINE = "An ordinary line of a list that is as long as lists are."
TRIALS = 20


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What an object store would hold, put there and taken from it by number."""
    there: list[bytes] = []

    def put(value: object) -> int:
        there.append(pickle.dumps(value))
        return len(there) - 1

    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(ray, "get", lambda number: pickle.loads(there[number]))
    return there


def test_a_list_travels_once_however_many_trials_have_it(
    objects: list[bytes], tiny_model: Model, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{i} {LINE}\n" for i in range(20_000)))
    study = Study(TextFile(file), exposures=1, lr=1e-3, batch_size=4)
    rates = [1e-3 / (i + 1) for i in range(TRIALS)]
    conditions = [Condition(tiny_model, dataclasses.replace(study, lr=lr), probes=[Recall()]) for lr in rates]
    forest = grow(conditions)
    trials = bundle(forest, forest.asks, lambda _: TRIALS)
    assert len(trials) == TRIALS and sum(len(pickle.dumps(trial)) for trial in trials) > TRIALS * 20_000 * len(LINE)
    sender = Sender()
    sent = [sender.send(trial) for trial in trials]
    assert sum(map(len, objects)) < 2 * len(pickle.dumps(trials[0].texts))
    for trial, one in zip(trials, sent, strict=True):
        received = one.received()
        assert received.texts == trial.texts
        assert received.asks == trial.asks and received.stages == trial.stages
