"""The table at the end of a sweep: its numbers are those of the store, and a line says what they show."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from memexp.plan import Forest, grow
from memexp.probes import Recall, Recognition
from memexp.records import MADE_WITH, RECALL, RECOGNITION, rows_for
from memexp.spec import Condition, Model, Pair, Study
from memexp.store import Store
from memexp.summary import print_summary

RIGHT = {(1e-3, 0): 2, (1e-3, 3): 4, (3e-3, 0): 2, (3e-3, 3): 1}
"""Pairs told apart of four, by learning rate and exposures."""


@pytest.fixture
def forest(tiny_model: Model, pair: Pair) -> Forest:
    return grow(
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=lr), probes=[Recognition(pair), Recall()])
        for lr, n in RIGHT
    )


@pytest.fixture
def store(forest: Forest, tmp_path: Path) -> Store:
    store = Store(tmp_path)
    made_with = {field.name: None for field in MADE_WITH}
    for ask in forest.asks:
        right = RIGHT[ask.settings["lr"], ask.settings["exposures"]]
        rows = {
            "recognition": [{"item": i, "target_nll": 1.0, "foil_nll": 2.0 if i < right else 0.5} for i in range(4)],
            "recall": [{"item": i, "completion_rouge2": right / 10} for i in range(4)],
        }[ask.kind]
        items = pa.Table.from_pylist(rows, schema={"recognition": RECOGNITION, "recall": RECALL}[ask.kind])
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, made_with))
    return store


def printed(store: Store, forest: Forest) -> str:
    page = io.StringIO()
    print_summary(store, "summary", forest, Console(file=page, width=80))
    return page.getvalue()


def test_the_table_holds_the_means(store: Store, forest: Forest) -> None:
    page = printed(store, forest)
    cells = [re.findall(r"[\d.]+", line) for line in page.splitlines() if line.startswith("│")]
    assert cells == [
        ["0.001", "0.50", "1.00"],
        ["0.003", "0.50", "0.25"],
        ["0.001", "0.20", "0.40"],
        ["0.003", "0.20", "0.10"],
    ]
    tables = [line for line in page.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) < 80


def test_rows_stand_in_the_order_of_the_sweep(store: Store, tiny_model: Model, pair: Pair) -> None:
    """tiny-s before tiny-l, where the alphabet would have it the other way round."""
    forest = grow(
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=lr), probes=[Recognition(pair)])
        for lr, n in reversed(RIGHT)
    )
    rows = [line for line in printed(store, forest).splitlines() if line.startswith("│")]
    assert [row.split()[1] for row in rows] == ["0.003", "0.001"]


def test_a_line_says_what_it_shows(store: Store, forest: Forest) -> None:
    lines = [line for line in printed(store, forest).splitlines() if line.startswith("From")]
    assert lines == [
        "From 0 to 3 exposures it rises in 1 of 2 rows, on average from 0.50 to 0.62.",
        "From 0 to 3 exposures it rises in 1 of 2 rows, on average from 0.20 to 0.25.",
    ]


def test_one_exposure_count_shows_no_rise(store: Store, tiny_model: Model, pair: Pair) -> None:
    forest = grow([Condition(tiny_model, Study(pair.targets, exposures=3, lr=1e-3), probes=[Recognition(pair)])])
    page = printed(store, forest)
    assert "1.00" in page and "rises" not in page


def test_an_empty_store_has_no_table(forest: Forest, tmp_path: Path) -> None:
    assert printed(Store(tmp_path / "nothing"), forest) == ""
