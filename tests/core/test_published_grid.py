"""The published grid: its models are those of the papers, and the figures on its page are what the code plans today."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks.packing import forest_of, spans
from benchmarks.published_grid import WRITTEN, conditions, made_lists, plans, short, table, total
from benchmarks.published_models import CONFIGS, SIZES

ROOT = Path(__file__).resolve().parents[2]
TRIED = ["facebook/opt-13b"]
"""The one on most devices: all of them would take minutes."""
PAGE = (ROOT / "docs" / "published_grid.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_has_the_parameters_that_are_published(name: str) -> None:
    values = dict(CONFIGS[name])
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    assert sum(one.numel() for one in lm.parameters()) / 1e6 == pytest.approx(SIZES[name], abs=0.06)


def test_there_are_nineteen_as_in_the_sweep() -> None:
    script = (ROOT / "sweeps" / "recognition_recall.py").read_text(encoding="utf-8")
    assert len(CONFIGS) == len(SIZES) == 19 and all(name.rpartition("-")[2] in script for name in CONFIGS)


def test_what_is_written_is_what_is_planned_today(tmp_path: Path) -> None:
    grid = conditions(made_lists(tmp_path / "lists"), TRIED)
    assert len(grid) == len(TRIED) * 6 * 4 * 4 * 9
    rows = plans(grid, "a100", tmp_path / "store")
    written = WRITTEN.read_text(encoding="utf-8").splitlines()
    again = (
        f"`python -m benchmarks.published_grid` writes {WRITTEN.name} again, and prints docs/published_grid.md's table"
    )
    for line in table(rows)[2:-1]:
        assert line in written, again
    for line in short(rows)[2:-1]:
        assert line in PAGE.splitlines(), again
    off = {name: 1.03 * rows[0][name] for name in ("device_hours", "price")}  # three per cent would be seen
    assert table([{**rows[0], **off}])[2] not in written and short([{**rows[0], **off}])[2] not in PAGE


def test_the_totals_are_those_of_nineteen_models() -> None:
    lines = [line for line in PAGE.splitlines() if any(line.startswith(f"| {name} |") for name in CONFIGS)]
    [last] = [line for line in PAGE.splitlines() if line.startswith("| all 19 |")]
    assert len(lines) == 19
    for column in (4, 5, 6, 7):
        parts = [float(line.split("|")[column].replace(",", "")) for line in lines]
        [all_] = re.findall(r"^[\d,.]+", last.split("|")[column].strip())
        assert sum(parts) == pytest.approx(float(all_.replace(",", "")), abs=0.5 * len(parts))


def test_a_total_is_a_sum() -> None:
    row = {name: 1.0 for name in ("device_hours", "device_hours_unshared", "price", "price_unshared")}
    row |= {name: [1.0, 2.0] for name in ("device_hours_range", "device_hours_unshared_range", "price_range")}
    assert total([row, row]) == {name: [2.0, 4.0] if name.endswith("range") else 2.0 for name in row}


def test_devices_are_busy_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a simulation with the smallest models and those on two and four devices."""
    forest = forest_of(["gpt2", "facebook/opt-350m", "gpt2-xl", "bigscience/bloom-7b1", "facebook/opt-13b"])
    for devices in (8, 64):
        found = spans(forest, devices)
        assert found.bound <= found.span <= 1.10 * found.bound
    # Trials in any order, and as many trees in each, would not do.
    monkeypatch.setattr("memexp.plan.packing.SHARE", 1)
    monkeypatch.setattr("memexp.plan.packing.FINEST", 1)
    assert spans(forest, 64).span > 1.10 * found.bound
