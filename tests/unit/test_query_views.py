"""What `memexp query` adds to SQL: views, narrow tables, formats, a note on older rows, and names in its errors."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_results import WHEN, Made

from memexp.cli import main
from memexp.report.output import binary, spoken
from memexp.report.rendered import csv_text, json_text
from memexp.report.views import OTHERS, views_of
from memexp.store import Store
from memexp.store.query import answer

LABELS = {"text": "story", "counterbalanced": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Grids of recognition and recall with a label that items have a column for, facts, losses and attempts."""
    store = Store(tmp_path_factory.mktemp("views") / "results")
    made = Made(store, items=4)
    for lr in (1e-3, 1e-2, 1e-1):
        for seed, corpus in ((0, "one"), (1, "two")):
            common: dict[str, Any] = {"model": "tiny-s", "lr": lr, "seed": seed, "batch_size": 4, "corpus": corpus}
            common |= {"model_id": "m"}
            made.result("recognition", made.recognition(3 if lr == 1e-2 else 0.1, seed), LABELS, exposures=1, **common)
            made.result(
                "recall", made.recall(0.5 if lr < 0.1 else 1.0), LABELS, exposures=1, retention_steps=10, **common
            )
    made.sweep("grid")
    for task, share in (("easy", 1.0), ("hard", 0.5)):
        made.result("qa", made.questions(task, share), {}, model="tiny-s", exposures=1, model_id="m")
    made.result("choice", made.choices("easy", 0.5), {}, model="tiny-s", exposures=1, model_id="m")
    made.sweep("facts")
    done = {"stage_id": "a", "kind": "study", "model": "tiny-s", "sweep": "grid", "finished": WHEN, "steps": 2}
    tried = [done | {"status": "complete", "seconds": 3600.0}, done | {"status": "failed", "error": "no\nroom"}]
    from memexp.records import STAGES, TRAINING

    store.commit("stages", "one", pa.Table.from_pylist(tried, schema=STAGES))
    losses = [{"stage_id": "a", "kind": "study", "exposure": 1, "step": n, "loss": float(n)} for n in (1, 2)]
    store.commit("training", "one", pa.Table.from_pylist(losses, schema=TRAINING))
    return store


def asked(store: Store, sql: str, sweep: str | None = None) -> list[dict[str, Any]]:
    names, rows = answer(store, sql, sweep, views_of(store))
    return [dict(zip(names, row, strict=True)) for row in rows]


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def query(store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        where = [] if "--store" in arguments else ["--store", store.location]
        status = main(["query", *where, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


# views


def test_all_of_them_answer(store: Store) -> None:
    found = views_of(store)
    means = {f"{kind}_by_condition" for kind in ("recognition", "recall", "qa", "choice")}
    assert found.keys() == means | {view.name for view in OTHERS}
    for name, view in found.items():
        rows = asked(store, f'FROM "{name}"')
        assert rows and set(view.shown) <= rows[0].keys(), name


def test_means_are_those_of_the_items_and_say_how_many(store: Store) -> None:
    rows = asked(store, "recognition_by_condition", "grid")
    sql = "SELECT lr, avg((target_nll < foil_nll)::int), count(*) FROM recognition GROUP BY lr ORDER BY lr"
    assert [(row["lr"], row["recognition"], row["n"]) for row in rows] == answer(store, sql)[1]
    assert {(row["seeds"], row["lists"], row["text"]) for row in rows} == {(2, 2, "story")}
    by_task = {row["task"]: row["exact"] for row in asked(store, "FROM qa_by_condition")}
    assert by_task == {"easy": 1.0, "hard": 0.5}


def test_the_best_of_a_grid_says_whether_it_is_at_its_edge(store: Store) -> None:
    found = [(row["measure"], row["best_lr"], row["points"], row["at_edge"]) for row in asked(store, "best_lr")]
    assert sorted(found) == [("completion_rouge2", 0.1, 3, True), ("recognition", 1e-2, 3, False)]


def test_others_hold_what_their_tables_hold(store: Store) -> None:
    curve = asked(store, "retention_curve")
    assert {row["measure"] for row in curve} == {"completion_rouge2"} and {row["retention_steps"] for row in curve} == {
        10
    }
    (item,) = asked(store, "FROM item_history WHERE kind = 'recognition' AND item = 0 AND lr = 0.01 AND seed = 0")
    assert item["recognized"] is True and item["item_text"] == "Target 0." and item["text"] == "story"
    scores = {(row["measure"], row["task"]): (row["correct"], row["chance"]) for row in asked(store, "fact_scores")}
    assert scores == {("exact", "easy"): (1.0, None), ("exact", "hard"): (0.5, None), ("correct", "easy"): (0.5, 0.25)}
    (loss,) = asked(store, "loss_by_exposure")
    assert (loss["steps"], loss["loss"]) == (2, 1.5)
    (failure,) = asked(store, "failures")
    assert (failure["status"], failure["error"], failure["times"]) == ("failed", "no", 1)
    assert {row["status"]: row["hours"] for row in asked(store, "effort")} == {"complete": 1.0, "failed": None}


@pytest.mark.parametrize("label", ["n", "recognition", "mean", "kind", "study list", 'a "b'])
def test_a_label_may_be_called_anything(tmp_path: Path, label: str) -> None:
    store = Store(tmp_path)
    made = Made(store, items=2)
    common: dict[str, Any] = {"model": "tiny-s", "exposures": 1, "retention_steps": 3, "model_id": "m"}
    for lr in (0.1, 0.2):
        made.result("recognition", made.recognition(3, 0), {label: "own"}, lr=lr, **common)
    (row, _), (mean, _), (best,) = (asked(store, f"{name}") for name in ("recognition_by_condition", *OF_MEANS))
    assert (row["n"], row["recognition"], mean["mean"], best["mean"]) == (2, 1.0, 1.0, 1.0)
    for found in (row, mean, best, asked(store, "item_history")[0]):
        assert "own" in (found.get(label), found.get(f"{label}_label"))


OF_MEANS = ("retention_curve", "best_lr")


def test_they_are_listed_and_a_table_goes_before_a_view(query: Said, store: Store, tmp_path: Path) -> None:
    status, out, _ = query("--views")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(views_of(store))
    other = Store(tmp_path / "other")
    other.commit("failures", "a", pa.table({"x": [7]}))
    other.commit("stages", "a", pa.table({"stage_id": ["a"]}))
    assert "failures" not in views_of(other) and asked(other, "failures") == [{"x": 7}]
    assert query("--store", other.location, "effort")[2].startswith("memexp: the view effort cannot be made of the tab")
    assert query()[0] == 2


# narrow tables


def cells(out: str) -> list[list[str]]:
    lines = [line.replace("┃", "│") for line in out.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in line[1:-1].split("│")] for line in lines]


def test_of_a_star_only_what_differs_is_shown(query: Said) -> None:
    out = query("FROM recall WHERE item = 0 ORDER BY lr")[1]
    assert cells(out)[0] == ["condition_id", "stage_id", "corpus", "lr", "seed"]
    assert "the same in all rows: model = tiny-s, " in out and "exact = true" in out and "torch = " not in out
    assert re.search(r"rows: 6; left out: \d+ columns that are the same .*--all-columns", out)
    assert {"exact", "interference_lr"} <= set(cells(query("--all-columns", "FROM recall WHERE item = 0")[1])[0])


def test_what_is_asked_for_by_name_is_shown(query: Said) -> None:
    assert cells(query("SELECT *, exact FROM recall WHERE item = 0")[1])[0][-1] == "exact"
    assert cells(query("SELECT model, method FROM recall LIMIT 2")[1])[0] == ["model", "method"]
    assert cells(query("SELECT * FROM (SELECT 1 AS a FROM recall LIMIT 2)")[1])[0] == ["a"]
    shown = cells(query("recall_by_condition")[1])[0]
    assert shown == ["lr", "n", "seeds", "lists", "completion_rouge2", "exact", "sentence_rouge2"]


def test_one_row_is_a_list(query: Said) -> None:
    lines = query("FROM recall LIMIT 1")[1].splitlines()
    assert "model = tiny-s" in lines and lines[-1].startswith("NULL: ") and "retention_steps = 10" in lines


# formats

ODD = """SELECT * FROM (VALUES
    (1, NULL, ['a', NULL], TIMESTAMPTZ '2026-01-02 03:04:05+00', 'nan'::double, true, 'a "b", c'),
    (2, '', [], NULL, 0.5, NULL, 'new' || chr(10) || 'line' || chr(27) || '[31m' || chr(8238)))
    AS t(number, empty, list, moment, x, flag, words)"""


def test_csv_tells_null_from_an_empty_text(query: Said) -> None:
    out = query("--format", "csv", ODD)[1]
    assert out == (
        "number,empty,list,moment,x,flag,words\n"
        '1,,"[""a"", null]",2026-01-02T03:04:05+00:00,nan,true,"a ""b"", c"\n'
        '2,"",[],,0.5,,"new\nline\x1b[31m\u202e"\n'
    )
    assert csv_text(["a"], [(None,), (1,)]) == 'a\n""\n1\n'


def test_json_is_json(query: Said) -> None:
    first, second = json.loads(query("--format", "json", ODD)[1])
    assert first | {"words": ""} == {
        **{"number": 1, "empty": None, "list": ["a", None], "moment": "2026-01-02T03:04:05+00:00"},
        **{"x": None, "flag": True, "words": ""},
    }
    assert (second["empty"], second["words"]) == ("", "new\nline\x1b[31m\u202e")
    assert json_text(["a", "a"], [(1, 2)]) == '[\n{"a": 1, "a_1": 2}\n]\n' and json_text(["a"], []) == "[]\n"


def test_parquet_has_the_types(query: Said, tmp_path: Path) -> None:
    sql = ODD.replace("SELECT *", "SELECT *, sum(number) OVER () AS total, NULL AS nothing")
    assert query("--output", "odd.parquet", sql)[:2] == (0, "odd.parquet\n")
    table = pq.read_table("odd.parquet")
    assert table["moment"].to_pylist() == [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None]
    assert table["list"].to_pylist() == [["a", None], []] and table["empty"].to_pylist() == [None, ""]
    assert table["total"].type == pa.int64() and table["nothing"].null_count == 2
    assert os.listdir() == ["odd.parquet"]


def test_in_a_table_what_controls_a_terminal_is_shown(query: Said) -> None:
    out = query(ODD)[1]
    assert "line⟨U+001B⟩[31m⟨U+202E⟩" in out and "\x1b" not in out
    assert cells(out)[1][:6] == ["1", "", '["a", null]', "2026-01-02 03:04:05+00:00", "nan", "true"]
    assert cells(out)[2][1:3] == ['""', "[]"]


def test_a_terminal_gets_no_parquet_and_no_control_characters(query: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, out, err = query("--format", "parquet", "recall")
    assert (status, out) == (2, "") and "add --output FILE" in err
    assert "\x1b" not in query("--csv", ODD)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "a.txt"], "ends in .csv, .json or .parquet"),
        (["--output", "none/a.csv"], "cannot write none/a.csv: no such file or directory"),
        (["--output", "{store}/recall/a.parquet"], "lies in the store"),
        (["--output", "a.csv", "--format", "table"], "ends in .csv"),
    ],
)
def test_what_cannot_be_written_is_a_line(query: Said, store: Store, options: list[str], said: str) -> None:
    status, out, err = query(*(option.replace("{store}", store.location) for option in options), "recall")
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1 and os.listdir() == []


def test_a_reader_that_leaves_gets_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    end, begin = os.pipe()
    os.close(end)
    with os.fdopen(begin, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        patch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as left, spoken(goes_on=False):
            binary(b"PAR1")
    assert left.value.code == 141


# older rows


def test_rows_of_an_edited_sweep_are_noted(query: Said, tmp_path: Path) -> None:
    store = Store(tmp_path / "edited")
    made = Made(store, items=2)
    names = [made.result("recognition", made.recognition(1, 0), {}, model="tiny-s", lr=lr) for lr in (0.1, 0.2, 0.3)]
    made.sweep("mine")
    where = ("--store", store.location)
    assert query(*where, "SELECT count(*) FROM recognition")[2] == ""
    rows = [row | {"sweep": "mine", "started": WHEN + timedelta(days=1)} for row in _listed(store, names[:1])]
    store.commit("sweeps", "mine-1", pa.Table.from_pylist(rows))
    status, _, err = query(*where, "recognition_by_condition")
    assert status == 0 and err.startswith("note: 2 of the 3 results in recognition belong to no sweep as it was last")
    assert query(*where, "FROM sweeps")[2] == "" == query(*where, "--sweep", "mine", "recognition")[2]


def _listed(store: Store, names: list[str]) -> list[dict[str, Any]]:
    names_, rows = answer(store, "SELECT * EXCLUDE (sweep, started) FROM sweeps")
    listed = [dict(zip(names_, row, strict=True)) for row in rows]
    return [row for row in listed if row["name"] in names]


# errors


@pytest.mark.parametrize(
    ("sql", "begin"),
    [
        ("SELECT modle FROM recall", "(columns of recall: model, "),
        ("SELECT completion_rogue2 FROM recall", "(columns of recall: completion_rouge2, completion_rouge"),
        ("SELECT recal FROM recall_by_condition", "(columns of recall_by_condition: model, "),
        ("SELECT * EXCLUDE (sede) FROM recall", "(columns of recall: seed, "),
    ],
)
def test_errors_name_the_columns_there_are(query: Said, sql: str, begin: str) -> None:
    status, out, err = query(sql)
    assert (status, out) == (2, "") and begin in err and err.count("\n") == 1


def test_errors_name_labels_too_however_many_columns_there_are(query: Said) -> None:
    """Those of the table that is asked: they alone are in no documentation."""
    assert query("SELECT modle FROM recall")[2].endswith(" more; labels: counterbalanced, text)\n")
    assert "labels" not in query("SELECT modle FROM qa")[2] and "labels" not in query("SELECT kid FROM stages")[2]


def test_errors_name_the_tables_and_views_there_are(query: Said) -> None:
    err = query("FROM recal")[2]
    assert "(tables: recall, choice, " in err and "(views: " in err
    assert "(views: recognition_by_condition, " in query("FROM recognition_by_conditions")[2]
