"""The table at the end of a sweep: its numbers are those of the store, and a line says what they show."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from memexp.plan import Forest, grow
from memexp.probes import QA, FactRatios, Recall, Recognition
from memexp.probes.ratios import SCHEMA as RATIOS
from memexp.probes.recall import SCHEMA as RECALL
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import MADE_WITH, SWEEPS, rows_for
from memexp.report.terminal import print_summary
from memexp.report.views import views_of
from memexp.spec import (
    Condition,
    Forget,
    Full,
    InlineItems,
    InlineText,
    Interference,
    LoRA,
    Model,
    Pair,
    RandomInit,
    Study,
    TextFile,
    counterbalanced,
)
from memexp.stats.means import wilson
from memexp.store import Store
from memexp.store.manifests import Manifest, write_manifest
from memexp.store.query import answer
from memexp.wording import made_of

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


def printed(store: Store, forest: Forest, width: int = 80, intervals: bool = False) -> str:
    """With the intervals of its cells, or without."""
    page = io.StringIO()
    print_summary(store, "summary", forest, Console(file=page, width=width))
    return page.getvalue() if intervals else re.sub(r" \[-?[\d.]+, -?[\d.]+\]", "", page.getvalue())


def closing(store: Store, page: str, forest: Forest | None = None) -> list[dict[str, Any]]:
    """What the last line's command answers; `forest`: of which the sweep was last started, if that is not known yet."""
    page = page.replace("\\\n", " ")  # a line that goes on
    words = shlex.split(next(line for line in page.splitlines() if line.startswith("  memexp query")))
    assert words[:2] == ["memexp", "query"] and words[-3] == "--sweep"
    if forest is not None:
        asks = [Manifest(ask.kind, ask.name, ask.condition_id, ask.stage, ask.probe_id) for ask in forest.asks]
        write_manifest(store, words[-2], asks)
    names, rows = answer(store, words[-1], words[-2], views_of(store))
    return [dict(zip(names, row, strict=True)) for row in rows]


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


def test_means_have_their_intervals_where_there_is_room_and_n_everywhere(store: Store, forest: Forest) -> None:
    """Of four items, 2 and 4 are right without study."""
    narrow, wide = (printed(store, forest, width, intervals=True) for width in (40, 100))
    bounds = [
        wilson(np.array(share), np.array(4.0), np.array(1.959964), sign) for share in (0.5, 1) for sign in (-1, 1)
    ]
    (row,) = (line for line in wide.splitlines() if "1.00" in line and "0.001" in line)
    assert row.split("│")[2].strip() == f"0.50 [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    assert row.split("│")[3].strip() == f"1.00 [{bounds[2]:.2f}, {bounds[3]:.2f}]"
    assert "[" not in narrow and max(len(line) for line in narrow.splitlines() if line[:1] in "┏│") <= 40
    for page in (narrow, wide):
        assert page.count("Each mean is of 4 values; 95 % intervals over items") == 1
        assert page.count("Each mean is of 4 values; no interval: no variation over items") == 1
        assert ("which a wider terminal shows" in page) is (page is narrow)


def test_seeds_and_items_are_told(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    forest = grow(
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=1e-3), seed=seed, probes=[Recognition(pair)])
        for n in (1, 3)
        for seed in range(3)
    )
    page = printed(committed(forest, Store(tmp_path), {0: 1, 1: 2, 2: 4}, "seed"), forest, 100, intervals=True)
    assert "Each mean is of 12 (4 items × 3 seeds) values; 95 % intervals over items and seeds, at most ±" in page


def test_no_share_is_said_to_be_outside_of_0_and_1(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    """ROUGE of four items of which one is nearly right: t alone would reach below 0."""
    forest = grow([Condition(tiny_model, Study(pair.targets, exposures=1, lr=1e-3), probes=[Recall()])])
    (ask,) = forest.asks
    rows = [{"item": i, "completion_rouge2": 0.9 if i == 0 else 0.0} for i in range(4)]
    made_with = {field.name: None for field in MADE_WITH}
    store = Store(tmp_path)
    store.commit(ask.kind, ask.name, rows_for(pa.Table.from_pylist(rows, schema=RECALL), ask.settings, {}, made_with))
    assert "0.23 [0.00, 0.94]" in printed(store, forest, 100, intervals=True)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((160, 80, 2, 0), "160 (80 items × 2 seeds)"),
        ((120, 30, 2, 0), "120 (30 items × 2 seeds, each twice)"),
        ((90, 30, 0, 0), "90 (30 items, each 3 times)"),
        ((2400, 2400, 4, 4), "2,400 (items of 4 lists, 4 seeds)"),
        ((90, 90, 1, 0), "90"),
        ((100, 30, 3, 0), "100 (30 items, 3 seeds)"),
        ((50, 0, 0, 0), "50"),
    ],
)
def test_what_values_are_of_multiplies_out(counts: tuple[int, int, int, int], said: str) -> None:
    assert made_of(*counts) == said


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


def committed(forest: Forest, store: Store, right: dict[object, int], key: str) -> Store:
    """Recognition of four pairs for each ask, as many right as `right` says for its label or setting `key`."""
    made_with = {field.name: None for field in MADE_WITH}
    for ask in forest.asks:
        count = right[ask.labels.get(key, ask.settings.get(key))]
        rows = [{"item": i, "target_nll": 1.0, "foil_nll": 2.0 if i < count else 0.5} for i in range(4)]
        items = pa.Table.from_pylist(rows, schema=RECOGNITION)
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, made_with))
    return store


def test_two_fields_of_one_file_are_rows_of_their_own(tiny_model: Model, tmp_path: Path) -> None:
    """And the twin of each, which is labelled, is not; nor is a replication with a seed of its own."""
    file = tmp_path / "lists.csv"
    file.write_text("sent,easy,hard\n" + "".join(f"one {i},two {i},three {i}\n" for i in range(4)))
    default, easy, hard = (TextFile(str(file), field=field) for field in (None, "easy", "hard"))
    conditions = [
        Condition(
            tiny_model, Study(studied, exposures=1, lr=1e-3), probes=[Recognition(Pair(studied, foils))], seed=seed
        )
        for studied, foils in ((easy, hard), (default, hard))
        for seed in (0, 1)
    ]
    forest = grow([*conditions, *map(counterbalanced, conditions[:2])])
    right = {f"{file}:easy": 4, f"{file}:hard": 2, str(file): 1}
    committed(forest, Store(tmp_path / "store"), right, "corpus")
    page = printed(Store(tmp_path / "store"), forest, width=400)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in page.splitlines() if line.startswith("│")]
    assert cells == [[f"{file}:easy", "1.00"], [str(file), "0.25"], [f"{file}:hard", "0.50"]]
    assert "Each mean is taken over all seeds" in page
    rows = closing(Store(tmp_path / "store"), page, forest)
    assert {row["corpus"]: row["recognition"] for row in rows} == {name: n / 4 for name, n in right.items()}
    told = {json.loads(ask.settings["probe_settings"])["Recognition"]["pair"]["Pair"]["foils"] for ask in forest.asks}
    assert told == {f"{file}:easy", f"{file}:hard"}


def test_twins_from_two_fields_of_one_file_are_one_row(tiny_model: Model, tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("easy,hard\n" + "".join(f"two {i},three {i}\n" for i in range(4)))
    easy, hard = (TextFile(str(file), field=field) for field in ("easy", "hard"))
    one = Condition(tiny_model, Study(easy, exposures=1, lr=1e-3), probes=[Recognition(Pair(easy, hard))])
    forest = grow([one, counterbalanced(one)])
    committed(forest, Store(tmp_path / "store"), {f"{file}:easy": 4, f"{file}:hard": 2}, "corpus")
    page = printed(Store(tmp_path / "store"), forest)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in page.splitlines() if line.startswith("│")]
    assert cells == [["tiny", "0.75"]]


def test_a_colon_in_the_name_of_a_list_is_no_column(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    """Lists given in Python may be called anything: these are replications."""
    lists = [InlineText(f"words: {which}", [f"{which} {i}" for i in range(4)]) for which in ("first", "second")]
    forest = grow(
        Condition(tiny_model, Study(one, exposures=1, lr=1e-3), probes=[Recognition(Pair(one, pair.foils))])
        for one in lists
    )
    page = printed(committed(forest, Store(tmp_path / "store"), {one.name: 4 for one in lists}, "corpus"), forest)
    assert len([line for line in page.splitlines() if line.startswith("│")]) == 1


def test_labels_are_rows_of_their_own_and_seeds_are_not(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    """A mean over experiments would be a number without a meaning; what it is over is said."""
    forest = grow(
        Condition(
            tiny_model,
            Study(pair.targets, exposures=1, lr=1e-3),
            seed=seed,
            probes=[Recognition(pair)],
            labels={"experiment": experiment, "counterbalanced": seed == 1},
        )
        for experiment in (6, 1)
        for seed in (0, 1)
    )
    page = printed(committed(forest, Store(tmp_path / "it's"), {1: 4, 6: 1}, "experiment"), forest)
    cells = [re.findall(r"[\d.]+", line) for line in page.splitlines() if line.startswith("│")]
    assert cells == [["6", "0.25"], ["1", "1.00"]]
    assert "taken over all seeds and both halves of the counterbalancing (targets studied, foils studied)." in page
    rows = closing(Store(tmp_path / "it's"), page, forest)
    told = [tuple(row[name] for name in ("experiment", "exposures", "recognition", "n", "seeds")) for row in rows]
    assert told == [(1, 1, 1.0, 8, 2), (6, 1, 0.25, 8, 2)]


def test_what_a_method_or_no_forgetting_leaves_empty_is_no_difference(
    tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    forget = Forget(from_layer=1, restudy_exposures=0)
    forest = grow(
        Condition(tiny_model, Study(pair.targets, exposures=1, lr=1e-3), method, probes=[Recognition(pair)], forget=f)
        for method in (Full(), LoRA(r=2))
        for f in (None, forget)
    )
    page = printed(committed(forest, Store(tmp_path), {None: 4, "upper": 1}, "forget_side"), forest)
    cells = [line.split("│")[1:-1] for line in page.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["full", "", "1.00"],
        ["full", "upper", "0.25"],
        ["lora", "", "1.00"],
        ["lora", "upper", "0.25"],
    ]
    assert "Each mean is taken over" not in page


STUDY = Study(InlineText("studied", ["one two", "three four", "five six", "seven eight"]), exposures=1, lr=1e-3)


def drawn(config: str, seed: int = 0) -> Model:
    return Model("tiny", tokenizer="tiny-s", init=RandomInit(config, seed=seed))


DIFFERENT: dict[str, list[dict[str, Any]]] = {
    "lora_alpha": [{"method": LoRA(alpha=8.0)}, {"method": LoRA(alpha=32.0)}],
    "lora_dropout": [{"method": LoRA()}, {"method": LoRA(dropout=0.1)}],
    "warmup_steps": [{"study": STUDY}, {"study": dataclasses.replace(STUDY, warmup_steps=2)}],
    "clip_norm": [{"study": STUDY}, {"study": dataclasses.replace(STUDY, clip_norm=1.0)}],
    "block_size": [{"study": STUDY}, {"study": dataclasses.replace(STUDY, block_size=32)}],
    "interference_corpus": [
        {"interference": Interference(InlineText(name, [f"of {name}"]), steps=1, lr=1e-3, batch_size=1)}
        for name in ("news", "tales")
    ],
    "interference_clip_norm": [
        {"interference": Interference(InlineText("news", ["new"]), steps=1, lr=1e-3, batch_size=1, clip_norm=norm)}
        for norm in (None, 1.0)
    ],
    "init": [{"model": Model("tiny-s")}, {"model": dataclasses.replace(drawn("tiny-s"), name="tiny-s")}],
    "model_id": [{"model": drawn("tiny-s")}, {"model": drawn("tiny-m")}],
}
"""Two conditions each, whose mean would be a number without a meaning."""


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_in_a_setting_of_any_kind_is_in_rows_of_its_own(name: str, tmp_path: Path) -> None:
    pair = Pair(STUDY.corpus, InlineText("foils", ["a b", "c d", "e f", "g h"]))
    common: dict[str, Any] = {"model": Model("tiny-s"), "study": STUDY, "probes": [Recognition(pair)]}
    forest = grow(Condition(**(common | {"seed": seed} | fields)) for fields in DIFFERENT[name] for seed in (0, 1))
    for number, ask in enumerate(forest.asks):
        right = (4, 4, 1, 1)[number]
        committed(dataclasses.replace(forest, asks=[ask]), Store(tmp_path), {"tiny": right, "tiny-s": right}, "model")
    page = printed(Store(tmp_path), forest)
    cells = [line.split("│")[1:-1] for line in page.splitlines() if line.startswith("│")]
    assert [float(row[-1]) for row in cells] == [1.0, 0.25]
    assert re.search(rf"┃ {name} +┃", page) and "Each mean is taken over all seeds." in page
    rows = closing(Store(tmp_path), page, forest)
    assert sorted(row["recognition"] for row in rows) == [0.25, 1.0]
    assert len({row[name] for row in rows}) == 2


def test_two_probes_of_a_condition_are_rows_of_their_own(tiny_model: Model, tmp_path: Path) -> None:
    foils = {name: InlineText(name, [f"{name} {i}" for i in range(4)]) for name in ("foils", "synonyms")}
    forest = grow(
        Condition(
            tiny_model,
            Study(studied := InlineText(f"studied {i}", [f"one {i}", "two", "three", "four"]), exposures=1, lr=1e-3),
            probes=[Recognition(Pair(studied, foils[name])) for name in foils],
        )
        for i in range(2)
    )
    for ask in forest.asks:
        right = 4 if "synonyms" in ask.settings["probe_settings"] else 1
        committed(dataclasses.replace(forest, asks=[ask]), Store(tmp_path), {"tiny": right}, "model")
    page = printed(Store(tmp_path), forest)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in page.splitlines() if line.startswith("│")]
    assert cells == [["pair.foils=foils", "0.25"], ["pair.foils=synonyms", "1.00"]]
    assert "Each mean is taken over all study lists." in page
    rows = closing(Store(tmp_path), page, forest)
    assert sorted(row["recognition"] for row in rows) == [0.25, 0.25, 1.0, 1.0]
    assert len({row["probe_settings"] for row in rows}) == 4


def test_a_label_may_be_called_task(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    study, probes = Study(pair.targets, exposures=1, lr=1e-3), [Recognition(pair)]
    forest = grow(Condition(tiny_model, study, probes=probes, labels={"task": task}) for task in "ab")
    page = printed(committed(forest, Store(tmp_path), {"a": 4, "b": 1}, "task"), forest)
    assert "by task" in page and "│ tiny  │ 1.00 │ 0.25 │" in page


def test_shots_are_rows_of_their_own(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    items = InlineItems("a", [{"question": f"{i}?", "answer": "yes"} for i in range(4)])
    study = Study(pair.targets, exposures=1, lr=1e-3)
    forest = grow([Condition(tiny_model, study, probes=[QA(items), QA(items, shots=2)])])
    page = printed(answered(forest, Store(tmp_path)), forest)
    assert re.findall("│ (|shots=2) +│ 0.50", page) == ["", "shots=2"]


def test_a_mean_over_what_is_left_is_said_to_be_one(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    forest = grow(
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=1e-3), seed=seed, probes=[Recognition(pair)])
        for n in (0, 1)
        for seed in (0, 1, 2)
    )
    store = Store(tmp_path)
    committed(dataclasses.replace(forest, asks=forest.asks[:4]), store, {0: 2, 1: 4}, "exposures")
    line = "1 of the means is over part of their conditions: the others have no result (yet)."
    assert line in printed(store, forest)
    committed(forest, store, {0: 2, 1: 4}, "exposures")
    assert "over part of" not in printed(store, forest)


def test_names_in_brackets_are_names(pair: Pair, tiny_model: Model, tmp_path: Path) -> None:
    models = [dataclasses.replace(tiny_model, name=name) for name in ("[red]x", "y[/b]")]
    forest = grow(
        Condition(model, Study(pair.targets, exposures=1, lr=1e-3), probes=[Recognition(pair)]) for model in models
    )
    page = printed(committed(forest, Store(tmp_path), {"[red]x": 1, "y[/b]": 4}, "model"), forest)
    assert "│ [red]x │ 0.25 │" in page and "│ y[/b]  │ 1.00 │" in page


def test_the_query_is_of_the_sweep_as_it_was_last_started(
    store: Store, forest: Forest, tiny_model: Model, pair: Pair
) -> None:
    """An edited sweep leaves the rows of its former self in the store, and so do other sweeps."""
    later = [ask for ask in forest.asks if ask.settings["lr"] == 3e-3]
    for started, asks, sweep in ((1, forest.asks, "summary"), (2, later, "summary"), (3, forest.asks, "other")):
        rows = [
            {"sweep": sweep, "kind": ask.kind, "name": ask.name, "condition_id": ask.condition_id}
            | {"stage_id": ask.stage, "probe_id": ask.probe_id, "started": datetime.fromtimestamp(started, UTC)}
            for ask in asks
        ]
        store.commit("sweeps", f"{sweep}-{started}", pa.Table.from_pylist(rows, schema=SWEEPS))
    edited = dataclasses.replace(forest, asks=later)
    rows = closing(store, printed(store, edited))
    assert [(row["model"], row["exposures"], row["recognition"]) for row in rows] == [
        ("tiny", 0, 0.5),
        ("tiny", 3, 0.25),
    ]


def questions(tiny_model: Model, pair: Pair, exposures: tuple[int, ...]) -> Forest:
    tests = [InlineItems(name, [{"question": f"{name} {i}?", "answer": "yes"} for i in range(4)]) for name in "ab"]
    return grow(
        Condition(tiny_model, Study(pair.targets, exposures=n, lr=1e-3), probes=[QA(test) for test in tests])
        for n in exposures
    )


def answered(forest: Forest, store: Store) -> Store:
    """Test a is answered half right, test b always but for one prompt that was too long."""
    made_with = {field.name: None for field in MADE_WITH}
    for ask in forest.asks:
        assert isinstance(ask.probe, QA)
        exact = {"a": [True, False, True, False], "b": [True, True, True, None]}[str(ask.probe.task)]
        rows = [{"task": ask.probe.task, "item": i, "exact": right} for i, right in enumerate(exact)]
        items = pa.Table.from_pylist(rows, schema=QA.schema())
        store.commit("qa", ask.name, rows_for(items, ask.settings, ask.labels, made_with))
    return store


def test_tests_are_rows_of_their_own_and_what_was_not_asked_is_counted(
    tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    forest = questions(tiny_model, pair, (0, 1))
    page = printed(answered(forest, Store(tmp_path)), forest)
    cells = [line.split("│")[1:-1] for line in page.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in cells] == [["a", "0.50", "0.50"], ["b", "1.00", "1.00"]]
    assert "2 of 16 items are NULL: prompts that do not fit the model's context are not asked." in page
    assert "rises" not in page  # a mean over tests would be a number without a meaning
    rows = closing(Store(tmp_path), page, forest)
    told = sorted((row["task"], row["exposures"], row["exact"], row["n"]) for row in rows)
    assert told == [("a", 0, 0.5, 4), ("a", 1, 0.5, 4), ("b", 0, 1.0, 3), ("b", 1, 1.0, 3)]


def test_where_exposures_do_not_vary_tests_are_columns(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    forest = questions(tiny_model, pair, (1,))
    page = printed(answered(forest, Store(tmp_path)), forest)
    above, head, row = (line.split() for line in page.splitlines() if line.startswith(("┃", "│")))
    assert "task" in above and head[1::2] == ["model", "a", "b"] and row[1::2] == ["tiny", "0.50", "1.00"]


def test_where_exposures_do_not_vary_retention_intervals_are_columns(
    tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    study = Study(pair.targets, exposures=1, lr=1e-3)
    forest = grow(
        Condition(
            tiny_model, study, probes=[Recognition(pair)], interference=n and Interference(pair.foils, n, 1e-3, 4)
        )
        for n in (None, 30, 4)
    )
    page = printed(committed(forest, Store(tmp_path), {None: 4, 30: 1, 4: 3}, "retention_steps"), forest)
    cells = [line.split("│" if "│" in line else "┃")[1:-1] for line in page.splitlines() if line[0:1] in ("┃", "│")]
    above, head, row = [[cell.strip() for cell in found] for found in cells]
    assert (
        above == ["", "retention steps", "", ""]
        and head == ["model", "", "4", "30"]
        and row == ["tiny", "1.00", "0.75", "0.25"]
    )
    assert "by retention_steps" in page and "rises" not in page


def test_other_kinds_are_named_with_the_command_that_reads_them(
    tiny_model: Model, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = InlineItems("facts", [{"head": "France", "relation": "capital", "tail": "Paris"}])
    study = Study(pair.targets, exposures=1, lr=1e-3)
    forest = grow([Condition(tiny_model, study, probes=[FactRatios(facts)])])
    (ask,) = forest.asks
    store = Store(tmp_path / "my results")
    made_with = {field.name: None for field in MADE_WITH}
    rows = rows_for(pa.Table.from_pylist([{"item": 0}], schema=RATIOS), ask.settings, ask.labels, made_with)
    store.commit(ask.kind, ask.name, rows)
    said = f"""Rows of ratios are in the store: memexp query --store '{store.location}' "SELECT * FROM ratios"\n"""
    assert printed(store, forest) == said
    monkeypatch.setenv("MEMEXP_STORE", store.location)
    assert printed(store, forest) == said.replace(f"--store '{store.location}' ", "")


def test_the_command_for_more_is_short(
    store: Store, forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMEXP_STORE", store.location)
    (line,) = (line for line in printed(store, forest).splitlines() if "memexp query" in line)
    assert line == "  memexp query --sweep summary recognition_by_condition" and len(line) < 100
    assert len(closing(store, line, forest)) == 4


def test_a_long_command_is_of_several_lines_that_a_shell_takes(forest: Forest, store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / ("a folder with a very long name " * 4).strip())
    for kind in ("recognition", "recall"):
        for name in store.names(kind):
            far.commit(kind, name, store.read(kind, name))
    page = printed(far, forest)
    lines = page[page.index("  memexp query") :].rstrip().splitlines()
    assert len(lines) == 2 and lines[0].endswith(" \\") and len(lines[1]) < 100
    words = shlex.split("\n".join(lines).replace("\\\n", " "))
    assert words == ["memexp", "query", "--store", far.location, "--sweep", "summary", "recognition_by_condition"]


def test_an_empty_store_has_no_table(forest: Forest, tmp_path: Path) -> None:
    assert printed(Store(tmp_path / "nothing"), forest) == ""
