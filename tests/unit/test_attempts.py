"""The log of attempts: what names an attempt are columns, and files of memexp 0.1 are read as if they had them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from memexp.plan import Stage
from memexp.plan.attempts import Attempt, Log, failures, row, sentence, skipped, write
from memexp.records import STAGES, YOUNGER
from memexp.store import Store

BY = Attempt("sweep", "0123456789ab", commit="abc")
SINCE = ("attempt", "part", "phase", "trial", "start", "rank", "search_id", "suggestion", *YOUNGER)
"""Columns that files of memexp 0.1 do not have."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def stage(name: str, parent: str | None = None) -> Stage:
    return cast(Stage, SimpleNamespace(id=name, parent=parent, kind="study", model=SimpleNamespace(name="tiny")))


def old(store: Store, name: str, *rows: dict[str, Any]) -> None:
    """A file as memexp 0.1 wrote it."""
    schema = pa.schema([field for field in STAGES if field.name not in SINCE])
    full = [{"stage_id": "s", "status": "failed", "error": "why", "finished": datetime.now(UTC)} | row for row in rows]
    store.commit("stages", name, pa.Table.from_pylist(full, schema=schema))


def test_an_attempt_holds_those_within_it(store: Store) -> None:
    trial = BY.of_trial(0, 3)
    for by in (trial.begun(), BY.of_trial(0, 33).begun(), BY.of_trial(1, 3).begun()):
        write(store, by, [row(stage(f"of-{by.phase}-{by.trial}"), by, "failed", error="x")])
    stages = [stage(name) for name in ("of-0-3", "of-0-33", "of-1-3")]
    assert [where for where, _ in failures(store, trial, stages)] == ["of-0-3"]
    assert len(failures(store, BY, stages)) == 3
    assert failures(store, Attempt("sweep", "another"), stages) == {}
    assert failures(store, BY, stages[:1]).keys() == {("of-0-3", None)}


def test_every_process_has_a_start_of_its_own_and_every_file_a_name(store: Store) -> None:
    one, other = BY.begun(), BY.begun()
    assert one.start != other.start and one.name != other.name
    for by in (one, one, other):
        write(store, by, [row(stage("s"), by, "complete")])
    assert len(store.names("stages")) == 3
    found = Log.read(store).rows(start=one.start)
    assert len(found) == 2 and {(r["attempt"], r["part"], r["commit"]) for r in found} == {(BY.id, "conditions", "abc")}


def test_nothing_to_say_writes_no_file(store: Store) -> None:
    write(store, BY, [])
    assert store.names("stages") == set() and Log.read(store).rows() == [] and Log.read(store).diverged == set()


def test_what_was_completed_elsewhere_did_not_fail(store: Store) -> None:
    write(store, BY, [row(stage("s"), BY, "failed", error="lost"), row(stage("s"), BY, "complete")])
    assert failures(store, BY, [stage("s")]) == {}
    write(store, BY, [row(stage("s"), BY, "failed", error="probe\nbroke", probe_id="p")])
    assert failures(store, BY, [stage("s")]) == {("s", "p"): "tiny, study s failed: probe"}


def test_diverged_and_stopped_are_outcomes_by_column(store: Store) -> None:
    write(store, BY, [row(stage(name), BY, "diverged", error="loss is nan") for name in ("a", "b")])
    write(store, BY, [row(stage("a"), BY, "complete")])
    write(store, BY, [row(stage("c"), BY, "stopped", error="by a rule", search_id="one", suggestion=7)])
    write(store, BY, [row(stage("c"), BY, "stopped", error="by a rule", search_id="other", suggestion=8)])
    log = Log.read(store)
    assert log.diverged == {"b"} and log.stopped("one") == {7} and log.stopped("none") == set()


def test_a_skipped_stage_ended_as_the_one_before_it(store: Store) -> None:
    write(store, BY, [row(stage("a"), BY, "failed", error="no memory"), skipped(stage("b", "a"), BY)])
    end = Log.read(store).end("b")
    assert end is not None and sentence(end) == "tiny, study a failed: no memory"
    assert Log.read(store).end("never tried") is None


def test_the_latest_row_is_the_state_of_a_stage(store: Store) -> None:
    now = datetime.now(UTC)
    for second, status in ((2, "complete"), (1, "failed"), (3, "differs"), (4, "unsaved"), (5, "unread")):
        write(store, BY, [row(stage("s"), BY, cast(Any, status)) | {"finished": now + timedelta(seconds=second)}])
    assert Log.read(store).last["s", None]["status"] == "complete"


def test_files_of_the_first_version_are_read_as_if_they_had_the_columns(store: Store) -> None:
    old(store, "fedcba9876543210-0123456789abt0n3x00c0ffee", {"status": "diverged"})
    why = "search lr stopped suggestion 12 at exposures 2"
    old(
        store,
        "fedcba9876543210-0123456789absstopped-5ea4c4-00012",
        {"status": "stopped", "error": why, "stage_id": "t"},
    )
    write(store, BY, [row(stage("u"), BY, "stopped", error=why, search_id="5ea4c4", suggestion=13)])
    log = Log.read(store)
    assert log.table.schema.equals(STAGES)
    assert log.diverged == {"s"} and log.stopped("5ea4c4") == {12, 13}
    assert {one["attempt"] for one in log.rows()} == {BY.id}
    assert [one["trial"] for one in log.rows(status="diverged")] == [None]


def test_what_a_search_stopped_is_found_without_reading_all_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search of a sweep asks, and `stages/` may hold thousands of files."""
    for number in range(3):
        write(store, BY, [row(stage(f"s{number}"), BY, "complete")])
        write(store, BY, [row(stage("s"), BY, "stopped", search_id=f"search{number}", suggestion=number)])
    old(store, "fedcba9876543210-0123456789absstopped-search1-00012", {"status": "stopped", "stage_id": "t"})
    read: list[str] = []
    plain = Store.read
    monkeypatch.setattr(Store, "read", lambda self, kind, name: (read.append(name), plain(self, kind, name))[1])
    assert Log.of_search(store, "search1").stopped("search1") == {1, 12}
    assert len(read) == 2
    assert Log.read(store).stopped("search1") == {1, 12} and len(read) == 2 + 7


def test_a_foreign_name_is_no_reason_to_fail(store: Store) -> None:
    old(store, "anything", {"status": "diverged"})
    assert Log.read(store).diverged == {"s"}
