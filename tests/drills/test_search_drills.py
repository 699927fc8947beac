"""Killing a search in the middle, then giving the same command again: it goes on where it stopped."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest
from drills.strikes import kill, marked, until
from support import command, sweep_script

from memexp.store import Store

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

TRIALS = 8

SEARCH = f"""
def condition(lr, batch_size):
    return [Condition(model, Study(pair.targets, exposures=n, lr=lr, batch_size=batch_size, block_size=64),
                      probes=[Recognition(pair)]) for n in (1, 2, 3)]

sweep = Sweep(
    name="small",
    searches=[Search("lr", condition, {{"lr": Uniform(1e-4, 1e-1, log=True), "batch_size": Choices([2, 4])}},
                     "SELECT avg(target_nll) FROM recognition", "min", trials={TRIALS}, stopping=ASHA(reduction=2))],
)
if __name__ == "__main__":
    raise SystemExit(sweep.main())
"""


def suggestions(store: Path) -> dict[int, tuple[str, ...]]:
    """The points of the stored suggestions, and the conditions that they stand for."""
    stored = Store(store)
    found: dict[int, tuple[str, ...]] = {}
    for name in stored.names("searches"):
        rows = stored.read("searches", name).to_pylist()
        [point] = {row["point"] for row in rows}
        found[rows[0]["suggestion"]] = (point, *sorted(row["condition_id"] for row in rows))
    return found


def results(store: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.name: path.stat().st_mtime_ns for path in store.glob("recognition/*.parquet")}


def test_kill_9_of_the_driver_in_the_middle_of_a_search(tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep", items=60)
    script.write_text(script.read_text().split("sweep = Sweep(")[0] + SEARCH)
    store = tmp_path / "store"
    mark = uuid.uuid4().hex
    process = command("run", script, "--store", store, "--address", "local", MEMEXP_DRILL=mark)
    try:
        until(lambda: (len(suggestions(store)) >= 4 and len(results(store)) >= 6) or process.poll() is not None)
        process.kill()
        process.communicate()
        until(lambda: not marked(mark, "ray::"))  # its local cluster goes down with it
    finally:
        kill(mark)
    kept, written = suggestions(store), results(store)
    assert 4 <= len(kept) <= TRIALS and len(written) < 3 * TRIALS
    trained = Counter(
        row["stage_id"] for row in stages(store) if row["kind"] == "study" and row["status"] == "complete"
    )

    again = command("run", script, "--store", store, "--address", "local")
    page, _ = again.communicate(timeout=300)
    assert again.returncode == 0, page
    found = suggestions(store)
    assert sorted(found) == list(range(TRIALS))
    assert {index: found[index] for index in kept} == kept
    assert results(store).items() >= written.items()  # nothing was measured again
    assert f"{TRIALS} of {TRIALS} suggestions of search lr complete" in page
    assert len({point for point, *_ in found.values()}) == TRIALS
    ends = {(row["stage_id"], row["status"]) for row in stages(store)}
    for row in Store(store).scan("searches").to_pylist():  # type: ignore[union-attr]
        assert {(row["stage_id"], "complete"), (row["stage_id"], "stopped")} & ends
    whole = {path.name.split("-")[0] for path in store.glob("recognition/*.parquet")}
    times = Counter(row["stage_id"] for row in stages(store) if row["kind"] == "study" and row["status"] == "complete")
    last = {rows[-1] for rows in ladders(store).values() if rows[-1] in whole and trained[rows[-1]]}
    assert last and all(times[stage] == 1 for stage in last)  # no suggestion that was through was trained twice
    assert not Store(store).verify().problems

    idle = command("run", script, "--store", store, "--address", "local")
    page, _ = idle.communicate(timeout=120)
    assert idle.returncode == 0 and "trying" not in page


def test_a_trial_of_two_workers_is_stopped_and_the_next_one_starts(tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    search = SEARCH.replace(f"trials={TRIALS}", "trials=3").replace('"min"', '"max"')  # what teaches is the worse
    search = search.replace("    searches=", "    resources=Resources(workers=2),\n    searches=")
    script.write_text(script.read_text().split("sweep = Sweep(")[0] + search)
    process = command("run", script, "--store", tmp_path / "store", "--address", "local")
    page, _ = process.communicate(timeout=550)
    assert process.returncode == 0, page
    assert "3 of 3 suggestions of search lr complete" in page
    assert "stopped" in {row["status"] for row in stages(tmp_path / "store")}
    recognition = Store(tmp_path / "store").scan("recognition")
    assert recognition is not None and set(recognition.column("workers").to_pylist()) == {2}


SLOW = """
import time
from typing import ClassVar
import pyarrow as pa
from memexp.spec import spec

def let_go_slowly():
    time.sleep(4)

@spec
class Large(Probe):
    kind: ClassVar[str] = "large"
    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])
    def measure(self, session, texts):
        import memexp.cluster.experiment
        memexp.cluster.experiment._give_back = let_go_slowly
        return pa.table({"item": [1]})
"""
"""A probe that makes its process take longer to let go of a trial than the two seconds that Tune allows by itself."""


def test_a_process_that_lets_go_of_a_stopped_trial_slowly_gets_the_next_one(tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    search = SLOW + SEARCH.replace("Recognition(pair)]", "Recognition(pair), Large()]").replace('"min"', '"max"')
    search = search.replace("    searches=", "    resources=Resources(cpus=2),\n    searches=")  # one at a time
    script.write_text(script.read_text().split("sweep = Sweep(")[0] + search)
    process = command("run", script, "--store", tmp_path / "store", "--address", "local")
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and f"{TRIALS} of {TRIALS} suggestions of search lr complete" in page, page
    assert "died" not in page and "stopped" in {row["status"] for row in stages(tmp_path / "store")}


def stages(store: Path) -> list[dict[str, object]]:
    table = Store(store).scan("stages")
    return table.to_pylist() if table is not None else []


def ladders(store: Path) -> dict[int, list[str]]:
    """The stages of each suggestion, ascending."""
    table = Store(store).scan("searches")
    assert table is not None
    found: dict[int, list[str]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: (row["suggestion"], row["stop"])):
        found.setdefault(row["suggestion"], []).append(row["stage_id"])
    return found
