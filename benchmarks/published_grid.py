"""What the whole published grid of 19 models takes of devices, time and money, shared and unshared: by `memexp plan`.

    python -m benchmarks.published_grid                        # some minutes; writes PUBLISHED_GRID.md
    python -m benchmarks.published_grid --data llm-memory      # with the published lists instead of some like them

The conditions are those of sweeps/recognition_recall.py, the numbers those that the command would print for it: first
how many workers it takes on a device of that memory, then hours and money with these. Nothing is downloaded: models are
their configurations (benchmarks/published_models.py), lists have the published counts and mean lengths.
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock

from benchmarks.published_models import CONFIGS, planned
from memexp import Condition, Model, Resources, Sweep
from memexp.driver.outlook import Purchase
from memexp.plan import lengths
from memexp.plan.devices import DEVICES

__all__ = ["PRICES", "WRITTEN", "Row", "conditions", "made_lists", "page", "plans", "short", "table", "total"]

Row = Mapping[str, Any]
"""What `memexp plan --json` says of a model."""
Dtype = Literal["float32", "tf32", "bfloat16"]

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "sweeps" / "recognition_recall.py"
WRITTEN = Path(__file__).parent / "PUBLISHED_GRID.md"
PRICES = {"a100": 2.0, "h100": 3.0}
"""Dollars for an hour of one device: assumed, about what clouds ask in 2026. Money goes with it."""
TEXTS = {1: (600, 168), 2: (600, 168), 3: (562, 168), 4: (600, 206), 5: (600, 206), 6: (600, 168)}
"""Texts of the published lists, and their mean length in bytes, by experiment."""
SAME = {2: 1, 5: 4}
"""Experiments that study the list of another one."""
HEAD = """\
# The published grid, planned

Written by `python -m benchmarks.published_grid`: what `memexp plan` says of the 19 models of Orhan 2023 (arXiv
2303.17557), each finetuned on six experiments in four replications, at three learning rates and three batch sizes (1,
4, 16), measured after 0, 1, 2 and 3 exposures by recognition and recall: 864 conditions a model. Nothing of it was
timed, and no device was asked: these are estimates, of configurations alone.

- Devices: the smallest power of two of them on which the model fits, all of it sharded over them; GB of each at the
  peak.
- Hours are of one device, in brackets from the least to the most that the plan gives. A step takes the time of its
  operations (at 15, 35 or 50 % of the data sheet's best), plus that of moving weights, gradients and AdamW's moments
  (at 50, 75 or 90 % of the best bandwidth), or that of the host, where it is longer. Loading and starting are not in
  it.
- Unshared: each condition is trained from the pretrained model and measured by itself, as the published scripts do,
  but with memexp's batches (the scripts pad every text to 128 tokens, about three times what there is, and measure
  one text at a time). Shared: exposures 1, 2 and 3 are stops of one trajectory, and experiments with the same study
  list train once.
- Money is hours times the assumed price in the heading: put your own, `memexp plan --price`."""


def made_lists(folder: Path) -> Path:
    """Write lists with the published counts, mean lengths and names into `folder`, and return it."""
    for experiment, (count, length) in TEXTS.items():
        for replication in range(4):
            there = folder / f"expt{experiment}"
            there.mkdir(parents=True, exist_ok=True)
            for side, of in (("seen", SAME.get(experiment, experiment)), ("unseen", experiment)):
                texts = (f"{side} {of} {replication} {index}".ljust(length, "x") for index in range(count))
                lines = "".join(f'{{"sent": "{text}"}}\n' for text in texts)
                (there / f"{side}_data_{replication}.json").write_text(lines)
    return folder


def conditions(data: Path, models: Sequence[str]) -> list[Condition]:
    """Those of the published grid for `models`, as sweeps/recognition_recall.py has them."""
    given, sys.argv = sys.argv, [str(SCRIPT), "--data", str(data), "--models", *models]
    try:
        sweep = runpy.run_path(str(SCRIPT))["sweep"]
    finally:
        sys.argv = given
    architectures = {name: planned(name) for name in models}
    return [dataclasses.replace(one, model=architectures[one.model.name]) for one in cast(Sweep, sweep).conditions]


def plans(grid: Sequence[Condition], device: str, store: Path, dtype: Dtype = "float32") -> list[Row]:
    """Of each model what a plan says, on as many devices as it takes, all of them full.

    The tokenizer that stands in for theirs does not tell how long their tokens are; bytes do, as of any model whose
    tokenizer is not at hand.
    """
    with mock.patch.object(lengths, "bytes_per_token", lambda *_: None):
        return _plans(grid, device, store, dtype)


def _plans(grid: Sequence[Condition], device: str, store: Path, dtype: Dtype) -> list[Row]:
    if dtype != "float32":
        grid = [dataclasses.replace(one, study=dataclasses.replace(one.study, dtype=dtype)) for one in grid]
    purchase = Purchase(DEVICES[device].memory / 1e9, PRICES[device], device)
    # What fits depends on the largest batch alone: one list of each model tells it.
    some = [one for one in grid if one.labels == grid[0].labels]
    alone = Sweep(name="fitting", conditions=tuple(some), resources=Resources(gpus=1)).plan(store, purchase)
    fitting = {row["model"]: row["workers_that_fit"] for row in alone.models}

    def resources(model: Model) -> Resources:
        return Resources(workers=fitting[model.name], gpus=1)

    return list(Sweep(name="published-grid", conditions=tuple(grid), resources=resources).plan(store, purchase).models)


def total(rows: Sequence[Row]) -> Row:
    """All models together."""
    sums = ("device_hours", "device_hours_unshared", "price", "price_unshared")
    spans = ("device_hours_range", "device_hours_unshared_range", "price_range")
    found: dict[str, Any] = {name: sum(row[name] for row in rows) for name in sums}
    return found | {name: [sum(row[name][end] for row in rows) for end in (0, 1)] for name in spans}


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown, the last of them the total."""
    lines = [
        "| model | parameters | devices | GB on each | hours, unshared | hours, shared | $ unshared | $ shared |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        size = f"{row['parameters'] / 1e6:,.1f} M"
        lines.append(
            _line(row["model"], size, row["workers"], f"{row['peak_bytes_per_worker'] / 1e9:.0f}", *_costs(row))
        )
    return [*lines, _line(f"all {len(rows)}", "", "", "", *_costs(total(rows)))]


def short(rows: Sequence[Row]) -> list[str]:
    """The same without ranges but for the total's, as docs/published_grid.md has it."""
    lines = [
        "| model | parameters | devices | hours, unshared | hours, shared | $ unshared | $ shared |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        costs = (row[name] for name in ("device_hours_unshared", "device_hours", "price_unshared", "price"))
        size = f"{row['parameters'] / 1e6:,.0f} M"
        lines.append(_line(row["model"], size, row["workers"], *map(_number, costs)))
    return [*lines, _line(f"all {len(rows)}", "", "", *_costs(total(rows)))]


def _line(*cells: object) -> str:
    return "|" + "".join(" |" if cell == "" else f" {cell} |" for cell in cells)


def _costs(row: Row) -> tuple[str, ...]:
    return (
        f"{_number(row['device_hours_unshared'])} ({_span(row['device_hours_unshared_range'])})",
        f"{_number(row['device_hours'])} ({_span(row['device_hours_range'])})",
        _number(row["price_unshared"]),
        f"{_number(row['price'])} ({_span(row['price_range'])})",
    )


def _span(ends: Sequence[float]) -> str:
    return " to ".join(map(_number, ends))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def page(found: Mapping[tuple[str, Dtype], Sequence[Row]]) -> str:
    """All tables, in Markdown."""
    lines = [HEAD]
    for (device, dtype), rows in found.items():
        price = f"${PRICES[device]:.2f} for an hour"
        lines += [
            "",
            f"## {device.upper()} of {DEVICES[device].memory / 1e9:.0f} GB, {dtype}, {price}",
            "",
            *table(rows),
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder with expt1 to expt6 (default: lists like those)")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS), metavar="MODEL")
    parser.add_argument("--out", type=Path, default=WRITTEN, help="file to write")
    options = parser.parse_args()
    found: dict[tuple[str, Dtype], list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="memexp-grid-") as scratch:
        grid = conditions(options.data or made_lists(Path(scratch) / "lists"), options.models)
        for device in PRICES:
            for dtype in cast(tuple[Dtype, ...], ("float32", "tf32", "bfloat16")):
                found[device, dtype] = plans(grid, device, Path(scratch) / "store", dtype)
    options.out.write_text(page(found), encoding="utf-8")
    print("\n".join(short(found["a100", "float32"])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
