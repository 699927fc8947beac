"""Trials in this process, without Ray: what is refused, what is retried, searches (whole commands: drills)."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from memexp.errors import ClusterError, SpecError
from memexp.plan.attempts import Log
from memexp.plan.room import Room
from memexp.probes import Recognition
from memexp.spec import ASHA, Condition, Model, Pair, Resources, Search, Study, Uniform
from memexp.store import Store
from memexp.sweep import Sweep

QUIET = Console(quiet=True)


@pytest.fixture
def conditions(pair: Pair, tiny_model: Model) -> list[Condition]:
    return [Condition(tiny_model, Study(pair.targets, n, 1e-3, 4), probes=[Recognition(pair)]) for n in (0, 1)]


def test_several_workers_are_refused_in_a_line(conditions: list[Condition], tmp_path: Path) -> None:
    sweep = Sweep(name="sharded", conditions=conditions, resources=Resources(workers=2))
    with pytest.raises(SpecError, match=r"Resources\.workers: 2 workers are several processes"):
        sweep.run(tmp_path / "store", local=True, console=QUIET)
    assert Store(tmp_path / "store").kinds() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_asked_for_in_vain(conditions: list[Condition], tmp_path: Path) -> None:
    sweep = Sweep(name="fast", conditions=conditions, resources=Resources(gpus=1))
    with pytest.raises(SpecError, match=r"Resources\.gpus: this process finds no GPU"):
        sweep.run(tmp_path / "store", local=True, console=QUIET)


def test_what_takes_more_memory_than_there_is_is_refused(
    conditions: list[Condition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memexp.driver.peaks.LARGE", 0)
    monkeypatch.setattr("memexp.local.here", lambda: Room(host=10**8))
    with pytest.raises(ClusterError, match=r"model 'tiny' \(full, float32\): takes .* the machine has 0\.1 GB; "):
        Sweep(name="large", conditions=conditions).run(tmp_path / "store", local=True, console=QUIET)
    assert Store(tmp_path / "store").kinds() == []


def test_an_address_makes_no_sense(conditions: list[Condition], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="give one of the two"):
        Sweep(name="both", conditions=conditions).run(tmp_path, "auto", local=True, console=QUIET)


def test_in_a_notebook_it_leaves_nothing_behind(conditions: list[Condition], tmp_path: Path) -> None:
    """A sweep as an object, in a process that goes on."""
    assert Sweep(name="here", conditions=conditions).run(tmp_path, local=True, console=QUIET)
    rows = Store(tmp_path).scan("recognition")
    assert rows is not None and rows.num_rows == 2 * 12
    [attempt] = {(row["attempt"], row["part"]) for row in Log.read(Store(tmp_path)).rows()}
    assert attempt[1] == "conditions" and not list(Path(tmp_path, ".running").glob("*"))


def test_what_is_short_comes_here_by_itself(
    conditions: list[Condition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not where it is told to go elsewhere; its rows are those of a run that is told to stay."""
    import memexp.trial.base  # noqa: F401 - or torch, which is loaded, would be taken for a script's own

    monkeypatch.setattr("memexp.sweep._cluster", lambda address: None)  # of another test
    page, sweep = io.StringIO(), Sweep(name="short", conditions=conditions)
    assert sweep.run(tmp_path / "short", console=Console(file=page, width=200))
    assert "in this process: up to " in page.getvalue() and "(--ray starts it); loading torch ..." in page.getvalue()
    assert sweep.run(tmp_path / "told", local=True, console=QUIET)
    rows = [Store(tmp_path / name).scan("recognition") for name in ("short", "told")]
    assert rows[0] is not None and rows[0].sort_by("condition_id").equals(rows[1].sort_by("condition_id"))

    @contextlib.contextmanager
    def on_cluster(*_: Any) -> Iterator[Any]:
        raise ZeroDivisionError
        yield

    monkeypatch.setattr("memexp.cluster.executor.on_cluster", on_cluster)
    with pytest.raises(ZeroDivisionError):
        sweep.run(tmp_path / "ray", ray=True, console=QUIET)


def test_what_hangs_without_a_debugger_is_ended(
    conditions: list[Condition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memexp.trial.base  # noqa: F401 - as above

    watched: list[float | None] = []
    monkeypatch.setattr("memexp.sweep._cluster", lambda address: None)
    monkeypatch.setattr("memexp.trial.execute.Walk.run", lambda self, base, minutes: watched.append(minutes) or [])
    sweep = Sweep(name="short", conditions=conditions, resources=Resources(stall_minutes=7))
    for how in ({}, {"local": True}):
        assert not sweep.run(tmp_path, console=QUIET, **how)  # nothing is done
    assert set(watched) == {7, None}


LR = {"lr": Uniform(1e-4, 1e-2, log=True)}


def searched(conditions: list[Condition], **changes: Any) -> Sweep:
    """A sweep of one search over exposures 1 to 3."""
    plain = conditions[1]

    def condition(lr: float) -> list[Condition]:
        study = [dataclasses.replace(plain.study, exposures=n, lr=lr) for n in (1, 2, 3)]
        return [dataclasses.replace(plain, study=one) for one in study]

    search = Search("lr", condition, LR, "SELECT avg(target_nll) FROM recognition", "min", trials=4, **changes)
    return Sweep(name="searched", searches=[search])


def test_a_search_that_tries_several_at_a_time_is_refused(conditions: list[Condition], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"search lr: .*Search\.concurrent=1"):
        searched(conditions).run(tmp_path, local=True, console=QUIET)


def test_a_search_of_one_at_a_time_goes_through_and_on(conditions: list[Condition], tmp_path: Path) -> None:
    sweep = searched(conditions, concurrent=1, stopping=ASHA(reduction=2))
    assert sweep.run(tmp_path, local=True, console=QUIET)
    store = Store(tmp_path)
    stopped = {row["suggestion"] for row in Log.read(store).rows(status="stopped")}
    table = store.scan("recognition")
    assert table is not None and stopped and len(stopped) < 4
    measured = len({row["condition_id"] for row in table.to_pylist()})
    assert 4 <= measured < 4 * 3, "what the rule ends is not measured to its end"
    before = {kind: store.names(kind) for kind in store.kinds()}
    assert sweep.run(tmp_path, local=True, console=QUIET)
    assert {kind: store.names(kind) for kind in store.kinds()} == before
