"""Searches while they are executed, without a cluster: what is stored, told, waited for, stopped and gone on with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as TuneTrial
from searching import LR, MADE, answer, line, loss, lr_of, prepared, search, tried, tried_by

from memexp import (
    ASHA,
    Choices,
    Condition,
    MedianStopping,
    Snapshots,
    Sweep,
)
from memexp.cluster.connect import Cluster
from memexp.cluster.searches import _Experiment, _StoppingScheduler, _SuggestionSearcher
from memexp.plan.attempts import Attempt, row, write
from memexp.search.ledger import Ledger, measured_elsewhere
from memexp.search.samplers import SPREAD
from memexp.store import Store


def test_a_suggestion_is_stored_before_its_trial(tmp_path: Path, trajectory: Callable[..., list[Condition]]) -> None:
    store, one = Store(tmp_path), search(trajectory)
    going = line(one, store).next(set())
    assert going is not None
    rows = store.read("searches", f"{prepared(one).id}-00000").to_pylist()
    assert [row["stop"] for row in rows] == [1, 2, 3]
    assert {json.loads(row["point"])["lr"] for row in rows} == {going.candidate.point["lr"]}
    assert [row["results"] for row in rows] == [sorted(stop.files) for stop in going.candidate.stops]
    assert {(row["sweep"], row["search"], row["suggestion"], row["axis"]) for row in rows} == {
        ("sweep", "lr", 0, "exposures")
    }


def test_another_process_goes_on_with_the_same_suggestions(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    one = search(condition, trials=7)
    undisturbed = tried(line(one, Store(tmp_path / "whole")), Store(tmp_path / "whole"))
    store = Store(tmp_path / "parts")
    found = []
    for _ in range(7):  # a process for each
        found += tried(line(one, store), store, stop_after=1)
    assert found == undisturbed and len(set(found)) == 7
    assert tried(line(one, store), store) == []
    more = dataclasses.replace(one, trials=8)
    assert len(tried(line(more, store), store)) == 1
    ledger = Ledger(prepared(more), store)
    assert [entry.state for entry in ledger.entries.values()] == ["complete"] * 8
    assert ledger.best is not None and ledger.best.value == min(loss(lr) for lr in map(lr_of, ledger.entries.values()))


def test_what_was_begun_is_tried_first_under_its_own_number(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store, one = Store(tmp_path), search(condition)
    begun = line(one, store)
    first = begun.next(set())
    assert first is not None  # and this process dies here
    rates = tried(line(one, store), store)
    assert rates[0] == first.candidate.point["lr"] and len(rates) == 4
    assert len(store.names("searches")) == 4


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_what_was_begun_is_known_to_the_sampler_of_another_process(
    tmp_path: Path, condition: Callable[..., Condition], sampler: Any
) -> None:
    store, one = Store(tmp_path), search(condition, trials=8, concurrent=3, sampler=sampler)
    there = line(one, store)
    tried(there, store, stop_after=SPREAD + 1)
    begun, second, third = (there.next(set()) for _ in range(3))
    assert begun is not None and second is not None and third is not None
    for going in (second, third):  # this process dies before them
        (tmp_path / "searches" / f"{there.prepared.id}-{going.index:05d}.parquet").unlink()
    again = line(one, store)
    found = [going.candidate.point for _ in range(3) if (going := again.next(set())) is not None]
    assert found == [begun.candidate.point, second.candidate.point, third.candidate.point]
    tried_by(again, next(iter(again.running.values())), store)
    told = again.optuna._ot_study.trials
    assert sum(trial.value is not None for trial in told) == SPREAD + 2
    assert sum(trial.state.name == "RUNNING" for trial in told) == 2 and len(told) == SPREAD + 4


def test_where_two_search_at_once_the_stored_suggestion_counts(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store, one = Store(tmp_path), search(condition, sampler="random")
    slow = line(one, store)
    other = line(dataclasses.replace(one), store)
    other.sampler.search = dataclasses.replace(one, seed=9)  # it would suggest something else
    mine = other.next(set())
    theirs = slow.next(set())
    assert mine is not None and theirs is not None
    assert theirs.candidate.point == mine.candidate.point
    assert len(store.names("searches")) == 1
    answer(store, theirs.asks, 1.0)
    slow.observe(theirs, {f"{ask.kind}/{ask.name}" for ask in theirs.asks})
    slow.end(theirs)
    known = [trial for trial in slow.optuna._ot_study.trials if trial.value is not None]
    assert [trial.params["lr"] for trial in known] == [mine.candidate.point["lr"]]


def test_what_the_store_has_is_told_and_not_trained(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    one = search(condition, space={"lr": Choices([1e-4, 1e-3, 1e-2])}, trials=3, sampler="random")
    labelled = [dataclasses.replace(condition(lr), labels={"of": "a grid"}) for lr in (1e-4, 1e-3, 1e-2)]
    grid = Sweep(name="grid", conditions=labelled).grow()
    for number, store in enumerate((Store(tmp_path / "with"), Store(tmp_path / "without"))):
        for ask in grid.asks if number == 0 else []:
            answer(store, [ask], loss(ask.settings["lr"]))
        there = line(one, store)
        trained = tried(there, store)
        assert len(trained) == (0 if number == 0 else len(set(trained)))
        ledger = Ledger(prepared(one), store)
        assert ledger.done == 3
        told = [trial for trial in there.optuna._ot_study.trials if trial.value is not None]
        assert len(told) == (3 + 3 if number == 0 else 3)
        assert all(trial.value == pytest.approx(loss(trial.params["lr"])) for trial in told)


def test_a_metric_sees_the_labels_of_who_asks_and_not_of_who_was_measured(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    for lr in (1e-4, 1e-3):
        for ask in Sweep(name="grid", conditions=[dataclasses.replace(condition(lr), labels={"of": 1})]).grow().asks:
            answer(store, [ask], loss(lr))
    one = search(
        lambda lr: dataclasses.replace(condition(lr), labels={"of": 2}),
        space={"lr": Choices([1e-4, 1e-3])},
        metric='SELECT avg(target_nll) FROM recognition WHERE "of" = 2',
        trials=1,
    )
    [told] = [
        entry for entry in measured_elsewhere(Ledger(prepared(one), store)) if entry.candidate.point["lr"] == 1e-3
    ]
    assert told.values == [pytest.approx(loss(1e-3))]


def test_points_measured_elsewhere_are_told_where_the_space_has_columns_for_them(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    inside, outside = condition(2e-3), condition(0.5)
    for ask in Sweep(name="grid", conditions=[inside, outside, condition(3e-3, 2)]).grow().asks:
        answer(store, [ask], loss(ask.settings["lr"]))
    [found] = measured_elsewhere(Ledger(prepared(search(condition)), store))
    assert found.candidate.point == {"lr": 2e-3} and found.value == pytest.approx(loss(2e-3))
    renamed = search(lambda rate: condition(rate), space={"rate": LR})
    assert measured_elsewhere(Ledger(prepared(renamed), store)) == []


def test_a_trajectory_that_the_rule_ends_is_stopped_for_this_search_only(
    tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    store = Store(tmp_path)
    one = search(trajectory, stopping=ASHA(reduction=2), trials=6)
    tried(line(one, store), store)
    ledger = Ledger(prepared(one), store)
    states = [entry.state for entry in ledger.entries.values()]
    assert set(states) == {"complete", "stopped"} and ledger.done == 6
    for entry in ledger.entries.values():
        assert len(entry.values) == 3 if entry.state == "complete" else len(entry.values) in (1, 2)
    stages = [row["status"] for name in sorted(store.names("stages")) for row in store.read("stages", name).to_pylist()]
    assert stages == ["stopped"] * sum(3 - len(entry.values) for entry in ledger.entries.values())
    assert tried(line(one, store), store) == []
    told = line(one, store).optuna._ot_study.trials
    assert [trial.state.name for trial in told] == ["COMPLETE" if state == "complete" else "PRUNED" for state in states]
    plain = dataclasses.replace(one, stopping=None)  # the same points, but nobody has stopped them
    assert Ledger(prepared(plain), store).done == 0


def test_a_rule_remembers_what_earlier_processes_measured(
    tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    one = search(trajectory, stopping=MedianStopping(samples=2), trials=6, sampler="random")
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    tried(line(one, whole), whole)
    for _ in range(6):
        tried(line(one, parts), parts, stop_after=1)
    ends = [[entry.state for entry in Ledger(prepared(one), store).entries.values()] for store in (whole, parts)]
    assert ends[0] == ends[1] and "stopped" in ends[0]


@pytest.mark.parametrize("rule", [ASHA(reduction=2), MedianStopping(samples=2)], ids=["asha", "median"])
def test_a_rule_meets_values_beyond_where_it_would_have_stopped(
    rule: ASHA | MedianStopping, tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    # Of another search, whose first conditions are measured; of itself, without the record of what was stopped.
    store, one = Store(tmp_path), search(trajectory, stopping=rule, trials=6, sampler="random")
    tried(line(dataclasses.replace(one, stopping=None), store), store)
    assert tried(line(one, store), store) == []  # all is there and nothing is to be trained
    ledger = Ledger(prepared(one), store)
    assert [entry.state for entry in ledger.entries.values()] == ["complete"] * 6
    assert tried(line(dataclasses.replace(one, trials=7), store), store) != []


@pytest.mark.parametrize("rule", [ASHA(reduction=2), MedianStopping(samples=2)], ids=["asha", "median"])
def test_what_was_begun_and_is_behind_by_now_is_stopped_at_once(
    rule: ASHA | MedianStopping, tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    store, one = Store(tmp_path), search(trajectory, stopping=rule, trials=6, sampler="random", concurrent=6)
    there = line(one, store)
    begun = [going for _ in range(6) if (going := there.next(set())) is not None]
    worst = max(begun, key=lambda going: loss(going.candidate.point["lr"]))
    for going in begun:  # this process dies when it has measured the worst one twice
        stops = going.candidate.stops[:2] if going is worst else going.candidate.stops
        for stop in stops:
            answer(store, list(stop.asks), loss(going.candidate.point["lr"], stop.at))
    assert tried(line(one, store), store) == []
    states = {entry.index: entry.state for entry in Ledger(prepared(one), store).entries.values()}
    assert states == {index: "stopped" if index == worst.index else "complete" for index in range(6)}


def test_what_diverged_is_an_outcome_and_is_told_as_bad(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, trials=2)
    there = line(one, store)
    going = there.next(set())
    assert going is not None
    study = going.candidate.stops[0].stage
    by = Attempt("sweep", "a")
    write(store, by, [row(going.candidate.forest.stages[study], by, "diverged", MADE, "loss is nan")])
    there.end(going)
    [trial] = there.optuna._ot_study.trials
    assert trial.state.name == "PRUNED" and trial.value is None
    ledger = Ledger(prepared(one), store)
    assert ledger.entries[0].state == "diverged" and ledger.done == 1 and ledger.best is None
    assert Ledger(prepared(one), store, retry_diverged=True).done == 0


def test_what_failed_is_tried_again_and_teaches_nothing(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, trials=2)
    there = line(one, store)
    going = there.next(set())
    assert going is not None
    there.end(going, crashed=True)
    assert [trial.state.name for trial in there.optuna._ot_study.trials] == ["FAIL"]
    assert len(tried(there, store)) == 1  # what comes after it goes on
    assert tried(line(one, store), store) == [going.candidate.point["lr"]]


@pytest.mark.parametrize(("ends", "tried_after"), [(["failed"], 0), (["failed", "complete"], 3), ([], 3)])
def test_no_suggestions_are_made_where_the_model_cannot_be_loaded(
    ends: list[str], tried_after: int, tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    there = line(search(condition), store)
    going = there.next(set())
    assert going is not None
    [base] = [stage for stage in going.candidate.forest.stages.values() if stage.parent is None]
    rows = [row(base, there.attempt, status, error="no memory" if status == "failed" else None) for status in ends]
    write(store, there.attempt, rows)
    there.end(going)
    assert len(tried(there, store)) == tried_after


def test_a_value_whose_report_was_lost_is_found_in_the_store(
    tmp_path: Path, trajectory: Callable[..., list[Condition]]
) -> None:
    store = Store(tmp_path)
    there = line(search(trajectory), store)
    going = there.next(set())
    assert going is not None
    answer(store, going.asks, 0.5)
    there.end(going, crashed=True)
    [trial] = there.optuna._ot_study.trials
    assert (trial.state.name, trial.value) == ("COMPLETE", 0.5)


def test_a_trial_that_ends_without_a_word_makes_room_for_the_next(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    """As Ray leaves one whose process could not be reused: an error, of which no searcher is told."""
    experiment = _Experiment([line(search(condition), Store(tmp_path))], Cluster(({"CPU": 1.0},)), Snapshots())
    experiment._config = lambda line, some: {"index": some[0].index}  # type: ignore[method-assign] # without Ray
    searcher, scheduler = _SuggestionSearcher(experiment), _StoppingScheduler(experiment)
    assert searcher.suggest("first") == {"index": 0}
    trials = [SimpleNamespace(trial_id="first", status=TuneTrial.RUNNING)]
    controller = SimpleNamespace(get_trials=lambda: trials)
    assert scheduler.choose_trial_to_run(controller) is None and searcher.suggest("second") is None
    trials[0].status = TuneTrial.ERROR
    for _ in range(2):  # it is asked again and again
        assert scheduler.choose_trial_to_run(controller) is None
    assert searcher.suggest("second") == {"index": 1}


def test_no_error_of_a_search_is_swallowed(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    experiment = _Experiment([], Cluster(({"CPU": 1.0},)), Snapshots())
    with pytest.raises(KeyError), experiment.keeping_errors():
        raise KeyError("what Tune would log and forget")
    assert isinstance(experiment.error, KeyError)


def test_a_sampler_waits_for_values_but_spread_points_do_not(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    counts = {}
    for name, fields in {"gp": {}, "random": {"sampler": "random"}, "two": {"concurrent": 2}}.items():
        store = Store(tmp_path / name)
        there, begun = line(search(condition, trials=8, **fields), store), []
        while (going := there.next(set())) is not None:
            begun.append(going)
        counts[name] = [len(begun)]
        for going in begun:
            tried_by(there, going, store)
        counts[name].append(sum(there.next(set()) is not None for _ in range(2)))
    assert counts == {"gp": [SPREAD, 1], "random": [8, 0], "two": [2, 2]}


def test_a_suggestion_waits_for_a_trial_that_writes_its_files(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    there = line(search(condition, space={"lr": Choices([1e-3])}, trials=2, concurrent=2), store)
    first = there.next(set())
    assert first is not None
    busy = {file for stop in first.candidate.stops for file in stop.files}
    assert there.next(busy) is None
    assert tried_by(there, first, store) == 2
    assert there.next(set()) is None and not there.queue  # the second was there by then
