"""An export holds all rows of a store, is a store for reading, appears at once, and touches nothing else."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memexp.cli import main
from memexp.errors import StoreError
from memexp.exchange import compact as compacting
from memexp.exchange import exported
from memexp.exchange.compact import Export, compact
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import SWEEPS, rows_for
from memexp.report.verify import complaint
from memexp.store import EXPORT, Store

Said = Callable[..., tuple[int, str, str]]


def results(exposures: int, items: int = 3, labels: dict[str, Any] | None = None, **settings: Any) -> pa.Table:
    rows = [{"item": item, "target_nll": 1.0, "foil_nll": float(item)} for item in range(items)]
    return rows_for(
        pa.Table.from_pylist(rows, schema=RECOGNITION),
        {"model": "small", "exposures": exposures, "condition_id": f"c{exposures}"} | settings,
        labels or {},
        {},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three files of recognition, one older without the label, and one of sweeps."""
    store = Store(tmp_path / "results")
    store.commit("recognition", "a", results(3, lr=1e-3, labels={"list": "mine"}))
    store.commit("recognition", "b", results(0, labels={"list": "mine"}))
    store.commit("recognition", "c", results(1, lr=1e-4))
    store.commit("sweeps", "s", pa.Table.from_pylist([{"sweep": "one"}], schema=SWEEPS))
    return store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results-compacted"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        return status, *capsys.readouterr()

    return command


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sorted_rows(table: pa.Table) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True, default=str) for row in table.to_pylist())


def alone(tmp_path: Path) -> list[str]:
    """What is beside the store and its export."""
    return sorted({path.name for path in tmp_path.iterdir()} - {"results", "results-compacted"})


def test_an_export_has_all_rows_and_columns(store: Store, out: Path, tmp_path: Path) -> None:
    before = everything(Path(store.location))
    assert compact(store) == Export(str(out), sources=4, rows=10, files=2, new=True)
    assert everything(Path(store.location)) == before and alone(tmp_path) == []
    export = Store(out)
    assert export.kinds() == store.kinds() == ["recognition", "sweeps"]
    for kind in store.kinds():
        [name] = export.names(kind)
        assert export.read(kind, name).schema == store.scan(kind).schema
        assert sorted_rows(export.scan(kind)) == sorted_rows(store.scan(kind))
    found = export.verify(complaint)
    assert (found.files, found.rows, found.problems) == (2, 10, ())


def test_files_are_in_order_and_their_rows_together(store: Store, out: Path) -> None:
    compact(store)
    table = Store(out).scan("recognition").select(["exposures", "item"])
    expected = [{"exposures": exposures, "item": item} for exposures in (0, 1, 3) for item in range(3)]
    assert table.to_pylist() == expected


def test_query_reads_either(store: Store, out: Path, said: Said) -> None:
    compact(store)
    sql = "SELECT exposures, list, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL ORDER BY ALL"
    answers = [said("query", "--store", place, "--csv", sql) for place in (store.location, str(out))]
    assert answers[0] == answers[1] and len(answers[0][1].splitlines()) == 4


def test_it_says_which_files_are_in_it(store: Store, out: Path) -> None:
    compact(store)
    told = json.loads((out / EXPORT).read_text())
    assert told["store"] == store.location
    assert told["sources"] == {"recognition": ["a", "b", "c"], "sweeps": ["s"]}
    assert told["rows"] == 10
    assert told["files"] == {name: len(data) for name, data in everything(out).items() if name != EXPORT}


def test_the_command(store: Store, out: Path, said: Said, tmp_path: Path) -> None:
    assert said("compact", "--store", store.location) == (0, f"{out}: 10 rows of 4 files in 2\n", "")
    assert said("compact", "--store", store.location) == (0, f"{out} was up to date: 10 rows of 4 files in 2\n", "")
    other = tmp_path / "deep" / "other"
    assert said("compact", "--store", store.location, "--out", str(other))[:2] == (
        0,
        f"{other}: 10 rows of 4 files in 2\n",
    )


def test_an_older_export_is_replaced(store: Store, out: Path, tmp_path: Path) -> None:
    compact(store)
    first = everything(out)
    os.utime(out / EXPORT, (1, 1))
    assert not compact(store).new and everything(out) == first and (out / EXPORT).stat().st_mtime == 1
    store.commit("recognition", "d", results(9))
    assert compact(store) == Export(str(out), sources=5, rows=13, files=2, new=True)
    assert Store(out).scan("recognition").num_rows == 12 and alone(tmp_path) == []
    assert not set(everything(out)) & set(first) - {EXPORT}  # a reader between the two mixes no files
    Path(store.path("recognition", "a")).unlink()  # people may remove results
    assert compact(store).rows == 10 and Store(out).scan("recognition").num_rows == 9
    Path(store.path("recognition", "b")).unlink()  # and have them measured again
    store.commit("recognition", "b", results(7))
    assert compact(store) == Export(str(out), sources=4, rows=10, files=2, new=True)
    assert set(Store(out).scan("recognition")["exposures"].to_pylist()) == {1, 7, 9}


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_replacement_leaves_the_older(
    store: Store, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    compact(store)
    first = everything(out)
    store.commit("recognition", "d", results(9))
    monkeypatch.setattr(compacting, "_exchanged", lambda one, other: False)
    asked: list[Path] = []

    def rename(one: Path, other: Path, system: Callable[[Path, Path], None] = os.rename) -> None:
        asked.append(other)
        if len(asked) == failing:
            raise OSError(5, "Input/output error")
        system(one, other)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StoreError, match="cannot write"):
        compact(store)
    assert everything(out) == first and alone(tmp_path) == []


def test_where_folders_cannot_be_exchanged_two_renames_do(
    store: Store, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(store)
    store.commit("recognition", "d", results(9))
    monkeypatch.setattr(compacting, "_exchanged", lambda one, other: False)
    assert compact(store).rows == 13
    assert Store(out).scan("recognition").num_rows == 12 and alone(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="two folders change places in one step by renameat2 of Linux only")
def test_a_reader_sees_the_older_export_or_the_new_one(store: Store, out: Path) -> None:
    compact(store)
    ended, seen, gaps = threading.Event(), set(), []

    def look() -> None:
        while not ended.is_set():
            try:
                seen.add(json.loads((out / EXPORT).read_text())["rows"])
            except FileNotFoundError as error:
                gaps.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(15):
        store.commit("recognition", f"more-{number}", results(number + 10))
        compact(store)
    ended.set()
    reader.join()
    assert not gaps and len(seen) > 2


# What is refused


@pytest.mark.parametrize("inside", ["", "sub", "recognition", "..", "../results/x/y", "link", "link/sub"])
def test_an_export_is_outside_of_the_store(store: Store, tmp_path: Path, inside: str, said: Said) -> None:
    (tmp_path / "link").symlink_to(store.location)
    target = str(tmp_path / inside) if inside.startswith("link") else os.path.join(store.location, inside)
    before = everything(tmp_path)
    status, _, err = said("compact", "--store", store.location, "--out", target)
    assert status == 2 and "an export is kept outside of the store" in err and err.count("\n") == 1
    assert everything(tmp_path) == before


def stranger(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def no_export(out: Path) -> None:
    (out / EXPORT).unlink()


def nonsense(out: Path) -> None:
    (out / EXPORT).write_text("[1]")


def another(out: Path) -> None:
    told = json.loads((out / EXPORT).read_text())
    (out / EXPORT).write_text(json.dumps(told | {"store": "/elsewhere"}))


def cut(out: Path) -> None:
    file = next((out / "recognition").iterdir())
    file.write_bytes(file.read_bytes()[:-1])


def gone(out: Path) -> None:
    next((out / "recognition").iterdir()).unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (stranger, "notes.txt is not as it was exported"),
        (no_export, "exists and is no export"),
        (nonsense, "exists and is no export"),
        (another, "is an export of /elsewhere"),
        (cut, ".parquet is not as it was exported"),
        (gone, ".parquet is not as it was exported"),
    ],
)
def test_only_an_untouched_export_is_replaced(
    store: Store, out: Path, said: Said, change: Callable[[Path], None], expected: str
) -> None:
    compact(store)
    change(out)
    store.commit("recognition", "d", results(9))
    before = everything(out)
    status, _, err = said("compact", "--store", store.location)
    assert status == 2 and expected in err and err.count("\n") == 1 and "--out" in err
    assert everything(out) == before


def test_a_file_is_no_place_for_an_export(store: Store, out: Path, said: Said) -> None:
    out.write_text("mine")
    status, _, err = said("compact", "--store", store.location)
    assert status == 2 and "exists and is no export" in err and out.read_text() == "mine"


def test_an_empty_folder_is(store: Store, out: Path) -> None:
    out.mkdir()
    assert compact(store).new and Store(out).names("recognition")


def test_a_broken_file_is_named_and_nothing_appears(store: Store, out: Path, tmp_path: Path, said: Said) -> None:
    broken = Path(store.path("recognition", "b"))
    broken.write_bytes(broken.read_bytes()[:-40])
    status, _, err = said("compact", "--store", store.location)
    assert status == 2 and str(broken) in err and err.count("\n") == 1
    assert not out.exists() and alone(tmp_path) == []


def test_an_empty_store_is_said(tmp_path: Path, said: Said) -> None:
    (tmp_path / "results").mkdir()
    assert said("compact", "--store", str(tmp_path / "results"))[2].endswith("the store is empty\n")
    assert alone(tmp_path) == []


def test_nothing_is_written_to_an_export_or_asked_for_in_it(store: Store, out: Path, said: Said) -> None:
    compact(store)
    with pytest.raises(StoreError, match="is an export, for query and verify only"):
        Store(out).check_writable()
    status, _, err = said("status", "--store", str(out))
    assert status == 2 and f"{out} is an export, for query and verify only" in err
    assert said("verify", "--store", str(out))[:2] == (0, "2 files, 10 rows, 0 broken\n")


def test_what_a_killed_export_left_is_cleared_after_a_day(store: Store, out: Path, tmp_path: Path) -> None:
    old, new = (tmp_path / f".{out.name}.compacting-{name}" for name in ("old", "new"))
    for folder in (old, new):
        (folder / "recognition").mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    compact(store)
    assert not old.exists() and new.exists()


# Size


def test_row_groups_and_files_are_bounded(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "GROUP_ROWS", 100)
    monkeypatch.setattr(exported, "FILE_BYTES", 20_000)
    for number in range(40):
        store.commit("recognition", f"n{number:02}", results(number, items=30))
    compact(store)
    files = sorted((out / "recognition").iterdir())
    groups = [pq.ParquetFile(file).metadata for file in files]
    counts = [meta.row_group(index).num_rows for meta in groups for index in range(meta.num_row_groups)]
    assert len(files) > 1 and sum(counts) == 1209 and all(100 <= count < 130 for count in counts[:-1])
    with duckdb.connect() as connection:
        read = f"read_parquet('{out}/recognition/*.parquet')"
        [(number,)] = connection.execute(f"SELECT count(DISTINCT condition_id) FROM {read}").fetchall()
    assert number == 40


def test_a_group_of_long_texts_ends_sooner(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "GROUP_BYTES", 1)
    compact(store)
    [file] = (out / "recognition").iterdir()
    assert pq.ParquetFile(file).metadata.num_row_groups == 3


def test_few_tables_are_in_memory_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "READ_AT_ONCE", 2)
    for number in range(20):
        store.commit("recognition", f"n{number:02}", results(number))
    made: list[str] = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda kind, name: (made.append(name), read(kind, name))[1])
    tables = exported.read_in_order(store, "recognition", sorted(store.names("recognition")))
    next(tables)
    assert len(made) <= 2
    assert 1 + sum(1 for _ in tables) == 23


def test_files_without_rows_and_types_that_differ(store: Store, out: Path) -> None:
    store.commit("recognition", "empty", results(5, items=0))
    store.commit("recognition", "text", results(6, labels={"list": 7}))
    compact(store)
    assert sorted_rows(Store(out).scan("recognition")) == sorted_rows(store.scan("recognition"))
    assert {value for value in Store(out).scan("recognition")["list"].to_pylist() if value} == {"mine", "7"}
