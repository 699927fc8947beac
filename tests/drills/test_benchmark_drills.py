"""The part of the benchmark that executes sweeps in processes of its own (the others: core/test_benchmarks.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks.material import make
from benchmarks.parts import PARTS, Bench
from benchmarks.retained import stops

pytestmark = pytest.mark.drill
SMALL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128}


def test_the_long_trajectory_has_twelve_probes_and_is_equal_with_them(tmp_path: Path) -> None:
    assert stops("twelve", 1000) == [1, 2, 4, 7, 12, 23, 43, 81, 152, 285, 534, 1000]
    assert stops("one", 1000) == [1000]
    material = make(tmp_path / "material", sentences=20, model=SMALL, vocabulary=600)
    found = PARTS["retention"](Bench(material, tmp_path, pairs=1, grid_pairs=1))  # 20 steps
    assert found["equality"] == {"items after the last step, equal to the last bit": 4}
    assert [item["what"] for item in found["findings"]] == [
        "twelve probes / one probe",
        "twelve probes and ten snapshots / one probe",
    ]
