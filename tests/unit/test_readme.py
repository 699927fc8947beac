"""README and docs: their sweeps are what the text says, their commands and files exist, their queries answer."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pandas
import pyarrow as pa
import pytest
from pages import DOCS, PAGES, ROOT, blocks

from memexp import Probe, Store, Sweep, TextFile
from memexp.probes.recall import SCHEMA as RECALL
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.records import MADE_WITH, SETTINGS, rows_for
from memexp.sources import Sources


def python(page: str) -> list[str]:
    """The Python blocks of a page of docs."""
    return [block.text for block in blocks(DOCS / page) if block.language == "python"]


TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
SWEEP, *_ = python("sweeps.md")
PROBE, *_ = python("howto/own_probe.md")
[SEARCH] = python("howto/search.md")
[FACTS] = python("howto/facts.md")
_, QUERIES = python("results.md")
STATISTICS, *_ = python("statistics.md")


def test_its_sweep_is_one() -> None:
    module: dict[str, object] = {"__name__": "sweep"}
    exec(SWEEP, module)
    sweep = module["sweep"]
    assert isinstance(sweep, Sweep)
    assert len(sweep.conditions) == 2 * 4 * 3 * 3


def test_its_probe_is_one(targets: TextFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readme_probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    probe = importlib.import_module("readme_probe").Surprise(corpus=targets)
    assert isinstance(probe, Probe)
    assert probe.schema().names == ["item", "highest"]


def test_its_search_is_one() -> None:
    module: dict[str, object] = {"__name__": "sweep"}
    exec(SEARCH, module)
    sweep = module["sweep"]
    assert isinstance(sweep, Sweep)
    [search] = sweep.prepare(Sources())
    assert search.search.trials == 8


def test_its_sweep_over_facts_is_one() -> None:
    module: dict[str, object] = {"__name__": "sweep"}
    exec(FACTS, module)
    sweep = module["sweep"]
    assert isinstance(sweep, Sweep)
    assert {ask.kind for ask in sweep.grow().asks} == {"qa", "choice", "ratios", "ablation"}


def test_its_queries_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, schema in (("recognition", RECOGNITION), ("recall", RECALL)):
        for name, labels in (("a", {"list": "mine"}), ("b", {"list": "mine", "experiment": 1})):
            items = pa.Table.from_pylist([{"item": 0, "target_nll": 1.0, "foil_nll": 2.0}], schema=schema)
            settings = {field.name: None for field in SETTINGS} | {"model": "gpt2"}
            made_with = {field.name: None for field in MADE_WITH}
            Store("results").commit(kind, name, rows_for(items, settings, labels, made_with))
    module: dict[str, object] = {}
    exec(QUERIES, module)
    assert "1.0" in capsys.readouterr().out
    scan = re.search(r"^polars\..*$", QUERIES, re.MULTILINE)
    assert scan is not None
    found = eval(scan[0], module).collect()
    assert found.height == 2 and {"list", "experiment"} <= set(found.columns)
    recall = module["recall"]
    assert isinstance(recall, pandas.DataFrame)
    assert {"list", "experiment"} <= set(recall.columns)
    for line in STATISTICS.splitlines():
        exec(f"found = {line}" if line.startswith("stats.") else line, module)
        table = module.get("found")
        assert table is None or (isinstance(table, pa.Table) and table["n"].to_pylist() == [2])


def test_what_it_names_exists() -> None:
    for path in re.findall(r"(?:sweeps|tests|benchmarks|memexp)/[\w/]+\.(?:py|md)", TEXT):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make (\w+)", TEXT))
    assert targets > {"test", "help", "real", "docs", "bench"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_commands_it_lists_are_the_commands_there_are() -> None:
    from memexp.cli import _parser

    listed = set(re.findall(r"\| `memexp (\w+)", (DOCS / "running.md").read_text(encoding="utf-8")))
    actions = [action for action in _parser()._actions if action.dest == "command" or action.choices]
    assert listed == set(next(action.choices for action in actions if action.choices))  # type: ignore[arg-type]
