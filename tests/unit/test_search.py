"""Searches without a cluster: what may be described, what identifies one, what is stored, told and gone on with."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from ray.tune.experiment import Trial as TuneTrial
from rich.console import Console

from memexp import (
    ASHA,
    Choices,
    Condition,
    Forget,
    Integers,
    Interference,
    MedianStopping,
    Model,
    Pair,
    Recall,
    Recognition,
    Resources,
    Search,
    ShippedText,
    Snapshots,
    SpecError,
    Study,
    Sweep,
    Uniform,
)
from memexp.cluster.connect import Cluster
from memexp.cluster.searches import Going, Line, _Desk, _Referee, _Suggester
from memexp.plan import Ask
from memexp.plan.attempts import Attempt, stage_row
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import MADE_WITH, STAGES, rows_for
from memexp.report.status import print_status
from memexp.report.terminal import print_searches
from memexp.search.samplers import SPREAD
from memexp.search.suggestions import Ledger, Prepared, elsewhere, prepare
from memexp.sources import Sources
from memexp.spec import spec
from memexp.store import Store

NLL = "SELECT avg(target_nll) FROM recognition"
LR = Uniform(1e-5, 1e-1, log=True)
MADE = {field.name: None for field in MADE_WITH}


@pytest.fixture
def condition(tiny_model: Model, pair: Pair) -> Callable[..., Condition]:
    """The function of a search over the learning rate."""

    def made(lr: float, exposures: int = 1) -> Condition:
        return Condition(
            tiny_model, Study(pair.targets, exposures=exposures, lr=lr, batch_size=4), probes=[Recognition(pair)]
        )

    return made


@pytest.fixture
def trajectory(condition: Callable[..., Condition]) -> Callable[..., list[Condition]]:
    """The same after one, two and three exposures."""
    return lambda lr: [condition(lr, exposures) for exposures in (1, 2, 3)]


def search(condition: Callable[..., Any], **fields: Any) -> Search:
    """A search over the learning rate."""
    known = {"name": "lr", "space": {"lr": LR}, "metric": NLL, "mode": "min", "trials": 4}
    return Search(condition=condition, **(known | fields))


def prepared(one: Search) -> Prepared:
    return prepare(one, Resources(), Sources())


def line(one: Search, store: Store) -> Line:
    """The search as it is executed with what `store` has."""
    return Line(Ledger(prepared(one), store), store, Attempt("sweep", "attempt"))


def answer(store: Store, asks: Iterator[Ask] | list[Ask], value: float) -> None:
    """What a trial would leave."""
    for ask in asks:
        items = pa.Table.from_pylist([{"item": 0, "target_nll": value, "foil_nll": 1.0}], schema=RECOGNITION)
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, MADE))


def loss(lr: float, exposures: int = 1) -> float:
    """Best at 1e-3, and better with more exposures."""
    return (math.log10(lr) + 3) ** 2 + 1 / exposures


def tried(one: Line, store: Store, stop_after: int | None = None) -> list[float]:
    """Try what is left of a search as trials would, one at a time; the learning rates of the trials there were."""
    rates = []
    while (going := one.next(set())) is not None:
        lr = going.place.point["lr"]
        rates.append(lr)
        for stop in going.place.stops:
            answer(store, [ask for ask in stop.asks if ask in going.asks], loss(lr, stop.at))
            one.hear(going, stop.files)
            if going.stopped:
                break
        one.end(going)
        if len(rates) == stop_after:
            break
    return rates


# Descriptions


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: Uniform(1.0, 1.0), "Uniform.low must be below Uniform.high, got 1 and 1"),
        (lambda: Uniform(0.0, 1.0, log=True), "Uniform.log needs a low above 0, got 0"),
        (lambda: Uniform(0.0, float("inf")), "Uniform.high: must be a finite number"),
        (lambda: Integers(3, 2), "Integers.low must be below"),
        (lambda: Choices([]), "Choices.options: must not be empty"),
        (lambda: Choices([1, True]), "Choices.options: 1 is there more than once"),
        (lambda: ASHA(reduction=1), "ASHA.reduction"),
        (lambda: MedianStopping(grace=0), "MedianStopping.grace"),
    ],
)
def test_a_wrong_value_names_its_field(made: Callable[[], object], told: str) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        made()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"space": {}}, "Search.space: must not be empty"),
        ({"space": {"rate": LR}}, "Search.condition is called with rate: missing a required argument: 'lr'"),
        ({"space": {"lr": LR, "batch": Choices([1])}}, "called with lr, batch: got an unexpected keyword"),
        ({"mode": "best"}, "Search.mode"),
        ({"trials": 0}, "Search.trials"),
        ({"metric": " "}, "Search.metric: must not be empty"),
        ({"stopping": ASHA()}, "Search.stopping needs a condition that returns several"),
    ],
)
def test_a_search_is_checked_when_it_is_made(
    condition: Callable[..., Condition], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        search(condition, **fields)


def test_a_sweep_needs_conditions_or_searches_of_different_names(condition: Callable[..., Condition]) -> None:
    with pytest.raises(SpecError, match="both empty"):
        Sweep(name="empty")
    with pytest.raises(SpecError, match="two are called 'lr'"):
        Sweep(name="double", searches=[search(condition), search(condition, mode="max")])
    with pytest.raises(SpecError, match="'searches' cannot name a table"):
        Condition(Model("tiny-s"), Study(ShippedText("sentences-targets"), 1, 1e-3), probes=[Named()])


@spec
class Named(Recall):
    """A probe that takes the name of another table."""

    kind: ClassVar[str] = "searches"


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("SELECT avg(target_nl) FROM recognition", "search lr: Search.metric: Binder Error"),
        ("SELECT avg(completion_rouge2) FROM recall", "tables: recognition"),
        ("SELECT target_nll FROM recognition", "must give one number, an aggregate"),
        ("SELECT avg(target_nll), 1 FROM recognition", "it gives 2 columns"),
        ("SELECT max(target) FROM recognition", "must give a number, not VARCHAR"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("DROP TABLE recognition", "one SELECT"),
        ("SELECT count(*) FROM 'elsewhere.parquet'", "Search.metric"),
    ],
)
def test_a_metric_that_is_no_number_of_a_conditions_rows_is_refused_before_anything_is_trained(
    condition: Callable[..., Condition], metric: str, told: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(told)) as error:
        prepared(search(condition, metric=metric))
    assert len(str(error.value).splitlines()) == 1


def test_conditions_must_lie_on_one_trajectory(
    condition: Callable[..., Condition], tiny_model: Model, pair: Pair
) -> None:
    def studied(lr: float, exposures: int, **fields: Any) -> Condition:
        study = Study(
            pair.targets, exposures=exposures, lr=lr, batch_size=4, schedule=fields.pop("schedule", "constant")
        )
        return Condition(tiny_model, study, probes=[Recognition(pair)], **fields)

    wrong: list[Callable[[float], list[Condition]]] = [
        lambda lr: [condition(lr, 2), condition(lr, 1)],
        lambda lr: [condition(lr, 1), condition(lr / 2, 2)],
        lambda lr: [studied(lr, 1, schedule="linear"), studied(lr, 2, schedule="linear")],
        lambda lr: [studied(lr, 1, forget=Forget()), studied(lr, 2, forget=Forget())],
    ]
    for function in wrong:
        with pytest.raises(SpecError, match=r"search lr, lr=1e-05: the condition with exposures \d is not on the way"):
            prepared(search(function))
    with pytest.raises(SpecError, match="returns no Condition"):
        prepared(search(lambda lr: ["condition"]))


def test_what_a_function_raises_is_told_with_its_point(condition: Callable[..., Condition]) -> None:
    one = prepared(search(lambda lr: condition(lr) if lr != 1e-3 else 1 / 0))
    with pytest.raises(SpecError, match=r"^search lr, lr=0\.001: ZeroDivisionError: division by zero$"):
        one.place({"lr": 1e-3})


def test_what_is_no_function_of_its_point_is_refused(condition: Callable[..., Condition]) -> None:
    seeds = itertools.count()
    with pytest.raises(SpecError, match=r"^search lr, lr=1e-05: asked again, condition returns others than before$"):
        prepared(search(lambda lr: dataclasses.replace(condition(lr), seed=next(seeds))))


def test_retention_is_an_axis_as_well(tiny_model: Model, pair: Pair) -> None:
    def condition(lr: float) -> list[Condition]:
        between = [Interference(pair.foils, steps=steps, lr=1e-3, batch_size=4) for steps in (0, 1, 10)]
        study = Study(pair.targets, exposures=1, lr=lr, batch_size=4)
        return [Condition(tiny_model, study, probes=[Recognition(pair)], interference=one) for one in between]

    place = prepared(search(condition)).edges[0]
    assert (place.axis, [stop.at for stop in place.stops]) == ("retention_steps", [0, 1, 10])
    assert place.forest.steps == 3 + 10


# Identity


def test_what_determines_the_suggestions_is_the_identity(
    condition: Callable[..., Condition], pair: Pair, tiny_model: Model
) -> None:
    one = search(condition)
    first = prepared(one).id
    same = [
        dataclasses.replace(one, trials=9),
        dataclasses.replace(one, name="other"),
        dataclasses.replace(one, concurrent=3),
        dataclasses.replace(one, condition=lambda lr: condition(lr)),
    ]
    assert {prepared(other).id for other in same} == {first}
    labelled = dataclasses.replace(condition(1e-3), labels={"a": 1})
    other = [
        dataclasses.replace(one, seed=1),
        dataclasses.replace(one, mode="max"),
        dataclasses.replace(one, sampler="tpe"),
        dataclasses.replace(one, metric=NLL + " "),
        dataclasses.replace(one, space={"lr": Uniform(1e-5, 2e-1, log=True)}),
        dataclasses.replace(one, condition=lambda lr: condition(lr, 2)),
        dataclasses.replace(one, condition=lambda lr: dataclasses.replace(labelled, study=condition(lr).study)),
        dataclasses.replace(
            one, condition=lambda lr: dataclasses.replace(condition(lr), probes=[Recognition(pair), Recall()])
        ),
    ]
    assert len({prepared(one).id for one in other} | {first}) == len(other) + 1


# Suggestions


def test_a_suggestion_is_stored_before_its_trial(tmp_path: Path, trajectory: Callable[..., list[Condition]]) -> None:
    store, one = Store(tmp_path), search(trajectory)
    going = line(one, store).next(set())
    assert going is not None
    rows = store.read("searches", f"{prepared(one).id}-00000").to_pylist()
    assert [row["stop"] for row in rows] == [1, 2, 3]
    assert {json.loads(row["point"])["lr"] for row in rows} == {going.place.point["lr"]}
    assert [row["results"] for row in rows] == [sorted(stop.files) for stop in going.place.stops]
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
    assert ledger.best is not None and ledger.best.value == min(loss(lr) for lr in map(_lr, ledger.entries.values()))


def _lr(entry: Any) -> float:
    return float(entry.place.point["lr"])


def test_what_was_begun_is_tried_first_under_its_own_number(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store, one = Store(tmp_path), search(condition)
    begun = line(one, store)
    first = begun.next(set())
    assert first is not None  # and this process dies here
    rates = tried(line(one, store), store)
    assert rates[0] == first.place.point["lr"] and len(rates) == 4
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
    found = [going.place.point for _ in range(3) if (going := again.next(set())) is not None]
    assert found == [begun.place.point, second.place.point, third.place.point]
    tried_by(again, next(iter(again.going.values())), store)
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
    assert theirs.place.point == mine.place.point
    assert len(store.names("searches")) == 1
    answer(store, theirs.asks, 1.0)
    slow.hear(theirs, {f"{ask.kind}/{ask.name}" for ask in theirs.asks})
    slow.end(theirs)
    known = [trial for trial in slow.optuna._ot_study.trials if trial.value is not None]
    assert [trial.params["lr"] for trial in known] == [mine.place.point["lr"]]


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
    [told] = [entry for entry in elsewhere(Ledger(prepared(one), store)) if entry.place.point["lr"] == 1e-3]
    assert told.values == [pytest.approx(loss(1e-3))]


def test_points_measured_elsewhere_are_told_where_the_space_has_columns_for_them(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    inside, outside = condition(2e-3), condition(0.5)
    for ask in Sweep(name="grid", conditions=[inside, outside, condition(3e-3, 2)]).grow().asks:
        answer(store, [ask], loss(ask.settings["lr"]))
    [found] = elsewhere(Ledger(prepared(search(condition)), store))
    assert found.place.point == {"lr": 2e-3} and found.value == pytest.approx(loss(2e-3))
    renamed = search(lambda rate: condition(rate), space={"rate": LR})
    assert elsewhere(Ledger(prepared(renamed), store)) == []


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
    worst = max(begun, key=lambda going: loss(going.place.point["lr"]))
    for going in begun:  # this process dies when it has measured the worst one twice
        stops = going.place.stops[:2] if going is worst else going.place.stops
        for stop in stops:
            answer(store, list(stop.asks), loss(going.place.point["lr"], stop.at))
    assert tried(line(one, store), store) == []
    states = {entry.index: entry.state for entry in Ledger(prepared(one), store).entries.values()}
    assert states == {index: "stopped" if index == worst.index else "complete" for index in range(6)}


def test_what_diverged_is_an_outcome_and_is_told_as_bad(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, trials=2)
    there = line(one, store)
    going = there.next(set())
    assert going is not None
    study = going.place.stops[0].stage
    row = stage_row(going.place.forest.stages[study], Attempt("sweep", "a"), MADE, "diverged", "loss is nan")
    store.commit("stages", f"{study}-a", pa.Table.from_pylist([row], schema=STAGES))
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
    assert tried(line(one, store), store) == [going.place.point["lr"]]


@pytest.mark.parametrize(("ends", "tried_after"), [(["failed"], 0), (["failed", "complete"], 3), ([], 3)])
def test_no_suggestions_are_made_where_the_model_cannot_be_loaded(
    ends: list[str], tried_after: int, tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    there = line(search(condition), store)
    going = there.next(set())
    assert going is not None
    [base] = [stage for stage in going.place.forest.stages.values() if stage.parent is None]
    rows = [stage_row(base, there.attempt, {}, status, "no memory" if status == "failed" else None) for status in ends]
    if rows:
        store.commit("stages", "base-attempt", pa.Table.from_pylist(rows, schema=STAGES))
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
    desk = _Desk([line(search(condition), Store(tmp_path))], Cluster(({"CPU": 1.0},)), Snapshots())
    desk._config = lambda line, going: {"index": going.index}  # type: ignore[method-assign] # without Ray
    suggester, referee = _Suggester(desk), _Referee(desk)
    assert suggester.suggest("first") == {"index": 0}
    trials = [SimpleNamespace(trial_id="first", status=TuneTrial.RUNNING)]
    controller = SimpleNamespace(get_trials=lambda: trials)
    assert referee.choose_trial_to_run(controller) is None and suggester.suggest("second") is None
    trials[0].status = TuneTrial.ERROR
    for _ in range(2):  # it is asked again and again
        assert referee.choose_trial_to_run(controller) is None
    assert suggester.suggest("second") == {"index": 1}


def test_no_error_of_a_search_is_swallowed(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    desk = _Desk([], Cluster(({"CPU": 1.0},)), Snapshots())
    with pytest.raises(KeyError), desk.noting():
        raise KeyError("what Tune would log and forget")
    assert isinstance(desk.error, KeyError)


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
    busy = {file for stop in first.place.stops for file in stop.files}
    assert there.next(busy) is None
    assert tried_by(there, first, store) == 2
    assert there.next(set()) is None and not there.queue  # the second was there by then


def tried_by(there: Line, going: Going, store: Store) -> int:
    """Finish one suggestion; how many there are now."""
    answer(store, going.asks, 1.0)
    there.hear(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
    there.end(going)
    return len(store.names("searches"))


# Samplers


@pytest.mark.parametrize("space", [{"lr": LR}, {"lr": LR, "layers": Integers(1, 8), "how": Choices(["a", "b", None])}])
@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_every_sampler_stays_within_the_space(
    tmp_path: Path, condition: Callable[..., Condition], space: dict[str, Any], sampler: Any
) -> None:
    def labelled(lr: float, layers: int = 1, how: str | None = "a") -> Condition:
        return dataclasses.replace(condition(lr), labels={"layers": layers, "how": str(how)})

    store = Store(tmp_path)
    one = search(labelled, space=space, trials=SPREAD + 3, sampler=sampler)
    tried(line(one, store), store)
    entries = Ledger(prepared(one), store).entries.values()
    assert len({entry.place.key for entry in entries}) == SPREAD + 3
    for entry in entries:
        assert list(entry.place.point) == list(space)
        assert all(domain.holds(entry.place.point[name]) for name, domain in space.items())


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_point_is_tried_twice_where_the_edge_of_the_space_is_best(
    tmp_path: Path, condition: Callable[..., Condition], sampler: Any, sign: int
) -> None:
    store = Store(tmp_path)
    there = line(search(condition, trials=14, sampler=sampler), store)
    rates = []
    while (going := there.next(set())) is not None:
        rates.append(going.place.point["lr"])
        answer(store, going.asks, sign * math.log10(rates[-1]))
        there.hear(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
        there.end(going)
    edge = LR.low if sign > 0 else LR.high
    assert len(set(rates)) == 14 and all(LR.holds(lr) for lr in rates)
    assert sampler != "gp" or edge in rates  # the number itself, not what rounding makes of it


def test_all_points_of_a_small_space_are_tried_before_one_is_tried_again(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    space = {"lr": Choices([1e-4, 1e-3, 1e-2]), "exposures": Choices([1, 2, 3])}
    one = search(condition, space=space, trials=SPREAD + 9)
    tried(line(one, store), store)
    entries = list(Ledger(prepared(one), store).entries.values())
    spread = {entry.place.key for entry in entries[:SPREAD]}
    assert len({entry.place.key for entry in entries[: SPREAD + 9 - len(spread)]}) == 9


def test_half_the_trials_of_a_grid_find_what_the_grid_finds(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    grid = [10 ** (-5 + 4 * i / 15) for i in range(16)]
    apart: dict[str, list[float]] = {}
    for sampler in ("gp", "random"):
        for seed in range(4):
            best = 10 ** (-2.2 - 0.2 * seed)

            def steep(lr: float, best: float = best) -> float:
                above = math.log(lr / best)
                return above**2 * (3 if above > 0 else 0.3)  # too high a rate costs more than too low a one

            store = Store(tmp_path / f"{sampler}{seed}")
            there = line(search(condition, trials=8, sampler=sampler, seed=seed), store)
            found = []
            while (going := there.next(set())) is not None:
                found.append(steep(going.place.point["lr"]))
                answer(store, going.asks, found[-1])
                there.hear(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
                there.end(going)
            assert len(found) == 8
            apart.setdefault(sampler, []).append(min(found) - min(map(steep, grid)))
    assert statistics.median(apart["gp"]) < 0.01 < statistics.median(apart["random"])


# What a sweep says


def test_plan_and_status_count_suggestions(
    tmp_path: Path, condition: Callable[..., Condition], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(name="sweep", searches=[search(condition)])
    store = Store(tmp_path)
    [told] = sweep.plan(tmp_path).searches
    assert (told["trials"], told["stored"], told["steps_at_most"]) == (4, 0, 4 * 3)
    there = line(sweep.searches[0], store)
    tried(there, store, stop_after=3)
    unfinished = there.next(set())
    assert unfinished is not None
    [told] = sweep.plan(tmp_path).searches
    assert (told["stored"], told["steps_at_most"]) == (3, 3)
    assert print_status(store) == 1
    assert "sweep: 3 of 4 suggestions of search lr complete" in capsys.readouterr().out
    tried_by(there, unfinished, store)
    assert print_status(store) == 0
    assert "sweep: 4 of 4 suggestions of search lr complete" in capsys.readouterr().out
    before = sorted(path.name for path in tmp_path.glob("*/*"))
    assert sweep.run(tmp_path, console=Console(quiet=True))  # nothing is left, so no cluster is asked
    assert sorted(path.name for path in tmp_path.glob("*/*")) == before


def test_status_names_the_searches_that_are_not_through(
    tmp_path: Path, condition: Callable[..., Condition], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    tried(line(search(condition), store), store)
    tried(line(search(condition, name="other", seed=1), store), store, stop_after=1)
    assert print_status(store) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "sweep: 5 of 8 suggestions of 2 searches complete"
    assert told[1] == "  search other: 1 of 4"


def test_the_best_suggestion_of_each_search_is_told(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store = Store(tmp_path)
    low, high = (
        search(condition, name="low", sampler="random"),
        search(condition, name="high", mode="max", sampler="random"),
    )
    for one in (low, high):
        tried(line(one, store), store)
    ledgers = [Ledger(prepared(one), store) for one in (low, high, search(condition, name="none", seed=9))]
    page = io.StringIO()
    print_searches(ledgers, Console(file=page, width=100))
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in page.getvalue().splitlines() if "│" in row]
    values = [loss(_lr(entry)) for entry in ledgers[0].entries.values()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("low", f"{min(values):.4g}", "4"),
        ("high", f"{max(loss(_lr(entry)) for entry in ledgers[1].entries.values()):.4g}", "4"),
        ("none", "", "0"),
    ]
    assert rows[0][1] == f"lr={min(map(_lr, ledgers[0].entries.values()), key=loss):.4g}"
    assert "no finite number" not in page.getvalue()


def test_a_metric_without_a_number_is_told(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, metric=f"{NLL} WHERE item > 1000")
    tried(line(one, store), store)
    page = io.StringIO()
    print_searches([Ledger(prepared(one), store)], Console(file=page, width=100))
    assert "search lr: Search.metric came to no finite number for 4 of its 4 complete suggestions" in page.getvalue()
