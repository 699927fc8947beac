"""Suggestions of a search that one trial tries in lanes: which, how many, what becomes of them; without a cluster."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import LR, answer, line, lr_of, prepared, search, tried

from memexp import ASHA, Choices, Condition, Model, Pair, Pretrain, Snapshots, Sweep
from memexp.cluster.active_search import ActiveSearch, RunningSuggestion
from memexp.cluster.connect import Cluster
from memexp.cluster.searches import _Experiment
from memexp.driver.outlook import remarks
from memexp.plan import Forest, merged, whole
from memexp.plan.attempts import Attempt
from memexp.plan.retries import Death, Outcome, concluded
from memexp.search.ledger import Ledger
from memexp.store import Store


def indices(some: list[RunningSuggestion]) -> list[int]:
    return [one.index for one in some]


def end(there: ActiveSearch, some: list[RunningSuggestion], store: Store) -> None:
    """As an experiment ends suggestions that were tried together."""
    for one in some:
        answer(store, one.asks, 1.0 + one.index)
        there.observe(one, {ask.file for ask in one.asks})
    for one in some:
        there.end(one)


@pytest.mark.parametrize(
    ("fields", "lanes", "places", "sizes"),
    [
        ({}, 1, 1, [1, 1, 1]),
        ({}, 3, 1, [3, 3, 2]),
        ({}, 3, 2, [2, 2, 1]),  # four of those that are evenly spread are tried at a time, then three, on two places
        ({}, 8, 1, [8]),
        ({"concurrent": 2}, 8, 1, [2, 2, 2]),
        ({"sampler": "random"}, 3, 4, [2, 2, 2]),
        ({}, "auto", 1, [1, 1, 1]),  # on a CPU
    ],
)
def test_a_trial_has_as_many_suggestions_as_lanes_and_leaves_no_place_empty(
    tmp_path: Path,
    condition: Callable[..., Condition],
    fields: dict[str, Any],
    lanes: Any,
    places: int,
    sizes: list[int],
) -> None:
    store = Store(tmp_path)
    there, found, next_index = line(search(condition, trials=8, **fields), store, lanes), [], 0
    while len(found) < 3 and (some := there.together(set(), places)):
        assert indices(some) == list(range(next_index, next_index + len(some)))
        next_index += len(some)
        found.append(len(some))
        end(there, some, store)
    assert found == sizes


def test_by_default_as_many_are_tried_at_a_time_as_there_are_lanes(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    there = line(search(condition, trials=16), store, 5)
    end(there, there.together(set(), 1), store)  # evenly spread, with one that the sampler chose
    some = there.together(set(), 1)
    assert indices(some) == [5, 6, 7, 8, 9]
    assert not there.together(set(), 1), "the sampler waits for those"
    rates = [one.candidate.point["lr"] for one in some]
    assert len({f"{rate:.2g}" for rate in rates}) == 5, "what is being tried is not suggested again"


def test_of_tpe_those_tried_together_differ(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store = Store(tmp_path)
    one = search(condition, trials=40, sampler="tpe")
    tried(line(one, store), store, stop_after=32)
    some = line(one, store, 8).together(set(), 1)
    rates = sorted(going.candidate.point["lr"] for going in some)
    assert len(rates) == 8 and all(after > 1.05 * before for before, after in itertools.pairwise(rates))


def test_the_trial_of_several_is_that_of_one_grid(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    there = line(search(condition), Store(tmp_path), 4)
    some = there.together(set(), 1)
    trial = merged([whole(one.candidate.forest, one.asks) for one in some])
    grid = Sweep("grid", [condition(one.candidate.point["lr"]) for one in some]).grow()
    alike = whole(grid, grid.asks)
    assert [stage.id for stage in trial.stages] == [stage.id for stage in alike.stages]
    assert {ask.measurement for ask in trial.asks} == {ask.measurement for ask in alike.asks}
    assert trial.texts.keys() == alike.texts.keys() and trial.most_lanes == 4


def test_a_pretraining_is_trained_once_for_all_lanes_and_by_no_other_trial(
    tmp_path: Path, condition: Callable[..., Condition], pair: Pair
) -> None:
    training = Pretrain(pair.foils, steps=4, lr=1e-3, batch_size=4)
    there = line(
        search(lambda lr: dataclasses.replace(condition(lr), pretrain=training), concurrent=4), Store(tmp_path), 2
    )
    first = there.together(set(), 2)
    trial = merged([whole(one.candidate.forest, one.asks) for one in first])
    assert [stage.kind for stage in trial.stages] == ["pretrain", "study", "study"]
    assert not there.together({name for one in first for name in one.busy}, 2)


def test_what_one_suggestion_left_does_not_stand_for_the_pretraining_of_another(
    tmp_path: Path, condition: Callable[..., Condition], pair: Pair
) -> None:
    """Each pretrains at its own learning rate, in one trial."""

    def of(lr: float) -> Condition:
        return dataclasses.replace(condition(1e-3), pretrain=Pretrain(pair.foils, steps=4, lr=lr, batch_size=4))

    store = Store(tmp_path)
    experiment = _Experiment([line(search(of), store, 2)], Cluster(({"CPU": 1.0},)), Snapshots())
    experiment._config = lambda line, some: {}  # type: ignore[method-assign] # without Ray
    experiment.start("first")
    _, [zero, one] = experiment.running["first"]
    assert zero.pretraining and one.pretraining and zero.pretraining != one.pretraining
    answer(store, zero.asks, 2.0)
    experiment.observe("first", [ask.file for ask in zero.asks])
    assert not zero.busy and one.pretraining and one.pretraining < one.busy


def test_lanes_are_of_one_base_model(tmp_path: Path, condition: Callable[..., Condition], tiny_model: Model) -> None:
    models = {"one": tiny_model, "another": Model("tiny-m")}
    assert len({model.name for model in models.values()}) == 2

    def of(lr: float, model: str) -> Condition:
        return dataclasses.replace(condition(lr), model=models[model])

    store = Store(tmp_path)
    space = {"lr": LR, "model": Choices(["one", "another"])}
    there, seen = line(search(of, space=space, trials=8, sampler="random"), store, 8), 0
    while some := there.together(set(), 1):
        assert len({one.candidate.point["model"] for one in some}) == 1
        seen += len(some)
        end(there, some, store)
    assert seen == 8


def test_what_a_rule_may_stop_is_tried_by_itself_and_a_line_says_so(
    tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    stopped, free = search(trajectory, stopping=ASHA()), search(trajectory)
    assert len(line(stopped, Store(tmp_path / "stopped"), 4).together(set(), 1)) == 1
    assert len(line(free, Store(tmp_path / "free"), 4).together(set(), 1)) == 4
    (told,) = remarks(Forest(), [prepared(stopped, 4), prepared(free, 4)])
    assert told.startswith("search lr: a rule may stop any of its suggestions")
    assert not remarks(Forest(), [prepared(stopped)])


def test_probes_of_ones_own_are_asked_of_one_suggestion_at_a_time(
    tmp_path: Path, condition: Callable[..., Condition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memexp.plan.trials.runs_users_code", lambda probe: True)
    assert len(line(search(condition), Store(tmp_path), 4).together(set(), 1)) == 1


def test_reports_of_a_trial_reach_those_they_concern(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store = Store(tmp_path)
    there = line(search(condition, trials=6), store, 3)
    experiment = _Experiment([there], Cluster(({"CPU": 1.0},)), Snapshots())
    experiment._config = lambda line, some: {"of": [one.index for one in some]}  # type: ignore[method-assign] # without Ray
    assert experiment.start("first") == {"of": [0, 1, 2]}
    _, [zero, one, two] = experiment.running["first"]
    answer(store, one.asks, 2.0)
    assert not experiment.observe("first", [ask.file for ask in one.asks])
    assert one.complete and not zero.complete and not two.complete and not zero.values
    answer(store, two.asks, 3.0)  # its report dies with the process
    experiment.end("first", crashed=True)
    assert [entry.state for entry in Ledger(there.prepared, store).entries.values()] == ["open", "complete", "complete"]
    told = [trial.value for trial in there.optuna._ot_study.trials if trial.value is not None]
    assert told == [2.0, 3.0]
    assert experiment.start("second") == {"of": [3, 4, 5]}


def test_another_process_takes_up_what_was_begun_together(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, trials=7)
    whole_store = Store(tmp_path / "undisturbed")
    there = line(one, whole_store, 3)
    while some := there.together(set(), 1):
        end(there, some, whole_store)
    begun = line(one, store, 3)
    end(begun, begun.together(set(), 1), store)
    assert indices(begun.together(set(), 1)) == [3, 4, 5]  # and this process dies here
    again = line(one, store, 3)
    while some := again.together(set(), 1):
        end(again, some, store)
    rates = [[lr_of(entry) for entry in Ledger(prepared(one), at).entries.values()] for at in (store, whole_store)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6) and len(rates[0]) == 7


def test_lanes_whose_process_died_twice_are_tried_each_by_itself(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    some = line(search(condition), store, 4).together(set(), 1)
    trial = merged([whole(one.candidate.forest, one.asks) for one in some])
    executed: list[tuple[str, int]] = []

    def execute(now: Any, attempt: Attempt) -> Outcome:
        executed.append((attempt.part, len(now)))
        for one in now:
            answer(store, one.asks, 1.0)
        return Outcome()

    died = Outcome(lost={0: Death("killed")})
    assert concluded([trial], died, execute, store, Attempt("sweep", "a", part="searches")) == []
    assert executed == [("searches-apart", 4)]
    assert Ledger(prepared(search(condition)), store).done == 4
