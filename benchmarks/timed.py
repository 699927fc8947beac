"""One way of one part in a process of its own, as `python -m benchmarks` starts it.

    python -m benchmarks.timed published recall FOLDER OUT.json

FOLDER is what `benchmarks.material.make` wrote. Importing and loading are not timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks.material import Material
from benchmarks.ways import timed, way_of


def main() -> None:
    """Time it and write {"cpu": seconds, "wall": seconds, "result": ...}."""
    name, part, folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    material = Material(Path(folder))
    way = way_of(name, material.model if part == "study" else material.trained)
    cpu, wall, result = timed(way, part, material)
    Path(out).write_text(json.dumps({"cpu": cpu, "wall": wall, "result": result}))


if __name__ == "__main__":
    main()
