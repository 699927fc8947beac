"""The parts of the script for one GPU, tried without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks import gpu

PARTS = "card,numbers,waits,memory,nccl"


def test_the_parts_run_and_are_written_down_beside_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "GPU.json"
    out.write_text('{"speed": {"kept": true}}')
    assert gpu.main(["--device", "cpu", "--small", "--parts", PARTS, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found) == ["speed", *PARTS.split(",")] and found["speed"] == {"kept": True}
    assert found["numbers"]["tiny-gpt2 full float32"]["apart"] == 0
    assert 0 < found["numbers"]["tiny-gpt2 full bfloat16"]["apart"] < 1e-2
    adapter = found["memory"]["tiny-llama lora bfloat16"]
    counted, planned = max(adapter["counted"].values()), adapter["planned at the peak"]
    assert 0.9 < counted / planned < 1.1 and planned == sum(adapter["planned"].values())
    assert found["nccl"]["apart"] < 1e-5 and found["nccl"]["made"]["versions"]["torch"]


def test_processes_that_break_and_processes_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "GPU.json"
    assert gpu.main(["--device", "cpu", "--small", "--parts", "core,processes,faults", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["core"]["imported without ray"]
    assert found["processes"]["2 at a time, steps a second"] > 0
    assert found["faults"]["out of memory"]["stages"] == {"complete": 3, "halved": 1}
    assert found["faults"]["assertion"]["stages"] == {"complete": 2, "failed": 1}
