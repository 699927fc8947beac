"""Which sweeps are executed in the process of the command, since Ray takes longer to start, and which are Ray's."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from pydantic import InstanceOf

from memexp.driver.short import Way, way_of
from memexp.driver.work import Work
from memexp.errors import SpecError
from memexp.plan import find_missing
from memexp.plan.attempts import Attempt, row, write
from memexp.plan.heartbeat import died
from memexp.probes import LmEval, Recognition
from memexp.search.ledger import Ledger
from memexp.sources import Sources
from memexp.spec import Condition, Model, Pair, Probe, Resources, Search, ShippedText, Snapshots, Study, Uniform, spec
from memexp.store import Store
from memexp.sweep import Sweep, _cluster

PAIR = Pair(ShippedText("sentences-targets", first=4), ShippedText("sentences-foils", first=4))
SHORT = Condition(Model("tiny-s"), Study(PAIR.targets, 1, 1e-3, 4), probes=[Recognition(PAIR)])


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, and if torch has been loaded it was for trials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "memexp.trial.base", ModuleType("base"))


def found(
    tmp_path: Path, *conditions: Condition, searches: tuple[Search, ...] = (), cluster: str | None = None, **more: Any
) -> Way:
    """Where a sweep of these conditions is executed, of one short one where there is none."""
    sweep = Sweep("mine", conditions or (() if searches else (SHORT,)), searches, **more)
    sources, store = Sources(), Store(tmp_path / "store")
    forest = sweep.grow(sources)
    ledgers = [Ledger(one, store) for one in sweep.prepare(sources)]
    return way_of(Work("mine", forest, find_missing(forest, store), ledgers, store, Snapshots()), cluster)


def long(exposures: int) -> Condition:
    return dataclasses.replace(SHORT, study=Study(PAIR.targets, exposures, 1e-3, 4))


def test_what_is_short_is_executed_here_and_what_is_long_by_ray(tmp_path: Path) -> None:
    assert found(tmp_path) == Way(True, "up to 1 s of work, and starting Ray takes longer")
    way = found(tmp_path, long(2_000))
    assert not way.here and way.why.endswith(" of work, and Ray starts in about 10 s")


def test_many_that_take_no_time_at_all_take_time(tmp_path: Path) -> None:
    """A file each, and a stage."""
    none = [dataclasses.replace(SHORT, study=Study(PAIR.targets, 0, 1e-3, 4), labels={"n": n}) for n in range(600)]
    assert not found(tmp_path, *none).here
    assert found(tmp_path, *none[:20]).here


def test_what_took_longer_than_was_reckoned_is_known_the_next_time(tmp_path: Path) -> None:
    stage = Sweep("mine", [SHORT]).grow().path(Sweep("mine", [SHORT]).grow().asks[0].stage)[-1]
    made = {"device": "CPU", "workers": 1}
    attempt, store = Attempt("earlier", "0123456789ab"), Store(tmp_path / "store")
    write(store, attempt, [row(stage, attempt, "complete", made, seconds=900.0, tokens=100)])
    assert not found(tmp_path).here


@spec
class Mine(Probe):
    """A probe of one's own, which may hold another."""

    kind: ClassVar[str] = "mine"
    within: InstanceOf[Probe] | None = None

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Any, texts: Any) -> pa.Table:
        raise AssertionError


@spec
class Wrapped(Recognition):
    """As if it came with memexp."""

    kind: ClassVar[str] = "wrapped"
    inner: InstanceOf[Probe] | None = None


def test_code_of_ones_own_is_never_executed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, dataclasses.replace(SHORT, probes=[Mine()])).why == "Mine executes code of your own"
    monkeypatch.setattr(Wrapped, "__module__", "memexp.probes.wrapped")
    assert found(tmp_path, dataclasses.replace(SHORT, probes=[Wrapped(PAIR)])).here
    within = dataclasses.replace(SHORT, probes=[Wrapped(PAIR, inner=Mine())])
    assert found(tmp_path, within).why == "Mine executes code of your own"


def test_task_files_of_ones_own_may_hold_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LmEval, "check", lambda *_: None)
    monkeypatch.setattr(LmEval, "bind", lambda self, condition: self)
    for path, here in ((None, True), (str(tmp_path), False)):
        probe = LmEval(["arc_easy"], include_path=path)
        assert found(tmp_path, dataclasses.replace(SHORT, probes=[probe])).here is here


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        (Resources(workers=2), "trials of several workers"),
        (Resources(gpus=1), "trials on GPUs"),
        (Resources(cpus=4096), "trials of more CPUs than there are here"),
    ],
)
def test_what_this_process_cannot_give_is_rays(tmp_path: Path, resources: Resources, why: str) -> None:
    assert found(tmp_path, resources=resources) == Way(False, why)


def test_a_search_of_one_at_a_time_is_executed_here_if_it_is_short(tmp_path: Path) -> None:
    def condition(lr: float) -> Condition:
        return dataclasses.replace(SHORT, study=Study(PAIR.targets, 1, lr, 4))

    def searched(trials: int, concurrent: int) -> Way:
        space, metric = {"lr": Uniform(1e-4, 1e-2, log=True)}, "SELECT avg(target_nll) FROM recognition"
        search = Search("lr", condition, space, metric, "min", trials=trials, concurrent=concurrent)
        return found(tmp_path, searches=(search,))

    assert searched(4, 1).here
    assert searched(4, 2).why == "a search that tries several suggestions at a time"
    assert not searched(1_000, 1).here


def test_where_a_cluster_is_told_it_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "the address of a cluster is set"
    assert found(tmp_path, cluster=told) == Way(False, told)
    assert _cluster(None) is None and _cluster("local") == told
    (tmp_path / "ray_bootstrap_config.yaml").touch()  # what `ray up` leaves in the home of a head
    assert _cluster(None) == told and Sweep("mine", [SHORT]).plan(tmp_path / "store").here is False
    (tmp_path / "ray_bootstrap_config.yaml").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert _cluster(None) == told
    monkeypatch.delenv("RAY_ADDRESS")
    for connected in (True, False):
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda now=connected: now))
        assert (_cluster(None) is None) is not connected


def test_torch_of_the_scripts_own_may_have_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path).here  # and models have been inspected
    if "torch" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.delitem(sys.modules, "memexp.trial.base")
    assert not found(tmp_path).here
    monkeypatch.setitem(sys.modules, "memexp.trial.base", ModuleType("base"))  # it was loaded for trials, here
    assert found(tmp_path).here


def sign(store: Store, name: str, **more: Any) -> None:
    alive = {"sweep": name.rpartition("-")[0], "host": "elsewhere", "pid": 1, "results": 1, "time": time.time()}
    store.put_text(f".running/{name}.json", json.dumps(alive | more))


def test_what_an_earlier_process_died_of_kills_none_here(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    sign(store, "mine-0123456789ab")
    sign(store, "mine-too-0123456789ab", time=0)
    assert not died(store, "mine") and died(store, "mine-too")  # one lives, the other is of another sweep
    assert found(tmp_path).here
    sign(store, "mine-ba9876543210", time=0)
    assert found(tmp_path) == Way(False, "an earlier process that executed it was killed")


def test_a_plan_says_which_way_it_goes(tmp_path: Path) -> None:
    def executed(sweep: Sweep) -> tuple[str, ...]:
        plan = sweep.plan(tmp_path / "store")
        [line] = [line for line in plan.rows() if line[0] == "executed"]
        assert json.loads(plan.json())["here"] is (line[1] == "in this process")
        return line

    here = "up to 1 s of work, and starting Ray takes longer; --ray starts it"
    assert executed(Sweep("mine", [SHORT])) == ("executed", "in this process", here)
    assert executed(Sweep("mine", [long(2_000)]))[1] == "by Ray"


def test_only_one_way_can_be_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="local executes in this process, ray by Ray: give one of the two"):
        Sweep("mine", [SHORT]).run(tmp_path / "store", local=True, ray=True)
