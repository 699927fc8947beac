"""What trials take at their peak is compared with what machines have, before anything is started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from memexp.errors import ClusterError
from memexp.plan import room
from memexp.plan.room import Peak, Room, here, refuse
from memexp.spec import Resources

GB = 10**9
ONE, FOUR = Resources(gpus=1), Resources(workers=4, gpus=1)
H100 = Room(host=400 * GB, gpus=(80 * GB,) * 4)
L40S = Room(host=64 * GB, gpus=(48 * GB,))

FITS = [
    (Peak("8b", FOUR, 38 * GB, 5 * GB), [H100]),
    (Peak("13b", FOUR, 58 * GB, 5 * GB), [L40S, H100]),
    (Peak("13b", FOUR, 85 * GB, 5 * GB), [H100]),  # an estimate, a tenth less of which would do
    (Peak("tiny", Resources(), GB), [Room(2 * GB)]),
    (Peak("half", Resources(gpus=0.5), 23 * GB), [L40S]),
    (Peak("many", Resources(workers=40, spread=True), 2 * GB), [Room(8 * GB)]),
    (Peak("unknown", ONE, 500 * GB, GB), [Room(64 * GB)]),
    (Peak("nowhere", ONE, 500 * GB), []),
]
MISFITS = [
    (
        Peak("13b (full)", FOUR, 95 * GB, 5 * GB),
        [L40S, H100],
        "13b (full): takes 95.0 GB on the GPU of each worker at its peak, and a GPU has 80.0 GB; ",
    ),
    (Peak("half", Resources(gpus=0.5), 30 * GB), [L40S], "takes 30.0 GB .*, and 0.5 of a GPU are 24.0 GB; "),
    (Peak("host", FOUR, 30 * GB, 150 * GB), [H100], "takes 600.0 GB of memory with its 4 workers at its peak, and the"),
    (Peak("smollm2", Resources(), 6 * GB), [Room(4 * GB)], "6.0 GB of memory with its worker .* machine has 4.0 GB; "),
    (Peak("by 4", Resources(workers=4), 2 * GB), [Room(4 * GB)], "takes 8.0 GB of memory with its 4 workers"),
    (Peak("laned", Resources(gpus=1, lanes=8), 90 * GB), [H100], "; give fewer lanes, or one: `memexp plan"),
]


@pytest.mark.parametrize(("peak", "rooms"), FITS, ids=lambda given: getattr(given, "what", ""))
def test_what_fits_somewhere_is_not_refused(peak: Peak, rooms: list[Room]) -> None:
    refuse([peak], rooms)


@pytest.mark.parametrize(("peak", "rooms", "said"), MISFITS, ids=lambda given: getattr(given, "what", ""))
def test_what_fits_nowhere_is_refused_in_a_line(peak: Peak, rooms: list[Room], said: str) -> None:
    with pytest.raises(ClusterError, match=said.replace("(", r"\(").replace(")", r"\)")) as refused:
        refuse([Peak("small", peak.resources, GB), peak], rooms)
    assert "\n" not in str(refused.value) and "`memexp plan --memory`" in str(refused.value)


def test_what_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GB))
    limits = [tmp_path / "max", tmp_path / "limit"]
    monkeypatch.setattr(room, "LIMITS", limits)

    def smi(said: str | Exception) -> Any:
        def run(*_: Any, **__: Any) -> Any:
            if isinstance(said, Exception):
                raise said
            return SimpleNamespace(stdout=said)

        return run

    monkeypatch.setattr(subprocess, "run", smi(FileNotFoundError("nvidia-smi")))
    assert here() == Room(64 * GB)
    limits[0].write_text("max\n")
    limits[1].write_text(f"{16 * GB}\n")
    monkeypatch.setattr(subprocess, "run", smi("46068\n81559\n"))
    assert here() == Room(16 * GB, (46068 * 2**20, 81559 * 2**20))
    for nothing in ("[N/A]\n", subprocess.CalledProcessError(9, "nvidia-smi")):
        monkeypatch.setattr(subprocess, "run", smi(nothing))
        assert here() == Room(16 * GB)
