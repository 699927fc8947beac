"""`memexp prune`: it shows what no sweep refers to, removes nothing else, and nothing that it was not told to."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_results import WHEN, Made, identity
from rich.console import Console

from memexp.cli import main
from memexp.driver import pruning
from memexp.driver.pruning import HALF, PRUNING, check_not_pruned, find, prune
from memexp.driver.run import Run
from memexp.errors import StoreError
from memexp.exchange.compact import compact
from memexp.exchange.llm_memory import import_results
from memexp.identity import NUMERICS
from memexp.plan import Forest
from memexp.records import STAGES
from memexp.spec import Snapshots
from memexp.store import Store
from memexp.store.folder import Folder
from memexp.store.query import answer
from memexp.store.snapshots import File, Snapshot, mark_text

LOSSES = "-".join(identity(part) for part in "abc")
"""A name as results have it."""
NOBODY = 2**22 + 1
"""The number of a process that Linux does not give out."""


def results(made: Made, lrs: tuple[float, ...]) -> list[str]:
    """A result of each learning rate; returns their names."""
    common = {"model": "tiny-s", "exposures": 1, "seed": 0}
    return [made.result("recognition", made.recognition(1.0, 0), {}, lr=lr, **common) for lr in lrs]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sweep that was edited once, a result of none, what was imported, and what somebody has put there."""
    store = Store(tmp_path / "results")
    made = Made(store, items=2)
    results(made, (0.1, 0.2, 0.3))
    made.rows = made.rows[:2]
    made.sweep("edited")
    results(made, (0.2, 0.4))
    rows = [row | {"sweep": "edited", "started": WHEN + timedelta(days=1)} for row in made.rows]
    store.commit("sweeps", "edited-1", pa.Table.from_pylist(rows))
    losses = np.array([1.0, 2.0])
    folder = tmp_path / "shot-1" / "expt1-gpt"
    folder.mkdir(parents=True)
    arrays = {"seen_losses": losses, "unseen_losses": losses[::-1], "mean_accuracy": np.mean(losses < losses[::-1])}
    np.savez(folder / "gpt2_init_seen_data_0_results.npz", **arrays)
    import_results(str(folder), store)
    store.commit("recognition", "mine", pa.table({"item": [1]}))
    done = {"kind": "study", "status": "complete", "finished": WHEN}
    log = [done | {"stage_id": row["stage_id"], "parent_id": "base"} for row in made.rows]
    store.commit("stages", "one", pa.Table.from_pylist([*log, done | {"stage_id": "base"}], schema=STAGES))
    store.commit("training", LOSSES, pa.table({"stage_id": ["gone"]}))
    return store


def everything(store: Store) -> set[str]:
    root = Path(store.location)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def beat(store: Store, sweep: str, age: float = 0.0, **other: object) -> None:
    sign = {"sweep": sweep, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time() - age}
    store.put_text(f".running/{sweep}-{age}.json", json.dumps(sign | other))


def test_it_shows_by_table_and_reason_and_removes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(store)
    assert main(["prune", "--store", store.location]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["recognition", "listed by an earlier start of edited", "1"],
        ["recognition", "listed by no sweep", "1"],
    ]
    assert "2 files, " in out and "nothing was removed: --remove does it" in out
    assert everything(store) == before


def test_it_removes_that_and_nothing_else(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(store)
    gone = {f"{one.table}/{one.name}.parquet" for one in find(store).candidates}
    assert main(["prune", "--remove", "--store", store.location]) == 0
    assert "2 files, " in capsys.readouterr().out
    assert len(gone) == 2 and everything(store) == before - gone
    assert answer(store, "SELECT lr FROM recognition ORDER BY 1", sweep="edited")[1] == [(0.2,)] * 2 + [(0.4,)] * 2
    assert main(["prune", "--remove", "--store", store.location]) == 0
    assert "nothing to remove" in capsys.readouterr().out and everything(store) == before - gone


def test_whatever_belongs_to_a_search_stays_as_long_as_that_is_the_search(store: Store) -> None:
    made = Made(store, items=2)
    (name,) = results(made, (0.5,))
    assert name in {one.name for one in find(store).candidates}
    row = {"sweep": "s", "search": "x", "suggestion": 0, "trials": 1, "point": "{}", "axis": "exposures", "stop": 1}
    row |= {"condition_id": "c", "stage_id": "s", "metric": "SELECT 1", "mode": "max"}

    def search(search_id: str, results: list[str], day: int) -> None:
        from memexp.records import SEARCHES

        rows = [row | {"search_id": search_id, "results": results, "suggested": WHEN + timedelta(days=day)}]
        store.commit("searches", search_id, pa.Table.from_pylist(rows, schema=SEARCHES))

    search("one", [f"recognition/{name}"], 0)
    assert name not in {one.name for one in find(store).candidates}
    search("two", [], 1)
    assert [one.reason for one in find(store).candidates if one.name == name] == ["listed by an earlier start of s"]


def test_nothing_is_removed_while_a_sweep_is_executed_nor_is_one_begun_while_something_is(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(store)
    beat(store, "other")
    assert main(["prune", "--remove", "--store", store.location]) == 2
    assert f"other is being executed (pid {os.getpid()} on" in capsys.readouterr().err
    assert everything(store) - before == {".running/other-0.0.json"}
    beat(store, "other", pid=NOBODY)  # killed: its sign of life is removed with the rest
    beat(store, PRUNING)
    with pytest.raises(StoreError, match="memexp prune is removing files"):
        Run("late", Forest(), [], store, Snapshots(), False, Console()).begin()
    beat(store, PRUNING, pid=NOBODY)
    check_not_pruned(store)
    assert prune(store, really=True) == 0
    assert not any(name.startswith(".running") for name in everything(store))


def test_where_its_sign_of_life_cannot_be_written_it_removes_nothing_and_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise StoreError("read-only")

    before = everything(store)
    monkeypatch.setattr(Store, "put_text", refused)
    monkeypatch.setattr(pruning, "SEEN_WITHIN", 0.2)
    with pytest.raises(StoreError, match=r"cannot write to .*: nothing is removed"):
        prune(store, really=True)
    assert everything(store) == before


def test_a_sweep_that_is_started_meanwhile_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = Store.remove

    def started(self: Store, kind: str, name: str) -> None:
        remove(self, kind, name)
        beat(self, "late")

    monkeypatch.setattr("memexp.driver.pruning.AT_ONCE", 1)
    monkeypatch.setattr(Store, "remove", started)
    with pytest.raises(StoreError, match=r"late is being executed .*: 1 files were removed, the same command goes on"):
        prune(store, really=True)
    assert len(find(store).candidates) == 1


class Killed(BaseException):
    """As if by kill -9: nothing handles it."""


def dies_after(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], None]:
    """Has the medium die at a later removal of a result or snapshot; returns what brings it back."""
    delete, done = Folder.delete, [0]

    def dying(self: Folder, key: str) -> None:
        if not key.startswith(".running/"):
            done[0] += 1
            if done[0] > count:
                raise Killed
        delete(self, key)

    monkeypatch.setattr(Folder, "delete", dying)
    return lambda: monkeypatch.setattr(Folder, "delete", delete)


def snapshot(store: Store, trajectory: str, after: str, marked: bool = True) -> None:
    """One with a file; without a mark it was never finished."""
    folder = f"{1:09d}-{'0' * 32}"
    said = Snapshot(
        format=1, trajectory=trajectory, step=1, plan=after, numerics=NUMERICS, workers=1, folder=folder,
        files={"state.json": File(size=2, crc32=0)},
    )  # fmt: skip
    store.put_text(f".snapshots/{trajectory}/{folder}/state.json", "{}")
    if marked:
        store.put_text(f".snapshots/{trajectory}/{1:09d}.json", mark_text(said))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_killed_midway_it_leaves_a_store_that_reads_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    gone = identity("gone")
    log = [{"stage_id": gone, "parent_id": "base", "status": "complete", "finished": WHEN}]
    store.commit("stages", "two", pa.Table.from_pylist(log, schema=STAGES))
    snapshot(store, gone, "base")
    stays = everything(store) - {
        f"{one.table}/{one.name}.parquet" if one.table == "recognition" else one.name for one in find(store).candidates
    }
    back = dies_after(monkeypatch, count)
    with pytest.raises(Killed):
        prune(store, really=True)
    back()
    left = everything(store)
    assert left > stays and store.verify().problems == ()
    marks = {name for name in left if name.endswith(f"{1:09d}.json")}
    assert not marks or len([name for name in left if gone in name]) == 2  # no mark without its files
    assert prune(store, really=True) == 0
    assert everything(store) == stays


def test_snapshots_that_lead_to_what_is_listed_stay(store: Store) -> None:
    listed = answer(store, "SELECT DISTINCT stage_id FROM recognition WHERE lr = 0.4")[1][0][0]
    gone, line, other, half = (identity(name) for name in ("gone", "line", "other", "half"))
    log = [{"stage_id": gone, "parent_id": "base", "status": "complete", "finished": WHEN}]
    store.commit("stages", "two", pa.Table.from_pylist(log, schema=STAGES))
    for trajectory, after in ((listed, "base"), (gone, "base"), (line, gone), (other, listed), ("unknown", "nowhere")):
        snapshot(store, trajectory, after)
    snapshot(store, half, "base", marked=False)
    found = [one for one in find(store).candidates if one.table == ".snapshots"]
    assert {one.name.split("/")[1] for one in found} == {gone, line, half}
    assert [one.name.split("/")[1] for one in found if one.reason == HALF] == [half]
    # One that lacks results may go on from any of them, but not from what was never whole.
    made = Made(store, items=2)
    made.rows = [{"kind": "recall", "name": "a", "condition_id": "c", "stage_id": "s", "probe_id": "p"}]
    made.sweep("lacking")
    found = find(store)
    assert {one.name.split("/")[1] for one in found.candidates if one.table == ".snapshots"} == {half}
    assert found.remarks == ["snapshots are kept as long as sweeps lack results, which may need them: lacking"]


def test_logs_of_measurements_that_no_sweep_lists_go(store: Store) -> None:
    listed, gone = sorted(store.names("recognition") & {file.split("/")[1] for file in _latest(store)})[0], "0" * 16
    stage, probe, _ = listed.split("-")
    for begin in (f"recognition-{stage}-{probe}", f"recognition-{gone}-{probe}"):
        store.put_text(f".logs/edited/{begin}-0123-conditions-0.txt", "said\n")
    (log,) = (one for one in find(store).candidates if one.table == ".logs")
    assert gone in log.name and log.size == 5


def _latest(store: Store) -> frozenset[str]:
    from memexp.store.references import references

    return references(store).latest


def test_where_no_sweep_is_known_nothing_is_known_to_belong_to_none(store: Store) -> None:
    for name in store.names("sweeps"):
        Path(store.path("sweeps", name)).unlink()
    found = find(store)
    assert not found.candidates and "no sweep is known here" in found.remarks[0]


def test_an_export_is_refused(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (store.path("recognition", "mine"), store.path("training", LOSSES)):
        Path(file).unlink()
    export = compact(store, str(tmp_path / "export")).target
    assert main(["prune", "--store", export]) == 2
    assert "is an export" in capsys.readouterr().err
