"""The command: what plan, status, query and verify print, and the line they print instead where something is wrong."""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memexp import Condition, Model, Pair, Recognition, Study, Sweep
from memexp.cli import main
from memexp.plan import Ask
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import MADE_WITH, SEARCHES, SETTINGS, STAGES, SWEEPS, rows_for
from memexp.store import Store
from memexp.store.manifests import Manifest, write_manifest

Command = Callable[..., tuple[int, str, str]]

SCRIPT = """
import sys
from memexp import Condition, Model, Pair, Recognition, Study, Sweep

pair = Pair({targets!r}, {foils!r})
most = int(sys.argv[1]) if len(sys.argv) > 1 else 2
sweep = Sweep(
    name="small",
    conditions=[
        Condition(Model({model!r}), Study(pair.targets, exposures=n, lr=lr, batch_size=4), probes=[Recognition(pair)])
        for n in range(most + 1) for lr in (1e-3, 1e-2)
    ],
)
if __name__ == "__main__":
    raise RuntimeError("only `python {{sweep}}` gets here")
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own, and nothing of what a script does to the interpreter afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(("memexp_sweep_", "helper")):
            del sys.modules[name]


@pytest.fixture
def memexp(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process: exit status, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model that tells its size in a header, as planning needs it: 1000 parameters."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    header = json.dumps({"a": {"dtype": "F32", "shape": [10, 100], "data_offsets": [0, 4000]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4000))
    return str(folder)


@pytest.fixture
def script(model: str, pair: Pair) -> str:
    text = SCRIPT.format(targets=pair.targets.path, foils=pair.foils.path, model=model)
    Path("small.py").write_text(text)
    return "small.py"


def results(labels: dict[str, Any] | None = None, **settings: Any) -> pa.Table:
    items = {
        "item": [0, 1],
        "target": ["a", "b"],
        "foil": ["c", "d"],
        "target_nll": [1.0, 2.0],
        "foil_nll": [2.0, 1.5],
        "target_tokens": [3, 3],
        "foil_tokens": [3, 3],
    }
    return rows_for(pa.table(items, schema=RECOGNITION), {"model": "small"} | settings, labels or {}, {})


# plan


def test_plan_is_a_table(memexp: Command, script: str) -> None:
    status, out, err = memexp("plan", script)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["conditions", "6", "0", "of", "them", "in", "the", "store"] in rows
    assert any(row[:3] == ["optimizer", "steps", "12"] and row[3] == "18" for row in rows)
    assert any(row[:2] == ["model", "(full)"] for row in rows)
    assert not Path("results").exists()


def test_plan_as_json_counts(memexp: Command, script: str, model: str, pair: Pair) -> None:
    def plan() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(memexp("plan", "--json", script)[1])
        return found

    first = plan()
    numbers = {
        name: value for name, value in first.items() if name not in ("models", "remarks", "searches", "here", "way")
    }
    assert all(type(value) is int for value in numbers.values())
    assert numbers == {
        "conditions": 6,
        "stages": 5,
        "steps": 12,
        "steps_unshared": 18,
        "stored": 0,
        "trials": 2,
        "steps_missing": 12,
        "copies": 0,
        "diverged": 0,
    }
    [size] = first["models"]
    assert size["peak_bytes_per_host"] == size["peak_bytes_per_worker"] > 16_000 and size["device_hours"] > 0
    assert (size["parameters"], size["bytes_per_worker"], size["workers"]) == (1000, 16_000, 1)
    for ask in asks(model, pair)[:3]:  # both without exposures, and one exposure at one learning rate
        Store("results").commit(ask.kind, ask.name, results())
    second = plan()
    names = ("device_hours", "device_hours_range", "device_hours_unshared", "device_hours_unshared_range")
    hours = dict.fromkeys(names, 0)  # measured less
    first["models"], second["models"] = ([one | hours for one in made["models"]] for made in (first, second))
    (again,) = second["remarks"]
    assert again.startswith("3 of the steps to do were made before: ") and "Snapshots(keep=True)" in again
    assert first | {"stored": 3, "steps_missing": 12, "remarks": second["remarks"]} == second  # two pass through one


def test_a_plan_tells_what_to_buy(memexp: Command, script: str) -> None:
    plain = " ".join(memexp("plan", script)[1].split())
    assert "GB on one worker at the peak" in plain and "price" not in plain and "has room" not in plain
    asked = " ".join(memexp("plan", script, "--memory", "80", "--price", "2.5", "--device", "h100")[1].split())
    assert "1 worker has room in it" in asked and "of one h100" in asked and "; price 0.00, 0.00 to 0.00" in asked
    assert "no number of workers has room in that memory" in " ".join(
        memexp("plan", script, "--memory", ".1")[1].split()
    )
    [model] = json.loads(memexp("plan", script, "--json", "--memory", "80", "--price", "1e9")[1])["models"]
    assert model["workers_that_fit"] == 1 and model["price"] == pytest.approx(1e9 * model["device_hours"])
    assert model["price_unshared"] == pytest.approx(1e9 * model["device_hours_unshared"])
    assert model["price_unshared"] > model["price"]


def test_a_plan_of_lanes_says_how_many_workers_would_do_without_them(memexp: Command, script: str) -> None:
    text = Path(script).read_text().replace("import Condition", "import Resources, Condition")
    Path(script).write_text(text.replace('name="small",', 'name="small", resources=Resources(lanes=8),'))
    status, out, err = memexp("plan", script, "--json", "--memory", ".7")
    assert (status, err) == (0, "")
    [model] = json.loads(out)["models"]
    assert model["peak_parts"]["lanes"] == 8 * 4_000 and model["workers_that_fit"] is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--memory", "0"), "--memory must be a number above 0, got 0"),
        (("--price", "nan"), "--price must be a number above 0, got nan"),
        (("--device", "h1000"), "--device: 'h1000' is not known; known are a100, h100,"),
    ],
)
def test_nonsense_about_a_purchase_is_one_line(memexp: Command, script: str, asked: tuple[str, str], said: str) -> None:
    status, page, line = memexp("plan", script, *asked)
    assert (status, page) == (2, "") and line.startswith(f"memexp: {said}") and len(line.splitlines()) == 1


def asks(model: str, pair: Pair) -> list[Ask]:
    """The same as in SCRIPT."""
    conditions = [
        Condition(Model(model), Study(pair.targets, exposures=n, lr=lr, batch_size=4), probes=[Recognition(pair)])
        for n in range(3)
        for lr in (1e-3, 1e-2)
    ]
    return Sweep(name="small", conditions=conditions).grow().asks


def test_arguments_after_the_dashes_are_the_scripts(memexp: Command, script: str) -> None:
    assert json.loads(memexp("plan", "--json", script, "--", "0")[1])["conditions"] == 2
    assert json.loads(memexp("plan", script, "--json", "--", "3", "--stores", "x")[1])["conditions"] == 8


@pytest.mark.parametrize("argument", ["--store", "--store=x", "--address", "--retry-diverged", "--debug"])
def test_memexps_own_options_after_the_dashes_are_not_passed_over(memexp: Command, script: str, argument: str) -> None:
    status, _, said = memexp("run", script, "--", "3", argument)
    assert status == 2 and said == f"memexp: {argument} is an option of memexp's own: give it before {script}\n"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_arguments_that_a_script_never_looks_at_are_refused(memexp: Command, script: str, command: str) -> None:
    deaf = Path("deaf.py")
    looks = "int(sys.argv[1]) if len(sys.argv) > 1 else 2"
    deaf.write_text(Path(script).read_text().replace(looks, "len(sys.argv[0]) - 6"))
    status, page, said = memexp(command, str(deaf), "--", "--lr", "3")
    assert (status, page) == (2, "")
    assert said == "memexp: deaf.py: takes no arguments (it never looks at sys.argv), got --lr 3\n"
    assert memexp("plan", str(deaf))[0] == 0


def test_the_store_is_an_option_or_a_variable(memexp: Command, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("broken").write_text("a file")
    for arguments in ((), ("--store", "results")):
        assert memexp("plan", script, *arguments)[0] == 0
    monkeypatch.setenv("MEMEXP_STORE", "ftp://elsewhere")
    assert "ftp://elsewhere" in memexp("plan", script)[2]
    assert memexp("plan", script, "--store", "results")[0] == 0


BAD_SCRIPTS = [
    ("x = 1\nraise ValueError('two\\nlines')\n", "bad.py, line 2: ValueError: two lines"),
    ("x = (\n", "line 1: '(' was never closed"),
    ("import os\n\nimport nosuchmodule\n", "bad.py, line 3: ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("import helper\n\nhelper.fail()\n", "bad.py, line 3: KeyError: 'a'"),
    ("import helper_broken\n", "helper_broken.py, line 2: "),
    ("from memexp import *\nStudy('a.txt', exposures=1, lr=-1)\n", "bad.py, line 2: Study.lr: Input should be greater"),
    ("from memexp import *\nStudy('a.txt', exposure=1, lr=1)\n", "line 2: Study has no field 'exposure'; did you mean"),
    ("x = 1\n", "bad.py: has no module attribute `sweep` that is a memexp.Sweep"),
    ("sweep = 3\n", "bad.py: has no module attribute `sweep` that is a memexp.Sweep"),
]


@pytest.mark.parametrize(("source", "expected"), BAD_SCRIPTS)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_what_is_wrong_with_a_script_is_one_line(memexp: Command, verb: str, source: str, expected: str) -> None:
    Path("helper.py").write_text("def fail():\n    raise KeyError('a')\n")
    Path("helper_broken.py").write_text("x = 1\ny = = 2\n")
    Path("bad.py").write_text(source)
    for path in ("bad.py", str(Path("bad.py").absolute())):
        status, out, err = memexp(verb, path)
        assert (status, out) == (2, "")
        assert err.startswith("memexp: ") and err.count("\n") == 1 and expected in err, err


@pytest.mark.parametrize(
    ("path", "expected"), [("no.py", "no.py: no such sweep script"), ("a.txt", "not a Python file")]
)
def test_what_is_no_script_is_said(memexp: Command, path: str, expected: str) -> None:
    Path("a.txt").write_text("sweep = 1\n")
    status, _, err = memexp("plan", path)
    assert status == 2 and expected in err and err.count("\n") == 1


def test_debug_shows_the_traceback(memexp: Command) -> None:
    Path("bad.py").write_text("1 / 0\n")
    with pytest.raises(Exception, match=r"bad\.py, line 1: ZeroDivisionError"):
        memexp("plan", "bad.py", "--debug")


def test_bad_data_is_one_line(memexp: Command, script: str) -> None:
    Path("small.py").write_text(Path("small.py").read_text().replace("targets.jsonl", "nowhere.jsonl"))
    for verb in ("plan", "run"):
        status, _, err = memexp(verb, script)
        assert status == 2 and err.count("\n") == 1
        assert err.startswith("memexp: ") and err.endswith("nowhere.jsonl: no such file\n")


def test_a_truncated_result_is_one_line(memexp: Command, script: str, model: str, pair: Pair) -> None:
    store, ask = Store("results"), asks(model, pair)[4]
    store.commit(ask.kind, ask.name, results())
    file = Path(store.path(ask.kind, ask.name))
    file.write_bytes(file.read_bytes()[:100])
    for verb in ("plan", "run"):
        status, _, err = memexp(verb, script)
        assert status == 2 and err.count("\n") == 1 and str(file) in err


@pytest.mark.parametrize("arguments", [(), ("plan",), ("paln", "a.py"), ("query", "a", "b"), ("plan", "a.py", "--jsn")])
def test_a_wrong_command_line_exits_with_2(memexp: Command, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        memexp(*arguments)
    assert end.value.code == 2


def test_help_takes_less_than_a_second() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        program = "import sys; from memexp.cli import main; sys.exit(main())"
        done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        assert all(verb in done.stdout for verb in ("plan", "run", "status", "query", "verify"))
    assert statistics.median(seconds) < 1.0


# status

NOW = datetime.now(UTC)
LONG = "the loss is nan at step 3" + 20 * " and so on"


def wanted(store: Store, sweep: str, stages: str, started: datetime = NOW) -> None:
    """A sweep with a condition for each letter of `stages`, which names the stage it ends at."""
    rows = [
        {
            "sweep": sweep,
            "kind": "recognition",
            "name": f"{stage}-probe-{sweep}",
            "condition_id": f"{sweep}-{stage}",
            "stage_id": stage,
            "probe_id": "probe",
            "started": started,
        }
        for stage in stages
    ]
    store.commit("sweeps", f"{sweep}-{stages}", pa.Table.from_pylist(rows, schema=SWEEPS))


def attempt(store: Store, name: str, *rows: tuple[str | None, ...]) -> None:
    """Rows of (stage, parent, status, error) or (..., probe), each a second after the one before."""
    kept = [
        {
            "stage_id": stage,
            "parent_id": parent,
            "status": status,
            "error": error,
            "probe_id": probe[0] if probe else None,
            "finished": NOW + timedelta(seconds=second),
        }
        for second, (stage, parent, status, error, *probe) in enumerate(rows)
    ]
    store.commit("stages", name, pa.Table.from_pylist(kept, schema=STAGES))


def beat(store: Store, sweep: str, age: float, **other: Any) -> None:
    sign = {"sweep": sweep, "host": socket.gethostname(), "pid": os.getpid(), "results": 3, "time": time.time() - age}
    store.put_text(f".running/{sweep}-{age}.json", json.dumps(sign | other))


def test_status_of_a_complete_sweep(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "done", "ab")
    for stage in "ab":
        store.commit("recognition", f"{stage}-probe-done", results())
    assert memexp("status") == (0, "done: 2 of 2 conditions complete\n", "")


def test_status_says_what_failed_and_why(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "part", "abcdefg")
    store.commit("recognition", "a-probe-part", results())
    attempt(
        store,
        "first",
        ("a", None, "complete", None),
        ("b", "a", "failed", "RuntimeError: out of [memory]\nand more"),
        ("c", "b", "skipped", "stage b failed"),
        ("d", "c", "skipped", "stage b failed"),
        ("e", "a", "diverged", LONG),
        ("f", "a", "failed", None),
        ("a", None, "differs", "recognition/a was first"),
    )
    status, out, _ = memexp("status")
    assert status == 1
    first, most, *others = out.splitlines()
    assert (first, most) == ("part: 1 of 7 conditions complete", "  3 failed: RuntimeError: out of [memory]")
    assert sorted(others) == [f"  1 diverged: {LONG}", "  1 failed: for no stated reason"]


def test_status_forgets_what_has_been_mended(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "part", "a")
    attempt(store, "one", ("a", None, "failed", "no space left"), ("a", None, "complete", None))
    assert memexp("status")[1] == "part: 0 of 1 condition complete\n"  # its file was deleted since


def test_status_says_why_a_measurement_failed_also_when_its_stage_was_reached_again(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "part", "a")
    failed = ("a", None, "failed", "recognition: no progress", "probe")
    mended = ("a", None, "failed", "recall: no progress", "other probe")
    attempt(store, "one", failed, mended, ("a", None, "complete", None), ("a", None, "unsaved", "no space left"))
    attempt(store, "two", ("a", None, "unread", "snapshot x is passed over: its sum is wrong"))
    assert memexp("status")[1] == "part: 0 of 1 condition complete\n  1 failed: recognition: no progress\n"


def test_status_is_not_misled_by_a_clock_that_was_set_back(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "edited", "ab", started=NOW + timedelta(days=1))
    write_manifest(store, "edited", [Manifest("recognition", "c-probe-edited", "c", "c", "probe")])
    assert memexp("status")[1] == "edited: 0 of 1 condition complete\n"


def test_status_asks_for_what_the_sweep_was_last_started_with(memexp: Command) -> None:
    store = Store("results")
    wanted(store, "edited", "ab", started=NOW - timedelta(hours=1))
    wanted(store, "edited", "c")
    store.commit("recognition", "c-probe-edited", results())
    assert memexp("status") == (0, "edited: 1 of 1 condition complete\n", "")


def test_status_shows_what_is_being_executed(memexp: Command) -> None:
    store = Store("results")
    for sweep in ("away", "killed", "live", "silent"):
        wanted(store, sweep, "a")
    beat(store, "live", age=5)
    beat(store, "away", age=5, host="elsewhere", pid=2**22 + 1)  # beyond what Linux gives out
    beat(store, "killed", age=5, pid=2**22 + 1)
    beat(store, "silent", age=3600)
    status, out, _ = memexp("status")
    assert status == 1
    assert out.splitlines() == [
        "away: 0 of 1 condition complete, running (pid 4194305 on elsewhere)",
        "killed: 0 of 1 condition complete",
        f"live: 0 of 1 condition complete, running (pid {os.getpid()} on {socket.gethostname()})",
        "silent: 0 of 1 condition complete",
    ]


def test_status_of_nothing(memexp: Command) -> None:
    status, out, err = memexp("status")
    assert (status, out) == (2, "") and "there is no store at" in err and "--store" in err
    Path("results").mkdir()
    assert memexp("status")[:2] == (0, f"{Path('results').absolute()} holds no sweep\n")


# query


@pytest.fixture
def filled() -> Store:
    store = Store("results")
    store.commit("recognition", "s1-p-c1", results({"experiment": 1}, exposures=1, lr=1e-3))
    store.commit("recognition", "s2-p-c2", results(exposures=3, lr=1e-3))  # older: without the label
    return store


def test_query_prints_a_table(memexp: Command, filled: Store) -> None:
    mean = "avg((target_nll < foil_nll)::int)"
    status, out, _ = memexp("query", f"SELECT exposures, {mean} FROM recognition GROUP BY ALL ORDER BY ALL")
    assert status == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert cells == [["1", "0.5"], ["3", "0.5"]]


def test_query_prints_csv(memexp: Command, filled: Store) -> None:
    sql = "SELECT exposures, experiment, target FROM recognition WHERE item = 0 ORDER BY exposures"
    assert memexp("query", "--csv", sql)[1].splitlines() == ["exposures,experiment,target", "1,1,a", "3,,a"]
    assert memexp("query", sql, "--csv")[0] == 0


def test_a_wide_answer_is_whole_in_a_pipe(memexp: Command, filled: Store) -> None:
    _, out, _ = memexp("query", "--all-columns", "FROM recognition")
    assert all(name in out for name in ("condition_id", "interference_batch_size", "foil_tokens")) and "…" not in out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes stdout a terminal of so many columns, without colours."""

    def columns(width: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("TTY_COMPATIBLE", "0")
        monkeypatch.setenv("COLUMNS", str(width))

    return columns


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")] for line in lines if line[:1] in "┃│"]


def test_a_terminal_is_told_once_what_is_the_same_in_all_rows(
    memexp: Command, filled: Store, terminal: Callable[[int], None]
) -> None:
    terminal(80)
    lines = memexp("query", "--all-columns", "FROM recognition ORDER BY exposures, item")[1].splitlines()
    columns = len([*SETTINGS, "experiment", *MADE_WITH, *RECOGNITION])
    assert {"model = small", "lr = 0.001", "target_tokens = 3", f"rows: 4, columns: {columns}"} <= set(lines)
    (nothing,) = (line for line in lines if line.startswith("NULL: "))
    assert {"method", "interference_lr"} <= set(nothing.removeprefix("NULL: ").split(", "))
    assert cells(lines) == [
        ["exposures", "experiment", "item", "target", "foil", "target_nll", "foil_nll"],
        ["1", "1", "0", "a", "c", "1", "2"],
        ["1", "1", "1", "b", "d", "2", "1.5"],
        ["3", "", "0", "a", "c", "1", "2"],
        ["3", "", "1", "b", "d", "2", "1.5"],
    ]
    assert not any("no room" in line for line in lines)


def test_what_a_terminal_has_no_room_for_is_named(
    memexp: Command, filled: Store, terminal: Callable[[int], None]
) -> None:
    terminal(60)
    columns = ", ".join(f"item + {n} AS {name}" for n, name in enumerate("abcdefghij"))
    sql = f"SELECT {columns}, repeat(target, 50) AS long, 'x' AS same FROM recognition ORDER BY item LIMIT 3"
    lines = memexp("query", sql)[1].splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0] == "same = x" and lines[-2:] == ["rows: 3, columns: 12", "no room for long"]
    assert cells(lines)[0] == list("abcdefghij")
    terminal(30)
    lines = memexp("query", f"SELECT 'x' AS a, repeat(target, 50) || chr(10) AS b, {columns} FROM recognition")[1]
    assert "\nno room for b, " in lines and "a = x\n" in lines


def test_few_long_values_are_whole_on_a_terminal(
    memexp: Command, filled: Store, terminal: Callable[[int], None]
) -> None:
    terminal(40)
    _, out, _ = memexp("query", "SELECT item, repeat(target, 90) AS long FROM recognition WHERE exposures = 1")
    assert [out.count(letter) for letter in "ab"] == [90, 90] and "…" not in out
    assert max(map(len, out.splitlines())) <= 40


@pytest.mark.parametrize("export", [False, True])
def test_query_of_one_sweep(memexp: Command, filled: Store, export: bool) -> None:
    earlier = NOW - timedelta(hours=1)
    for sweep, stages, started in (("mine", "ab", earlier), ("mine", "bc", NOW), ("other", "bd", NOW)):
        wanted(filled, sweep, stages, started)
        for stage in stages:
            ids = {"stage_id": stage, "probe_id": "probe", "condition_id": f"{sweep}-{stage}"}
            filled.commit("recognition", f"{stage}-probe-{sweep}", results(**ids))
    attempt(filled, "one", ("a", None, "complete", None))
    for number, sweep in ((7, "mine"), (8, "other")):
        suggestion = pa.Table.from_pylist([{"sweep": sweep, "suggestion": number}], schema=SEARCHES)
        filled.commit("searches", sweep, suggestion)
    where = ["--store", "results"]
    if export:
        assert memexp("compact")[0] == 0
        where = ["--store", "results-compacted"]

    def told(sql: str, *options: str) -> list[str]:
        status, out, err = memexp("query", *where, "--csv", *options, sql)
        assert (status, err) == (0, "")
        return sorted(out.split()[1:])

    conditions = "SELECT DISTINCT condition_id FROM recognition"
    assert told(conditions, "--sweep", "mine") == ["mine-b", "mine-c"]
    assert told(conditions, "--sweep", "other") == ["other-b", "other-d"]
    assert told("SELECT condition_id FROM sweeps", "--sweep", "mine") == ["mine-b", "mine-c"]
    assert told("SELECT count(*) FROM stages", "--sweep", "mine") == ["0"]
    assert told("SELECT suggestion FROM searches", "--sweep", "mine") == ["7"]
    assert len(told(conditions)) == 6


def test_query_of_one_sweep_leaves_out_what_sweeps_share(memexp: Command, filled: Store) -> None:
    wanted(filled, "it's", "a")
    filled.commit("training", "a", pa.table({"stage_id": ["a"]}))
    assert memexp("query", "--csv", "SELECT count(*) FROM training")[1].split()[1] == "1"
    status, _, err = memexp("query", "--sweep", "it's", "FROM training")
    assert status == 2 and "(tables: sweeps, recognition)" in err
    assert memexp("query", "--sweep", "it's", "--csv", "SELECT count(*) FROM recognition")[1].split()[1] == "0"


def test_query_of_an_unknown_sweep_names_those_there_are(memexp: Command, filled: Store) -> None:
    said = memexp("query", "--sweep", "mien", "FROM recognition")[2]
    assert said == f"memexp: {filled.location} has no sweep 'mien'; it has none\n"
    wanted(filled, "mine", "a")
    assert memexp("query", "--sweep", "mien", "FROM recognition")[2].endswith("; it has mine\n")


def test_query_without_rows_says_so(memexp: Command, filled: Store) -> None:
    assert memexp("query", "SELECT * FROM recognition WHERE false") == (0, "no rows\n", "")


@pytest.mark.parametrize(
    "sql",
    [
        "COPY recognition TO 'stolen.csv'",
        "COPY (SELECT 1) TO 'results/recognition/x.parquet' (FORMAT parquet)",
        "INSERT INTO recognition SELECT * FROM recognition",
        "CREATE TABLE mine AS SELECT 1",
        "DROP VIEW recognition",
        "SELECT 1; SELECT 2",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "PRAGMA version",
        "",
    ],
)
def test_query_changes_nothing(memexp: Command, filled: Store, sql: str) -> None:
    before = sorted(Path().rglob("*"))
    status, out, err = memexp("query", sql)
    assert (status, out, err) == (2, "", "memexp: query takes one SELECT and changes nothing\n")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_csv('secret.csv')",
        "SELECT * FROM read_csv('results/../secret.csv')",
    ],
)
def test_query_reads_nothing_but_the_store(memexp: Command, filled: Store, sql: str) -> None:
    Path("secret.csv").write_text("a\n1\n")
    status, out, err = memexp("query", sql)
    assert (status, out) == (2, "") and err.count("\n") == 1


def test_query_names_the_tables_there_are(memexp: Command, filled: Store) -> None:
    _, _, err = memexp("query", "SELECT * FROM recall")
    assert "recall" in err and "(tables: recognition)" in err and err.count("\n") == 1
    Path("empty").mkdir()
    assert "(tables: none, the store is empty)" in memexp("query", "FROM recall", "--store", "empty")[2]


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT nope FROM recognition", "SELECT 1 +"])
def test_a_wrong_query_is_one_line(memexp: Command, filled: Store, sql: str) -> None:
    status, _, err = memexp("query", sql)
    assert status == 2 and err.startswith("memexp: ") and err.count("\n") == 1


def test_query_names_a_broken_file(memexp: Command, filled: Store) -> None:
    broken = Path(filled.path("recognition", "s2-p-c2"))
    broken.write_bytes(broken.read_bytes()[:100])
    status, _, err = memexp("query", "SELECT count(*) FROM recognition")
    assert status == 2 and err.count("\n") == 1 and str(broken) in err


def test_a_store_may_have_a_quote_in_its_name(memexp: Command) -> None:
    Store("it's").commit("recognition", "s-p-c", results())
    assert memexp("query", "--store", "it's", "--csv", "SELECT count(*) AS n FROM recognition")[1].split() == ["n", "2"]


# verify


def test_verify_of_a_whole_store(memexp: Command, filled: Store) -> None:
    wanted(filled, "done", "ab")
    filled.commit("mine", "s-p-c", results())  # a probe of the user's own
    lacking = "sweep done lists 2 results, of which 1 are not in the store: recognition/b-probe-done"
    filled.commit("recognition", "a-probe-done", results())
    assert memexp("verify") == (0, f"5 files, 10 rows, 0 broken\n{lacking}; running it again makes them\n", "")
    filled.commit("recognition", "b-probe-done", results())
    assert memexp("verify") == (0, "6 files, 12 rows, 0 broken\n", "")


def test_verify_names_what_is_broken(memexp: Command, filled: Store) -> None:
    broken = Path(filled.path("recognition", "s2-p-c2"))
    broken.write_bytes(broken.read_bytes()[:-30])
    table = results()
    filled.commit("recognition", "s3-p-c", table.drop_columns(["target_nll"]))
    lr = table.schema.get_field_index("lr")
    filled.commit("recognition", "s4-p-c", table.set_column(lr, "lr", pa.array(["fast"] * 2)))
    filled.commit("mine", "s-p-c", table.drop_columns(["condition_id"]))
    status, out, _ = memexp("verify")
    *lines, last = out.splitlines()
    assert (status, last) == (1, "5 files, 2 rows, 4 broken")
    assert [os.path.relpath(line.split(": ")[0]) for line in lines] == [
        "results/mine/s-p-c.parquet",
        "results/recognition/s2-p-c2.parquet",
        "results/recognition/s3-p-c.parquet",
        "results/recognition/s4-p-c.parquet",
    ]
    assert [line.split(": ", 1)[1].split(" (")[0] for line in lines] == [
        "column 'condition_id' is missing",
        "broken",
        "column 'target_nll' is missing",
        "column 'lr' is string instead of double",
    ]


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_misspelt_store_is_no_empty_answer(memexp: Command, filled: Store, verb: str) -> None:
    status, _, err = memexp(verb, "--store", "result")
    assert status == 2 and "there is no store at" in err


def test_a_script_that_would_execute_its_sweep_while_it_is_loaded_is_refused(memexp: Command, script: str) -> None:
    source = Path(script).read_text()
    Path(script).write_text(source + "\nimport sys\nsys.exit(sweep.main())\n")
    for verb in ("plan", "run"):
        status, _, told = memexp(verb, script)
        assert status == 2
        assert "put it under if __name__ == '__main__'" in told
    assert not Path("results").exists()
