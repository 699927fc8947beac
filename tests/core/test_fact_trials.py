"""The sweeps over facts on a small world, without Ray: every test is asked, every forgetting layer answered."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from memexp import Store, Sweep
from memexp.loading import load

SWEEPS = Path(__file__).parents[2] / "sweeps"
SMALL = ("--models", "tiny-s", "--entities", "4", "--exposures", "1", "--seeds", "0", "--methods", "lora")


def executed(name: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sweep, str]:
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    sweep, page = load(str(SWEEPS / f"{name}.py"), SMALL), io.StringIO()
    assert sweep.run(store, local=True, console=Console(file=page, width=120)), page.getvalue()
    return sweep, page.getvalue()


def test_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, page = executed("facts", tmp_path, monkeypatch)
    store = Store(tmp_path)
    found = {kind: store.scan(kind) for kind in ("qa", "choice", "ratios")}
    rows = {kind: table.num_rows for kind, table in found.items() if table is not None}
    cells = len(sweep.conditions)
    assert cells == 2 * 2  # two kinds of text, before and after
    assert rows["choice"] == cells * (4 * 12 + 4 * 8) and rows["ratios"] == cells * 12 and rows["qa"] > cells * 60
    assert "Eval_2hop_reasoning_raw" in page and "qa: share of answers that match exactly" in page


def test_ablation_and_forgetting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, _ = executed("layer_ablation", tmp_path, monkeypatch)
    ablation = Store(tmp_path).scan("ablation")
    assert ablation is not None and ablation.num_rows == len(sweep.conditions) * 9 * (12 + 48)
    executed("active_forgetting", tmp_path, monkeypatch)
    asked = Store(tmp_path).scan("qa")
    assert asked is not None
    sides = {
        (row["forget_side"], row["forget_layer"]) for row in asked.select(["forget_side", "forget_layer"]).to_pylist()
    }
    assert sides == {
        (None, None),
        ("none", None),
        *(("upper", k) for k in range(4)),
        *(("lower", k) for k in range(1, 5)),
    }
