"""The published way and memexp on a real pretrained model, SmolLM2-135M, which `make real` makes.

found = measured(bench)

The careful way is left out: its batches of padded texts move a text's NLL by 1.4e-4 nats there, more than is let pass.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

from benchmarks.child import Failed
from benchmarks.equality import compare
from benchmarks.material import Material
from benchmarks.smollm2 import FOLDER

if TYPE_CHECKING:
    from benchmarks.parts import Bench

__all__ = ["PARTS", "material_of", "measured"]

SENTENCES = 48
"""Of each list: the published way takes seconds for each."""
LR = 1e-4
PARTS = ("study", "recognition", "recall")


def material_of(bench: Bench) -> Material:
    """The first sentences of the benchmark's lists, and the real model, which is probed as it is."""
    from memexp.core.data import order

    if not (FOLDER / "config.json").exists():
        raise Failed(f"part real needs {FOLDER}: `make real` makes it")
    material = Material(bench.fresh())
    for name in ("targets", "foils"):
        lines = bench.material.file(name).read_text(encoding="utf-8").splitlines(keepends=True)[:SENTENCES]
        material.file(name).write_text("".join(lines), encoding="utf-8")
    count = len(material.texts("targets"))
    material.file("order").write_text(json.dumps([order(count, 0, "study", 1)]))
    material.file("lr").write_text(json.dumps(LR))
    for folder in (material.model, material.trained):
        folder.symlink_to(FOLDER, target_is_directory=True)
    return material


def measured(bench: Bench) -> dict[str, Any]:
    """CPU seconds of each way and part, alternately, after all have shown that their results are equal."""
    there = dataclasses.replace(bench, material=material_of(bench), count=bench.count + 1)
    ways = ("published", "memexp")
    series: dict[str, list[float]] = {f"{part}: {way}": [] for part in PARTS for way in ways}
    equality: dict[str, Any] = {}
    for part in PARTS:
        for _ in range(bench.pairs):
            round_ = {way: there.measure(way, part) for way in ways}
            equality[part] = compare(part, {way: found["result"] for way, found in round_.items()})
            for way, found in round_.items():
                series[f"{part}: {way}"].append(found["cpu"])
    shutil.rmtree(there.material.folder)
    return {"equality": equality, "unit": "CPU seconds, without importing and loading", "series": series}
