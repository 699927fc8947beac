"""An export grows by what is new: nothing else is read, nothing is doubled, or kept that has gone, whatever comes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memexp.cli import main
from memexp.exchange import incremental
from memexp.exchange.compact import compact
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import SWEEPS, rows_for
from memexp.report.verify import complaint
from memexp.store import EXPORT, Store


def results(exposures: int, labels: dict[str, Any] | None = None) -> pa.Table:
    rows = [{"item": item, "target_nll": 1.0, "foil_nll": float(item)} for item in range(3)]
    settings = {"model": "small", "exposures": exposures, "condition_id": f"c{exposures}"}
    return rows_for(pa.Table.from_pylist(rows, schema=RECOGNITION), settings, labels or {}, {})


class Counting(Store):
    """A store that knows what of it was read."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.reads: list[str] = []

    def read(self, kind: str, name: str) -> pa.Table:
        self.reads.append(name)
        return super().read(kind, name)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    store = Counting(tmp_path / "results")
    for number in range(4):
        store.commit("recognition", f"n{number}", results(9 - number))
    store.commit("sweeps", "s", pa.Table.from_pylist([{"sweep": "one"}], schema=SWEEPS))
    return store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results-compacted"


def same(store: Store, out: Path) -> bool:
    """Whether an export has exactly the rows of its store, whole, and nothing lies beside it."""
    export, store = Store(out), Store(store.location)
    assert export.verify(complaint).problems == () and len(list(out.parent.glob(".*"))) == 0
    assert export.kinds() == store.kinds()
    for kind in store.kinds():
        tables = [one.scan(kind) for one in (export, store)]
        assert set(tables[0].schema.names) == set(tables[1].schema.names)
        rows = [sorted(json.dumps(row, sort_keys=True, default=str) for row in table.to_pylist()) for table in tables]
        if rows[0] != rows[1]:
            return False
    return True


def files(out: Path) -> set[str]:
    return {path.name for path in (out / "recognition").iterdir()}


@pytest.mark.parametrize("whole_first", [True, False], ids=["after a whole export", "from the beginning"])
def test_only_what_is_new_is_read(store: Counting, out: Path, whole_first: bool) -> None:
    compact(store, incremental=not whole_first)
    first, store.reads = files(out), []
    store.commit("recognition", "n4", results(1))
    assert compact(store, incremental=True).rows == 16
    assert store.reads == ["n4"] and first < files(out) and same(store, out)
    assert not compact(store, incremental=True).new and store.reads == ["n4"]


def test_files_are_in_order_and_columns_that_came_later_are_null_before(store: Counting, out: Path) -> None:
    compact(store, incremental=True)
    store.commit("recognition", "n4", results(1, {"list": "mine"}))
    compact(store, incremental=True)
    assert same(store, out)
    [first] = [one for one in (pa.table(Store(out).read("recognition", name.removesuffix(".parquet")))
                               for name in files(out)) if one.num_rows > 3]  # fmt: skip
    assert first["exposures"].to_pylist() == sorted(first["exposures"].to_pylist())
    sql = "SELECT count(*) AS n, count(list) AS lists FROM recognition"
    assert main(["query", "--store", str(out), "--csv", sql]) == 0


@pytest.mark.parametrize("change", ["gone", "anew"])
def test_a_part_of_which_something_changed_is_made_anew(store: Counting, out: Path, change: str) -> None:
    compact(store, incremental=True)
    store.commit("recognition", "n4", results(1))
    compact(store, incremental=True)
    Path(store.path("recognition", "n2")).unlink()
    if change == "anew":
        store.commit("recognition", "n2", results(70))
    store.reads = []
    compact(store, incremental=True)
    assert same(store, out) and "n4" not in store.reads
    kept = set(Store(out).scan("recognition")["exposures"].to_pylist())
    assert (70 in kept) == (change == "anew") and 7 not in kept


def test_many_small_parts_are_joined_without_reading_the_store(
    store: Counting, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(store, incremental=True)
    monkeypatch.setattr(incremental, "MANY", 3)
    for number in range(4, 10):
        store.commit("recognition", f"n{number}", results(number, {"list": "mine"} if number > 6 else None))
        store.reads = []
        compact(store, incremental=True)
        assert store.reads == [f"n{number}"] and same(store, out)
        assert len(files(out)) <= 4


def test_many_new_files_become_several_parts(store: Counting, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "AT_ONCE", 2)
    compact(store, incremental=True)
    assert len(files(out)) == 2 and same(store, out) and len(store.reads) == 5


def test_an_export_that_knows_of_no_parts_is_made_anew(store: Counting, out: Path) -> None:
    compact(store)
    told = json.loads((out / EXPORT).read_text())
    del told["parts"]
    (out / EXPORT).write_text(json.dumps(told))
    store.commit("recognition", "n4", results(1))
    compact(store, incremental=True)
    assert same(store, out)


KILLED = """
import os, signal, sys
from memexp.exchange import compact, incremental
from memexp.store import Store
where = sys.argv[3]
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "before its files":
    incremental.written = die
elif where == "before it is published":
    compact._publish = die
else:
    exchanged = compact._exchanged
    compact._exchanged = lambda one, other: (exchanged(one, other), die())
compact.compact(Store(sys.argv[1]), sys.argv[2], incremental=True)
"""


@pytest.mark.parametrize("where", ["before its files", "before it is published", "after it is published"])
def test_killed_anywhere_the_older_or_the_new_one_is_there(store: Counting, out: Path, where: str) -> None:
    compact(store, incremental=True)
    store.commit("recognition", "n4", results(1))
    ended = subprocess.run([sys.executable, "-c", KILLED, store.location, str(out), where], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert Store(out).verify(complaint).rows == (16 if where.startswith("after") else 13)
    compact(store, incremental=True)
    assert Store(out).verify(complaint).rows == 16 and Store(out).verify(complaint).problems == ()


def test_another_that_replaces_the_export_meanwhile_is_noticed(
    store: Counting, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(store, incremental=True)
    store.commit("recognition", "n4", results(1))
    link = incremental._link

    def another_is_first(old: Path, new: Path) -> None:
        monkeypatch.setattr(incremental, "_link", link)
        Path(store.path("recognition", "n0")).unlink()  # so that no file of the older one stays
        compact(Store(store.location), str(out))
        link(old, new)

    monkeypatch.setattr(incremental, "_link", another_is_first)
    compact(store, incremental=True)
    assert same(store, out)


def test_writers_compactions_and_readers_at_once(store: Counting, out: Path) -> None:
    compact(store, incremental=True)
    errors: list[BaseException] = []
    ended = threading.Event()

    def writes() -> None:
        for number in range(10, 60):
            store.commit("recognition", f"n{number}", results(number))

    def compacts() -> None:
        for _ in range(8):
            compact(Store(store.location), incremental=True)

    def reads() -> None:
        while not ended.is_set():
            told = json.loads((out / EXPORT).read_text())
            assert told["rows"] == 3 * len(told["sources"]["recognition"]) + 1

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (writes, compacts, compacts)]
    reader = threading.Thread(target=guarded, args=(reads,))
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    reader.join()
    assert errors == []
    compact(store, incremental=True)
    assert same(store, out)
