"""The script for one GPU, tried without one: what does not hold is seen (that it runs: bench/test_gpu_parts.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks import gpu, gpu_checks, gpu_memory


def test_numbers_that_are_others_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gpu_checks.update
    monkeypatch.setattr(
        gpu_checks, "update", lambda lm, optimizer, batch, lr, clip: plain(lm, optimizer, batch, lr * 1.2, clip)
    )
    truth = gpu_checks.outcome(
        gpu_checks.made("tiny-gpt2", gpu_checks.Full(), "float32", torch.device("cpu")), "tiny-gpt2"
    )
    monkeypatch.undo()
    right = gpu_checks.outcome(
        gpu_checks.made("tiny-gpt2", gpu_checks.Full(), "float32", torch.device("cpu")), "tiny-gpt2"
    )
    assert right.difference(truth) > gpu_checks.TOLERANCE["float32"]


def test_memory_that_is_other_than_counted_or_planned_fails() -> None:
    phases = {"training": 100, "restoring": 80, "scoring": 60, "recall": 60}
    right = {"allocated": phases, "counted": {**phases, "training": 95}, "planned at the peak": 110}
    assert gpu_memory._too_far(right) is None
    assert "planned are 120 bytes" in (gpu_memory._too_far({**right, "planned at the peak": 120}) or "")
    assert "counted are 80 bytes" in (gpu_memory._too_far({**right, "counted": {**phases, "training": 70}}) or "")
    assert "restoring takes 101" in (gpu_memory._too_far({**right, "allocated": {**phases, "restoring": 101}}) or "")


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device, small: bool) -> dict[str, object]:
        raise ArithmeticError("0.5 nats from the CPU")

    monkeypatch.setattr(gpu, "PARTS", {**gpu.PARTS, "numbers": broken})
    out = tmp_path / "GPU.json"
    assert gpu.main(["--device", "cpu", "--small", "--parts", "numbers,waits", "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert found["numbers"]["failed"] == "ArithmeticError: 0.5 nats from the CPU" and "failed" not in found["waits"]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--parts", "numbers"]) == 2 and "sees no CUDA device" in capsys.readouterr().err
    assert gpu.main(["--parts", "nombers"]) == 2 and "there are core, card" in capsys.readouterr().err
