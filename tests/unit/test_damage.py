"""Files that are not what they should be: each is named in a line, and none ends a command with a traceback."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from memexp import Condition, Model, Pair, Recognition, Study
from memexp.cli import main
from memexp.errors import StoreError
from memexp.exchange.compact import compact
from memexp.plan import Ask, Forest, grow
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import METADATA, SEARCHES, STAGES, SWEEPS, rows_for, with_source
from memexp.report.terminal import print_summary
from memexp.store import Store
from memexp.store.seal import SEAL, check_seal, sealed

TABLE = pa.table({"a": [1, 2], "none": pa.nulls(2, pa.string())}).replace_schema_metadata({"memexp": "{}"})


def flips(store: Store, data: bytes, first: int = 0) -> dict[str, int]:
    """Write a file for every bit after byte `first` that differs in it; returns the byte that each differs in."""
    folder = Path(store.location) / "flipped"
    folder.mkdir(parents=True)
    names = {}
    for at in range(first, len(data)):
        for bit in range(8):
            name = f"{at:05d}-{bit}"
            names[name] = at
            (folder / f"{name}.parquet").write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    return names


def test_verify_finds_every_bit_that_is_changed(tmp_path: Path) -> None:
    whole = Store(tmp_path / "whole")
    whole.commit("a", "a", TABLE)
    data = Path(whole.path("a", "a")).read_bytes()
    store = Store(tmp_path / "flips")
    names = flips(store, data)
    found = {problem.name: problem.message for problem in store.verify().problems}
    assert all("\n" not in said and said.startswith("broken (") for said in found.values())
    # The name of the seal is all that it does not cover; without it a file is like one of before, and as good.
    passed = {name: at for name, at in names.items() if name not in found}
    at = data.rindex(SEAL)
    assert all(at <= place < at + len(SEAL) + 2 for place in passed.values())
    assert all(store.read("flipped", name).equals(TABLE) for name in passed)


def test_of_a_file_of_before_no_bit_is_a_traceback(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    check_seal(data)
    store = Store(tmp_path / "flips")
    names = flips(store, data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    found = {problem.name: problem.message for problem in store.verify().problems}
    assert len(found) > len(names) / 2
    assert all("\n" not in said and said.startswith("broken (") for said in found.values())
    assert any("codec can't decode" in said for said in found.values())


def test_an_export_is_sealed_too(tmp_path: Path) -> None:
    store, out = Store(tmp_path / "results"), tmp_path / "export"
    for name in "ab":
        store.commit("recall", name, TABLE)
    compact(store, str(out))
    (file,) = out.rglob("*.parquet")
    data = file.read_bytes()
    assert data.count(SEAL) == 1 and not Store(out).verify().problems
    name = range(data.index(SEAL), data.index(SEAL) + len(SEAL) + 2)
    for at in (at for at in range(4, len(data), 23) if at not in name):
        file.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert len(Store(out).verify().problems) == 1, at


def test_rows_that_are_copied_get_a_seal_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.commit("a", "1", TABLE)
    store.commit("a", "2", TABLE)
    store.commit("a", "3", store.read("a", "1").slice(1))
    files = [Path(store.path("a", name)).read_bytes() for name in "123"]
    assert files[0] == files[1] and all(data.count(SEAL) == 1 for data in files)
    for data in files:
        check_seal(data)
        with pytest.raises(ValueError, match="not those that were written"):
            check_seal(data.replace(b"none", b"nOne"))


NOW = datetime(2026, 11, 29, tzinfo=UTC)
STAGE = {"stage_id": "s", "kind": "study", "sweep": "small", "model": "m", "status": "failed", "finished": NOW}
WANTED = {"sweep": "small", "kind": "recognition", "name": "s-p-c", "condition_id": "c", "stage_id": "s"}
WANTED |= {"probe_id": "p", "started": NOW}
SUGGESTED = {"sweep": "small", "search": "lr", "search_id": "x", "suggestion": 0, "point": '{"lr": 1}', "stage_id": "s"}
SUGGESTED |= {"results": ["recognition/s-p-c"], "trials": 2, "suggested": NOW}
ROWS = {"stages": (STAGE, STAGES), "sweeps": (WANTED, SWEEPS), "searches": (SUGGESTED, SEARCHES)}
TIME = {"stages": "finished", "sweeps": "started", "searches": "suggested"}


def table(kind: str, /, **changed: object) -> pa.Table:
    row, schema = ROWS[kind]
    return pa.Table.from_pylist([row | changed], schema=schema)


def instead(kind: str, name: str, column: pa.Array) -> pa.Table:
    whole = table(kind)
    return whole.set_column(whole.column_names.index(name), name, column)


FAR = pa.array([2**62], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
NO_TEXT = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
)
STRANGE: dict[str, Callable[[str], pa.Table | bytes]] = {
    "empty": lambda kind: b"",
    "garbage": lambda kind: bytes(range(256)) * 8,
    "text": lambda kind: b'{"sweep": "small"}',
    "cut off": lambda kind: sealed(table(kind))[:-20],
    "a flipped name": lambda kind: sealed(table(kind)).replace(b"sweep", b"sw\xe5ep"),
    "no rows of another schema": lambda kind: pa.table({"x": pa.array([], pa.int64())}),
    "another schema": lambda kind: pa.table({"sweep": ["small"], "x": [1]}),
    "no columns": lambda kind: pa.table({}),
    "a column of another type": lambda kind: instead(kind, TIME[kind], pa.array(["yesterday"])),
    "numbers for names": lambda kind: instead(kind, "sweep", pa.array([7])),
    "lists for names": lambda kind: instead(kind, "sweep", pa.array([["small"]])),
    "no text": lambda kind: instead(kind, "sweep", NO_TEXT),
    "NULL": lambda kind: table(kind, stage_id=None),
    "no time": lambda kind: table(kind, **{TIME[kind]: None}),
    "a time beyond all": lambda kind: instead(kind, TIME[kind], FAR),
}
OF_THE_RIGHT_COLUMNS = ("NULL", "no time", "a time beyond all")
HARMLESS: dict[str, Callable[[str], pa.Table | bytes]] = {
    "no rows": lambda kind: table(kind).slice(1),
    "huge numbers": lambda kind: {
        "stages": table("stages", stage_id="t", steps=2**62, trial=-(2**62), error="x" * 10**5),
        "sweeps": table("sweeps", name="../../" + "y" * 5000, kind="nul\0"),
        "searches": table("searches", trials=2**62, suggestion=2**61),
    }[kind],
    "odd results": lambda kind: table("searches", results=["", "/", "-"]) if kind == "searches" else table(kind),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for kind in ROWS:
        store.commit(kind, "a", table(kind))
    return store


def told(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> tuple[int, str]:
    """Exit status of a command on `store`, and its errors, which are a line or two and no traceback."""
    capsys.readouterr()
    status = main([*arguments[:1], "--store", store.location, *arguments[1:]])
    out, err = capsys.readouterr()
    assert status in (0, 1, 2) and err.count("\n") <= 2 and "Traceback" not in out + err
    return status, err


def plant(store: Store, kind: str, what: pa.Table | bytes) -> str:
    path = Path(store.path(kind, "z"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        pq.write_table(what, path)
    return str(path)


@pytest.mark.parametrize("kind", ROWS)
def test_status_names_a_file_that_is_not_memexps(store: Store, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, store, "status")[0] == 1
    found = {}
    for damage, made in STRANGE.items():
        path = plant(store, kind, made(kind))
        status, err = told(capsys, store, "status")
        found[damage] = (status, path in err)
        status, err = told(capsys, store, "query", f"FROM {kind}")
        assert status == 0 or path in err or kind in err, damage
        assert told(capsys, store, "verify")[0] == (0 if damage in OF_THE_RIGHT_COLUMNS else 1), damage
    assert {damage: outcome for damage, outcome in found.items() if outcome != (2, True)} == {}


@pytest.mark.parametrize("kind", ROWS)
def test_status_bears_what_only_looks_strange(store: Store, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for damage, made in HARMLESS.items():
        plant(store, kind, made(kind))
        assert told(capsys, store, "status") == (1, ""), damage


RUNNING = {
    "garbage": bytes(range(256)),
    "empty": b"",
    "a list": b"[1, 2]",
    "a number": b"7",
    "deep": b"[" * 100_000,
    "long": b'{"time": ' + b"9" * 6_000 + b"}",
    "late": b'{"time": ' + b"9" * 400 + b', "sweep": "small", "host": "x", "pid": 1}',
    "a huge pid": b'{"time": 9e15, "sweep": "small", "host": "HOST", "pid": ' + b"9" * 40 + b"}",
    "no pid": b'{"time": 9e15, "sweep": "small", "host": "HOST", "pid": null}',
    "a list for a name": b'{"time": 9e15, "sweep": ["small"], "host": "x", "pid": 1}',
    "no time": b'{"time": null, "sweep": "small", "host": "x", "pid": 1}',
    "half a pair": b'{"time": 9e15, "sweep": "\\ud800", "host": "x", "pid": 1}',
}


def test_status_passes_over_signs_of_life_that_are_none(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(store.location) / ".running"
    (folder / "small-folder.json").mkdir(parents=True)
    (folder / "small-folder.json" / "small-a.json").write_bytes(b"{")
    for name, data in RUNNING.items():
        (folder / f"small-{name}.json").write_bytes(data.replace(b"HOST", socket.gethostname().encode()))
    assert told(capsys, store, "status") == (1, "")


def test_a_file_in_place_of_a_folder_is_named(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(store.location) / ".running").write_text("")
    status, err = told(capsys, store, "status")
    assert status == 2 and ".running" in err


def test_a_folder_in_place_of_a_file_is_no_file(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ROWS:
        Path(store.path(kind, "z")).mkdir()
        (Path(store.path(kind, "z")) / "z.parquet").write_bytes(b"")
    assert told(capsys, store, "status") == (1, "")
    assert told(capsys, store, "verify") == (0, "")


# Results, and the tables after a run


@pytest.fixture
def forest(tiny_model: Model, pair: Pair) -> Forest:
    study = Study(pair.targets, exposures=1, lr=1e-3)
    return grow([Condition(tiny_model, study, seed=seed, probes=[Recognition(pair)]) for seed in (0, 1)])


def result(ask: Ask) -> pa.Table:
    items = {"item": [0], "target": ["a"], "foil": ["b"], "target_nll": [1.0], "foil_nll": [2.0]}
    rows = pa.table({**items, "target_tokens": [3], "foil_tokens": [3]}, schema=RECOGNITION)
    return with_source(rows_for(rows, ask.settings, ask.labels, {}), ask.kind, Recognition.headline)


def other(made: pa.Table, name: str, values: list[object]) -> pa.Table:
    return made.set_column(made.column_names.index(name), name, pa.array(values))


PLANTED: dict[str, Callable[[pa.Table], pa.Table | bytes]] = {
    "empty": lambda made: b"",
    "garbage": lambda made: b"PAR1" + bytes(200) + b"PAR1",
    "a flipped name": lambda made: sealed(made).replace(b"foil_nll", b"foil_\xeell"),
    "another schema": lambda made: pa.table({"x": [1]}).replace_schema_metadata(made.schema.metadata),
    "no columns": lambda made: pa.table({}),
    "another type": lambda made: other(made, "target_nll", [[1.0]]),
    "another condition": lambda made: other(made, "condition_id", ["x"]),
    "no condition": lambda made: other(made, "condition_id", [None]),
    "numbers for ids": lambda made: other(made, "probe_id", [2**60]),
    "metadata: no JSON": lambda made: made.replace_schema_metadata({METADATA: "{"}),
    "metadata: no UTF-8": lambda made: made.replace_schema_metadata({METADATA: b"\xff"}),
    "metadata: deep": lambda made: made.replace_schema_metadata({METADATA: "[" * 100_000}),
    "metadata: a list": lambda made: made.replace_schema_metadata({METADATA: "[]"}),
    "metadata: a number": lambda made: made.replace_schema_metadata({METADATA: '{"kind": "a", "headline": 7}'}),
    "metadata: no mean": lambda made: made.replace_schema_metadata({METADATA: '{"kind": "a", "headline": {}}'}),
    "metadata: no SQL": lambda made: made.replace_schema_metadata(
        {METADATA: '{"kind": "a", "headline": {"title": "t", "mean": "avg((("}}'}
    ),
    "metadata: a COPY": lambda made: made.replace_schema_metadata(
        {METADATA: '{"kind": "a", "headline": {"title": "t", "mean": "1) FROM (COPY (SELECT 1) TO \'x.csv\'"}}'}
    ),
}
ADDED = {
    "huge numbers": lambda made: other(made, "item", [2**62]),
    "decimals": lambda made: other(made, "target_nll", [Decimal("1.5")]),
}


def printed(store: Store, forest: Forest) -> str:
    page = io.StringIO()
    print_summary(store, "small", forest, Console(file=page, width=100))
    return page.getvalue()


@pytest.mark.parametrize("damage", PLANTED)
@pytest.mark.parametrize("at", [0, 1])
def test_a_result_that_is_not_memexps_is_named_after_a_run(
    tmp_path: Path, forest: Forest, damage: str, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    asks = sorted(forest.asks, key=lambda ask: ask.name)
    for ask in asks:
        store.commit(ask.kind, ask.name, result(ask))
    assert "1.00" in printed(store, forest)
    planted = PLANTED[damage](result(asks[at]))
    path = Path(store.path("recognition", asks[at].name))
    if isinstance(planted, bytes):
        path.write_bytes(planted)
    else:
        pq.write_table(planted, path)
    told(capsys, store, "query", "FROM recognition")
    if damage not in ("another condition", "no condition", "metadata: no SQL", "metadata: a COPY"):
        assert told(capsys, store, "verify")[0] == 1
    if damage.startswith("metadata") and at == 0:  # that of the last file is what is believed
        assert "1.00" in printed(store, forest)
        return
    with pytest.raises(StoreError) as error:
        printed(store, forest)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ADDED)
def test_numbers_of_another_kind_are_numbers(tmp_path: Path, forest: Forest, damage: str) -> None:
    store = Store(tmp_path)
    for ask in forest.asks:
        store.commit(ask.kind, ask.name, ADDED[damage](result(ask)))
    assert "1.00" in printed(store, forest)
