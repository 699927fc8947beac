"""What travels to the workers: a list of texts once, however many trials have it."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import ray

from memexp.cluster import sending
from memexp.cluster.sending import Sender, send_probes
from memexp.plan import bundle, grow
from memexp.probes import Recall
from memexp.spec import Condition, Model, Study, TextFile

LINE = "An ordinary line of a list that is as long as lists are."
TRIALS = 20


class Objects(list[bytes]):
    """What an object store would hold, put there and taken from it by number."""

    fetched: list[int]
    """The numbers of what was taken, in order."""


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Objects:
    there = Objects()
    there.fetched = []

    def put(value: object) -> int:
        there.append(pickle.dumps(value))
        return len(there) - 1

    def get(number: int) -> object:
        there.fetched.append(number)
        return pickle.loads(there[number])

    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(ray, "get", get)
    sending._fetched.cache_clear()  # where numbers stood for other objects
    return there


def test_a_list_travels_once_however_many_trials_have_it(objects: Objects, tiny_model: Model, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{i} {LINE}\n" for i in range(20_000)))
    study = Study(TextFile(file), exposures=1, lr=1e-3, batch_size=4)
    rates = [1e-3 / (i + 1) for i in range(TRIALS)]
    conditions = [Condition(tiny_model, dataclasses.replace(study, lr=lr), probes=[Recall()]) for lr in rates]
    forest = grow(conditions)
    trials = bundle(forest, forest.asks, lambda _: TRIALS)
    assert len(trials) == TRIALS and sum(len(pickle.dumps(trial)) for trial in trials) > TRIALS * 20_000 * len(LINE)
    sent = Sender().send_all(trials)
    assert sum(map(len, objects)) < 2 * len(pickle.dumps(trials[0].texts))
    for number, trial in enumerate(trials):
        received = sent.received(number)
        assert received.texts == trial.texts
        assert received.asks == trial.asks and received.stages == trial.stages


def test_what_travels_with_a_function_is_one_reference_and_a_worker_fetches_its_own_trials(
    objects: Objects, tiny_model: Model, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"{LINE}\n")
    rates = [1e-3 / (i + 1) for i in range(TRIALS)]
    conditions = [
        Condition(tiny_model, Study(TextFile(file), exposures=1, lr=lr, batch_size=4), probes=[Recall()])
        for lr in rates
    ]
    forest = grow(conditions)
    trials = bundle(forest, forest.asks, lambda _: TRIALS)
    sent = Sender().send_all(trials)
    assert len(pickle.dumps(sent)) == len(pickle.dumps(Sender().send_all(trials[:1])))
    in_worker = pickle.loads(pickle.dumps(sent))
    for number in (3, 5):
        assert in_worker.received(number).asks == trials[number].asks
    everything, *own = objects.fetched
    assert everything == sent.trials and everything not in own
    assert len(own) == 4  # of each trial what it is, and its list


def test_modules_are_looked_through_for_a_users_own_probes_only(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"{LINE}\n")
    study = Study(TextFile(file), exposures=0, lr=1e-3, batch_size=4)
    asks = grow([Condition(tiny_model, study, probes=[Recall()])]).asks
    looked: list[ModuleType] = []
    monkeypatch.setattr(sending, "_folder", lambda module: looked.append(module))
    send_probes(asks)
    assert not looked
    monkeypatch.setattr(Recall, "__module__", __name__)
    monkeypatch.setattr(sending, "_folder", lambda module: module.__name__ == __name__ or None)
    sent: list[ModuleType] = []
    monkeypatch.setattr(sending.cloudpickle, "register_pickle_by_value", sent.append)
    send_probes(asks)
    assert sent == [sys.modules[__name__]]
