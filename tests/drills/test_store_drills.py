"""The store under fire: writers killed with -9 while others read, disks that are full or read-only.

Nothing but the final files may ever be seen, whole; what was acknowledged stays. Each drill has a negative control or a
counterpart that shows it can fail. Full and read-only disks need a mount namespace (`unshare -m`, as root).
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import polars
import pyarrow.dataset as ds
import pytest
from made_results import Made, identity
from support import command, ended

from memexp.store import Store

pytestmark = pytest.mark.drill

ROWS = 2000

WRITER = f"""
import os, sys, time
import pyarrow as pa
from memexp.store import Store
location, me, how = sys.argv[1:]
store = Store(location)
def in_place(self, key, data):  # the negative control: open, write, close
    with open(self.root / key, "wb") as file:
        for start in range(0, len(data), len(data) // 4):
            file.write(data[start:start + len(data) // 4])
            file.flush()
            time.sleep(0.001)
    return True
if how == "in place":
    os.makedirs(location + "/recall", exist_ok=True)
    type(store._medium).create = in_place
for number in range(100_000):
    name = f"{{me}}-{{number}}"
    noise = pa.array([hash((name, row)) for row in range({ROWS})], pa.int64())
    if store.commit("recall", name, pa.table({{"name": [name] * {ROWS}, "noise": noise}})):
        print(name, flush=True)  # acknowledged
"""

READER = f"""
import json, os, sys
import duckdb, pandas, polars, pyarrow.parquet as pq
glob, stop = sys.argv[1:]
folder = os.path.dirname(glob)
def with_pyarrow():
    files = [name for name in os.listdir(folder) if name.endswith(".parquet")]
    return sum(pq.read_table(os.path.join(folder, name)).num_rows for name in files[-20:])
def with_pandas():
    files = [name for name in os.listdir(folder) if name.endswith(".parquet")]
    return sum(len(pandas.read_parquet(os.path.join(folder, name))) for name in files[-20:])
connection = duckdb.connect()
engines = {{
    "duckdb": lambda: connection.execute(f"SELECT count(noise) FROM read_parquet('{{glob}}')").fetchone()[0],
    "polars": lambda: polars.scan_parquet(glob).select(polars.col("noise").count()).collect().item(),
    "pyarrow": with_pyarrow,
    "pandas": with_pandas,
    "polars, folder": lambda: len(polars.read_parquet(folder)),
}}
report = {{engine: {{"reads": 0, "errors": []}} for engine in engines}}
print("ready", flush=True)
while not os.path.exists(stop):
    if not os.path.isdir(folder) or not any(name.endswith(".parquet") for name in os.listdir(folder)):
        continue
    for engine, read in engines.items():
        try:
            rows = read()
            assert rows and rows % {ROWS} == 0, f"{{rows}} rows are not whole files"
        except BaseException as error:  # polars panics, which is no Exception
            report[engine]["errors"].append(repr(error)[:200])
        report[engine]["reads"] += 1
print(json.dumps(report))
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def slaughter(folder: Path, how: str, rounds: int) -> tuple[Store, set[str], dict[str, dict[str, object]]]:
    """Pairs of writers killed at random moments: the acknowledged names, and what readers saw throughout."""
    store = Store(folder / "results")
    reader = python(READER, store.path("recall"), folder / "stop")
    assert reader.stdout and reader.stdout.readline() == "ready\n"
    acknowledged: set[str] = set()
    moments = random.Random(0)
    for turn in range(rounds):
        writers = [python(WRITER, store.location, f"w{turn}{side}", how) for side in "ab"]
        for writer in writers:
            assert writer.stdout
            acknowledged.add(writer.stdout.readline().strip())  # it is in the middle of things
        time.sleep(moments.uniform(0.02, 0.15))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            printed = writer.communicate(timeout=20)[0]
            assert writer.returncode == -signal.SIGKILL
            acknowledged.update(printed.split())
    (folder / "stop").touch()
    report = json.loads(reader.communicate(timeout=30)[0])
    assert all(seen["reads"] for seen in report.values())
    return store, acknowledged, report


def test_killed_writers_leave_whole_files_and_lose_nothing_acknowledged(tmp_path: Path) -> None:
    store, acknowledged, report = slaughter(tmp_path, "store", rounds=4)
    assert {engine: seen["errors"] for engine, seen in report.items()} == {engine: [] for engine in report}
    names = store.names("recall")
    assert acknowledged <= names and len(acknowledged) >= 8
    store.check_whole("recall", names)
    found = store.verify()
    assert (found.files, found.rows, found.problems) == (len(names), len(names) * ROWS, ())


def test_the_drill_catches_a_store_that_writes_in_place(tmp_path: Path) -> None:
    store, _, report = slaughter(tmp_path, "in place", rounds=2)
    assert any(seen["errors"] for seen in report.values())
    assert store.verify().problems


# Killed between any two steps of a commit

STEPS = ("written", "synced", "linked", "unlinked", "folder synced")
STOPPED = """
import os, signal, sys
import pyarrow as pa
from memexp.store import Store
root = sys.argv[1]
for step in sys.argv[2:]:
    if os.fork() == 0:
        store = Store(f"{root}/{step}")
        store.commit("recall", "before", pa.table({"item": [0]}))
        syncs = []
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        def after(function, condition=lambda: True):
            def dying(*arguments, **options):
                function(*arguments, **options)
                if condition():
                    die()
            return dying
        if step == "written":
            os.fsync = lambda descriptor: die()
        elif step == "synced":
            os.link = lambda source, target: die()
        elif step == "linked":
            os.link = after(os.link)
        elif step == "unlinked":
            os.unlink = after(os.unlink)
        else:
            os.fsync = after(os.fsync, lambda: syncs.append(0) or len(syncs) == 2)
        store.commit("recall", "one", pa.table({"item": [1]}))
        os._exit(0)
    assert os.wait()[1] == signal.SIGKILL, step
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for each step, whose writer was killed after it."""
    folder = tmp_path_factory.mktemp("stopped")
    subprocess.run([sys.executable, "-c", STOPPED, str(folder), *STEPS], check=True, timeout=60)
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_a_commit_stopped_anywhere_is_whole_or_absent(stopped: Path, step: str) -> None:
    store = Store(stopped / step)
    left_over = list(Path(store.location, ".tmp").iterdir())
    there = step in ("linked", "unlinked", "folder synced")
    assert len(left_over) == (step in ("written", "synced", "linked"))
    items = [0, 1] if there else [0]
    assert store.names("recall") == ({"before", "one"} if there else {"before"}) and store.verify().problems == ()
    assert store.scan("recall")["item"].to_pylist() == items
    glob = store.path("recall")
    assert duckdb.connect().execute(f"SELECT item FROM '{glob}' ORDER BY 1").fetchall() == [(item,) for item in items]
    assert polars.read_parquet(glob)["item"].sort().to_list() == items
    assert polars.read_parquet(Path(glob).parent)["item"].sort().to_list() == items
    assert ds.dataset(Path(glob).parent).count_rows() == len(items)
    again = store.scan("recall").slice(0, 1)
    assert store.commit("recall", "one", again) is not there
    assert store.names("recall") == {"before", "one"} and store.verify().problems == ()


# Full and read-only

MOUNTED = """
import errno, json, os, subprocess, sys
from pathlib import Path
import pyarrow as pa
from memexp.errors import StoreError
from memexp.store import Store

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def said(attempt):
    try:
        return repr(attempt())
    except StoreError as error:
        return str(error)

def table(size):
    return pa.table({"noise": pa.array([os.urandom(size)])})

root = sys.argv[1]
mount("--make-rprivate", "/")
mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", root)
store, out = Store(root + "/results"), {}
store.check_writable()
written = 0
while (answer := said(lambda: store.commit("recall", f"n{written}", table(50_000)))) == "True":
    written += 1
out["full"] = answer
out["probe"] = said(store.check_writable)
out["side"] = said(lambda: store.put_text(".running/a.json", "x" * 80_000))
out["written"] = written
out["names"] = sorted(store.names("recall"))
out["files"] = sorted(path.name for path in Path(root).rglob("*") if path.is_file())
out["problems"] = len(store.verify().problems)
os.unlink(store.path("recall", "n0"))
out["after making room"] = said(lambda: store.commit("recall", f"n{written}", table(50_000)))

os.unlink(store.path("recall", "n1"))
mount("--bind", root, root)
mount("-o", "remount,bind,ro", root)
out["read-only"] = said(lambda: store.commit("recall", "n1", table(10)))
out["read-only probe"] = said(store.check_writable)
out["read-only new kind"] = said(lambda: store.commit("choice", "n1", table(10)))
out["read-only rows"] = store.scan("recall").num_rows
print(json.dumps(out))
"""


def test_full_and_read_only_disks(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("unshare -m is not permitted here, so no disk can be made full or read-only")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", MOUNTED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    results = f"{tmp_path}/results"
    written = out["written"]
    assert 3 <= written <= 8
    assert out["full"] == f"cannot write {results}/recall/n{written}.parquet: no space left"
    assert out["probe"] == f"cannot write to store {results}: no space left"
    assert out["side"] == f"cannot write {results}/.running/a.json: no space left"
    assert out["names"] == sorted(f"n{number}" for number in range(written))
    assert out["files"] == [f"{name}.parquet" for name in out["names"]] and out["problems"] == 0
    assert out["after making room"] == "True"
    assert out["read-only"] == f"cannot write {results}/recall/n1.parquet: the file system is read-only"
    assert out["read-only probe"] == f"cannot write to store {results}: the file system is read-only"
    assert out["read-only new kind"] == f"cannot write {results}/choice/n1.parquet: the file system is read-only"
    assert out["read-only rows"] == written - 1
    assert list(tmp_path.iterdir()) == []  # the mounts were private


def test_a_prune_that_is_killed_leaves_a_store_that_reads_and_goes_on(tmp_path: Path) -> None:
    """Of 540 results one sweep has 40; the others go, a hundred at a time."""
    made = Made(Store(tmp_path / "results"), items=1)
    for at in range(40):
        made.result("recognition", made.recognition(1.0, at), {}, model="tiny-s", exposures=1, seed=at, lr=0.1)
    kept = {row["name"] for row in made.rows}
    made.sweep("kept")
    first = made.store.read("recognition", min(kept))
    for at in range(500):  # of no sweep
        stage, condition = identity("stage", at), identity("condition", at)
        made.store.commit("recognition", f"{stage}-{identity('probe')}-{condition}", first)
    prune = command("prune", "--remove", "--store", made.store.location)
    while prune.poll() is None and len(made.store.names("recognition")) == 540:
        time.sleep(0.002)
    prune.kill()
    prune.wait()
    left = made.store.names("recognition")
    assert kept < left and len(left) < 540, "killed before its end, after its beginning"
    assert not Store(made.store.location).verify().problems
    assert "kept" in ended(command("status", "--store", made.store.location), 0)
    page = ended(command("prune", "--remove", "--store", made.store.location), 0)
    files = int(page.splitlines()[-1].split()[0])
    assert files - (len(left) - 40) in (0, 1), "results, and the sign of life of what was killed"
    assert made.store.names("recognition") == kept
