"""What the meter counts is what a process takes: tried on one that trains 38 million numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from core.process_memory import Found
from core.small import WIDE, language_model
from transformers import AutoModelForCausalLM

from memexp.core.load import random_config

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux"),
]
NEAR = 0.03
"""Share of what a process takes by which the meter may be off: .4 to 2 % was seen."""
AT_ONCE = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has glibc give back at once what is freed, but for small things."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """By meter and phase: what it counts, and what the process takes."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = language_model("llama").tokenizer
    AutoModelForCausalLM.from_config(random_config("wide", WIDE, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = subprocess.run(
        [sys.executable, "-m", "core.process_memory", folder],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **AT_ONCE},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    by_meter: dict[str, Found] = json.loads(said)
    return by_meter


@pytest.mark.parametrize("phase", ["load", "training", "fork", "restore"])
def test_the_meter_counts_what_a_process_takes(phase: str, found: dict[str, Found]) -> None:
    counted, taken = found["Meter"][phase]
    assert counted == pytest.approx(taken, rel=NEAR)


@pytest.mark.parametrize("phase", ["training", "fork"])
def test_a_meter_that_misses_the_moments_would_be_seen(phase: str, found: dict[str, Found]) -> None:
    counted, taken = found["Forgetful"][phase]
    assert counted < (1 - 3 * NEAR) * taken
