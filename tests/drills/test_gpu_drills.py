"""The parts of the script for one GPU that start processes of their own, tried without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks import gpu

pytestmark = pytest.mark.drill


def test_processes_that_break_and_processes_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "GPU.json"
    assert gpu.main(["--device", "cpu", "--small", "--parts", "core,processes,faults", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["core"]["imported without ray"]
    assert found["processes"]["2 at a time, steps a second"] > 0
    assert found["faults"]["out of memory"]["stages"] == {"complete": 3, "halved": 1}
    assert found["faults"]["assertion"]["stages"] == {"complete": 2, "failed": 1}
