"""Rows in Python: those of the sweep as it was last started, each measurement once, in whatever frame is liked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import memexp
from memexp import Condition, Model, Pair, Recognition, StoreError, Study, Sweep
from memexp.plan import Ask, Forest, grow
from memexp.probes.recognition import SCHEMA
from memexp.records import MADE_WITH, rows_for
from memexp.store import Store
from memexp.store.manifests import Manifest, write_manifest

GRID = [(0, 1e-3), (0, 3e-3), (1, 1e-3), (1, 3e-3)]
ITEMS = 3


def conditions(model: Model, pair: Pair, grid: list[tuple[int, float]]) -> list[Condition]:
    return [Condition(model, Study(pair.targets, n, lr=lr), probes=[Recognition(pair)]) for n, lr in grid]


@pytest.fixture
def sweep(tiny_model: Model, pair: Pair) -> Sweep:
    return Sweep("grid", conditions(tiny_model, pair, GRID))


def answered(store: Store, sweep: str, forest: Forest) -> list[Ask]:
    made_with = {field.name: None for field in MADE_WITH}
    for ask in forest.asks:
        rows = [{"item": i, "target_nll": 1.0, "foil_nll": float(i)} for i in range(ITEMS)]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        store.commit(ask.kind, ask.name, rows_for(table, ask.settings, ask.labels, made_with))
    said = [
        Manifest(ask.kind, ask.name, ask.condition_id, ask.stage, ask.probe_id)  # what a run says as it begins
        for ask in forest.asks
    ]
    write_manifest(store, sweep, said)
    return list(forest.asks)


@pytest.fixture
def store(sweep: Sweep, tiny_model: Model, pair: Pair, tmp_path: Path) -> Store:
    store = Store(tmp_path)
    answered(store, "grid", sweep.grow())
    answered(store, "other", grow(conditions(tiny_model, pair, [(2, 1e-3)])))
    return store


def test_rows_of_a_sweep_are_its_own_and_once(sweep: Sweep, store: Store) -> None:
    """The untrained model is measured once, though each learning rate has it."""
    rows = sweep.results("recognition", store.location)
    assert len(rows) == 3 * ITEMS
    assert sorted(rows.to_arrow()["exposures"].to_pylist()) == [0] * ITEMS + [1] * 2 * ITEMS
    assert len(sweep.results("recognition", store.location, copies=True)) == len(GRID) * ITEMS
    everything = memexp.open(store.location)
    assert len(everything.recognition(copies=True)) == (len(GRID) + 1) * ITEMS
    assert len(everything.recognition()) == 4 * ITEMS
    assert len(everything.recognition(sweep="other")) == ITEMS
    assert everything.sweeps == ["grid", "other"] and "recognition" in dir(everything)


def test_a_sweep_is_as_it_was_last_started(sweep: Sweep, store: Store, tiny_model: Model, pair: Pair) -> None:
    before = sweep.results("recognition", store.location)
    answered(store, "grid", grow(conditions(tiny_model, pair, GRID[2:])))
    assert len(sweep.results("recognition", store.location)) == 2 * ITEMS
    assert len(before) == 2 * ITEMS, "rows are read when they are asked for"


def test_every_frame_has_the_same_rows(sweep: Sweep, store: Store) -> None:
    rows = sweep.results("recognition", store.location)
    columns = rows.columns
    frames: list[Any] = [rows.to_pandas(), rows.to_polars()]
    assert [list(frame.columns) for frame in frames] == [columns, columns]
    assert [len(frame) for frame in frames] == [len(rows), len(rows)]
    relation = rows.to_duckdb()
    assert relation.columns == columns
    assert relation.aggregate("exposures, count(*) AS n").order("exposures").fetchall() == [(0, ITEMS), (1, 2 * ITEMS)]


def test_a_notebook_shows_what_varies_and_nothing_else_happens(store: Store, sweep: Sweep) -> None:
    rows = sweep.results("recognition", store.location)
    page = rows._repr_html_()
    assert "<th>exposures</th>" in page and "<th>memexp</th>" not in page
    assert repr(rows) in page.replace("&lt;", "<").replace("&#x27;", "'").replace("<p>", "<p><").replace(
        "</p>", "></p>"
    )
    odd = pa.table({"text": ["<script>alert(1)</script>", "b" * 500], "lr": [0.1, None]})
    store.commit("odd", "one", odd)
    page = memexp.open(store.location).odd()._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "b" * 201 not in page


def test_a_notebook_shows_a_plan_as_the_command_prints_it(sweep: Sweep, store: Store) -> None:
    plan = sweep.plan(store.location)
    page = dataclasses.replace(plan, remarks=("a <b> remark",))._repr_html_()
    assert f"<td>conditions</td><td>{len(GRID)}</td><td>{len(GRID)} of them in the store</td>" in page
    assert page.count("<tr>") == len(plan.rows()) > 5 and "a &lt;b&gt; remark" in page and "<b>" not in page


def test_a_plot_has_every_condition(sweep: Sweep, store: Store) -> None:
    """The untrained model stands at the beginning of each learning rate's curve."""
    chart = sweep.results("recognition", store.location).plot(by="lr").to_dict()
    points = [row for rows in chart["datasets"].values() for row in rows]
    drawn = {(row["lr"], row["exposures"]) for row in points if "exposures" in row}
    assert drawn == {("0.001", 0), ("0.001", 1), ("0.003", 0), ("0.003", 1)}
    with pytest.raises(memexp.SpecError, match="nowhere"):
        sweep.results("recognition", store.location).plot(by="nowhere")


def test_what_is_not_there_is_told_with_what_is(store: Store, sweep: Sweep, tmp_path: Path) -> None:
    opened = memexp.open(store.location)
    with pytest.raises(StoreError, match="has no 'recal'; it has recognition, sweeps"):
        opened.recal()
    with pytest.raises(StoreError, match="has no sweep 'gird'; it has grid, other"):
        opened.recognition(sweep="gird")
    with pytest.raises(StoreError, match=r"there is no store at .*/nowhere"):
        sweep.results("recognition", tmp_path / "nowhere")
    (tmp_path / "recognition" / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"broken\.parquet"):
        len(opened.recognition())
