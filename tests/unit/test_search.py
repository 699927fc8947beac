"""Searches as they are described, planned and reported: what may be asked for, what identifies one, what is said."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console
from searching import LR, NLL, line, loss, lr_of, prepared, search, tried, tried_by

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
    ShippedText,
    SpecError,
    Study,
    Sweep,
    Uniform,
)
from memexp.report.status import print_status
from memexp.report.terminal import print_searches
from memexp.search.ledger import Ledger
from memexp.spec import spec
from memexp.store import Store

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


def test_a_metric_may_ask_how_often_texts_were_met(condition: Callable[..., Condition]) -> None:
    metric = "SELECT avg(target_nll) FROM recognition WHERE item_exposures > 0 AND steps_since < 9"
    assert prepared(search(condition, metric=metric)).search.metric == metric


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
        one.candidate({"lr": 1e-3})


def test_what_is_no_function_of_its_point_is_refused(condition: Callable[..., Condition]) -> None:
    seeds = itertools.count()
    with pytest.raises(SpecError, match=r"^search lr, lr=1e-05: asked again, condition returns others than before$"):
        prepared(search(lambda lr: dataclasses.replace(condition(lr), seed=next(seeds))))


def test_retention_is_an_axis_as_well(tiny_model: Model, pair: Pair) -> None:
    def condition(lr: float) -> list[Condition]:
        between = [Interference(pair.foils, steps=steps, lr=1e-3, batch_size=4) for steps in (0, 1, 10)]
        study = Study(pair.targets, exposures=1, lr=lr, batch_size=4)
        return [Condition(tiny_model, study, probes=[Recognition(pair)], interference=one) for one in between]

    candidate = prepared(search(condition)).edges[0]
    assert (candidate.axis, [stop.at for stop in candidate.stops]) == ("retention_steps", [0, 1, 10])
    assert candidate.forest.steps == 3 + 10


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
    values = [loss(lr_of(entry)) for entry in ledgers[0].entries.values()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("low", f"{min(values):.4g}", "4"),
        ("high", f"{max(loss(lr_of(entry)) for entry in ledgers[1].entries.values()):.4g}", "4"),
        ("none", "", "0"),
    ]
    assert rows[0][1] == f"lr={min(map(lr_of, ledgers[0].entries.values()), key=loss):.4g}"
    assert "no finite number" not in page.getvalue()


def test_a_metric_without_a_number_is_told(tmp_path: Path, condition: Callable[..., Condition]) -> None:
    store, one = Store(tmp_path), search(condition, metric=f"{NLL} WHERE item > 1000")
    tried(line(one, store), store)
    page = io.StringIO()
    print_searches([Ledger(prepared(one), store)], Console(file=page, width=100))
    assert "search lr: Search.metric came to no finite number for 4 of its 4 complete suggestions" in page.getvalue()
