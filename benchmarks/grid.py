"""The grid of 3 exposures × 3 learning rates from start to end, as the published scripts and as memexp does it.

    cost, cells = published(material, folder)      # 27 processes
    cost, cells = ours(material, folder)           # one plain process, a store

Everything counts: starting, importing, loading, saving, planning, storing.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path

from benchmarks.child import execute, python
from benchmarks.equality import largest
from benchmarks.executed import EXPOSURES, LRS
from benchmarks.material import Material
from memexp.store import Store

__all__ = ["Cells", "has_bf16", "ours", "published", "worst"]

Cells = dict[str, dict[str, float]]
"""For every learning rate and number of exposures, the means that a paper would show."""

SCRIPTS = Path("benchmarks/published")


def published(material: Material, folder: Path) -> tuple[float, Cells]:
    """CPU seconds of the published scripts over the whole grid, and what they found."""
    cpu, cells = 0.0, Cells()
    targets, foils = material.file("targets"), material.file("foils")
    for lr, exposures in itertools.product(LRS, EXPOSURES):
        model = folder / f"{lr}-{exposures}"
        study = ["--model", material.model, "--data", targets, "--order", material.file("order")]
        study += ["--lr", lr, "--epochs", exposures, "--out", model]
        recognition = ["--model", model, "--targets", targets, "--foils", foils, "--out", model / "recognition.out"]
        recall = ["--model", model, "--data", targets, "--out", model / "recall.out"]
        for script, arguments in (("study", study), ("recognition", recognition), ("recall", recall)):
            cpu += execute(python(SCRIPTS / f"{script}.py", *arguments)).cpu
        told = json.loads((model / "recognition.out").read_text())
        means = json.loads((model / "recall.out").read_text())["means"]
        cells[_cell(lr, exposures)] = {"recognition": told["told_apart"], **means}
        (model / "model.safetensors").unlink()  # nine of them are much for a small disk
    return cpu, cells


def ours(material: Material, folder: Path, sweep: str = "grid") -> tuple[float, Cells]:
    """CPU seconds of memexp over the whole grid in one plain process, and what it found."""
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}  # nothing is remembered from an earlier time
    command = python("-m", "benchmarks.executed", "plain", sweep, material.folder, folder / "store")
    cost = execute(command, cache)
    return cost.cpu, _cells(Store(folder / "store"))


def _cells(store: Store) -> Cells:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kind in ("recognition", "recall"):
        table = store.scan(kind)
        for row in table.to_pylist() if table is not None else []:
            cell = values[_cell(row["lr"], row["exposures"])]
            if kind == "recognition":
                cell[kind].append(row["target_nll"] < row["foil_nll"])
            else:
                for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
                    cell[name].append(row[f"sentence_{name}"])
    return {name: {what: sum(all_) / len(all_) for what, all_ in cell.items()} for name, cell in values.items()}


def _cell(lr: float, exposures: int) -> str:
    return f"lr {lr:g}, {exposures} exposures"


def worst(one: Cells, other: Cells) -> float:
    """Largest difference of any mean of any cell; infinite where cells are missing."""
    if one.keys() != other.keys():
        return float("inf")
    return largest(abs(one[cell][name] - other[cell][name]) for cell in one for name in one[cell])


def has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself (AVX512-BF16, AMX or Arm's bf16), as far as Linux tells."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))
