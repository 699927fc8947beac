"""The papers' figures from a store: one's own means, and the published ones beside those of the same model alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from made_results import Made, fill

from memexp.figures.figure import Figure
from memexp.figures.gathered import gathered
from memexp.figures.published import RECOGNITION, RETENTION, experiments_figure, retention_beside
from memexp.store import Store

SCRIPT = Path(__file__).parents[2] / "sweeps" / "figures.py"
MODELS = ("gpt2", "tiny-s", "EleutherAI/gpt-j-6b")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Experiments 1 and 3 at two learning rates, the larger the better one; retention of one model."""
    made = Made(Store(tmp_path_factory.mktemp("published") / "results"))
    for model in MODELS:
        for experiment in (1, 3):
            for lr, strength in ((1e-4, 0.1), (1e-3, 1.0 + 0.1 * experiment)):
                settings: dict[str, Any] = {"model": model, "lr": lr, "exposures": 1, "seed": 0}
                made.result("recognition", made.recognition(strength, 0), {"experiment": experiment}, **settings)
        for steps in (1, 100, 1000) if model == MODELS[2] else ():
            settings = {"model": model, "lr": 1e-3, "exposures": 3, "seed": 0, "retention_steps": steps}
            made.result("recognition", made.recognition(1.0, 0), {"experiment": 1}, **settings)
    made.sweep("published")
    return made


def rows_of(figure: Figure | None) -> list[dict[str, Any]]:
    assert figure is not None
    for panel in figure.panels:
        for chart in panel.charts.values():
            chart.to_dict()  # raises where Vega-Lite has no such chart
    return [row for panel in figure.panels for row in panel.rows]


def test_the_best_of_the_grid_stands_beside_what_was_published_of_its_model(made: Made) -> None:
    with gathered(made.store) as found:
        measure = found.measures("recognition")["recognition"]
        rows = rows_of(experiments_figure(found, measure))
        means = {
            (one.settings["model"], one.settings["experiment"], one.settings["lr"]): one.mean("recognition")
            for one in found.results("recognition")
            if one.settings["exposures"] == 1
        }
    own = {(row["model"], row["experiment"]): row["_y"] for row in rows if not row["_published"]}
    assert own == {(model, number): pytest.approx(means[model, number, 1e-3]) for model in MODELS for number in (1, 3)}
    assert means["gpt2", 1, 1e-3] != means["gpt2", 1, 1e-4]
    crosses: dict[str, list[float]] = {}
    for row in rows:
        if row["_published"]:
            crosses.setdefault(row["model"], []).append(row["_y"])
    assert crosses == {model: list(RECOGNITION[model]) for model in (MODELS[0], MODELS[2])}


def test_published_retention_is_beside_the_same_experiment_of_the_same_model(made: Made, tmp_path: Path) -> None:
    with gathered(made.store) as found:
        rows = rows_of(retention_beside(found, found.measures("recognition")["recognition"]))
    crosses = {row["_t"]: row["_y"] for row in rows if row.get("_published")}
    assert crosses == RETENTION[1]
    other = Made(Store(tmp_path / "results"))
    for steps in (1, 100):
        settings: dict[str, Any] = {"model": "tiny-s", "exposures": 3, "seed": 0, "retention_steps": steps}
        other.result("recognition", other.recognition(1.0, 0), {"experiment": 1}, **settings)
    with gathered(other.store) as found:
        assert not [
            row
            for row in rows_of(retention_beside(found, found.measures("recognition")["recognition"]))
            if row.get("_published")
        ]


def script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """What the script returns."""
    spec = importlib.util.spec_from_file_location("figures_of_papers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, arguments)])
    return int(module.main())


def test_the_script_draws_what_the_store_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "results")
    fill(store, lambda name: name in ("forgetting", "ablation", "facts"))
    assert script(monkeypatch, "--store", store.location, "--out", tmp_path / "figures", "--format", "svg") == 0
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == ["zhang-ablation-ablation.svg", "zhang-forgetting-qa.svg", "zhang-tests-choice.svg",
                     "zhang-tests-qa.svg"]  # fmt: skip
    assert all((tmp_path / "figures" / name).read_text().startswith("<svg") for name in files)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and all(".svg: " in line for line in said)
    empty = Store(tmp_path / "empty")
    assert script(monkeypatch, "--store", empty.location, "--out", tmp_path / "none") == 1
    assert "nothing to draw" in capsys.readouterr().out
