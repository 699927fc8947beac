"""What the models of a plan take: memory, time and money, a few rows each.

add_models(table, plan.models)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["add_models"]


def add_models(table: Table, models: Sequence[Mapping[str, Any]]) -> None:
    """A row for each figure of each model, in a table of three columns."""
    for model in models:
        name = f"{model['model']} ({model['method']})"
        workers = f"on each of {model['workers']} workers" if model["workers"] > 1 else "on one worker"
        peak, host = model["peak_bytes_per_worker"], model["peak_bytes_per_host"]
        of_host = f", {_gb(host)} on a host" if host != peak else ""
        table.add_row(name, f"{model['parameters'] / 1e6:.1f} M", f"{_gb(peak)} {workers} at the peak{of_host}")
        parts = [f"{what} {_gb(size)}" for what, size in model["peak_parts"].items() if size >= 5e6]
        table.add_row("", "", ", ".join(parts))
        if model["recall_bytes_per_worker"] > peak:
            more = _gb(model["recall_bytes_per_worker"])
            table.add_row("", "", f"{more} where a worker has so much: recall then gathers its weights once")
        if "workers_that_fit" in model:
            table.add_row("", *_fitting(model["workers_that_fit"]))
        table.add_row("", *_time(model))


def _fitting(workers: int | None) -> tuple[str, str]:
    if workers is None:
        return "no number", "of workers has room in that memory"
    return ("1 worker", "has room in it") if workers == 1 else (f"{workers} workers", "have room in it, each")


def _time(model: Mapping[str, Any]) -> tuple[str, str]:
    least, most = (_span(hours) for hours in model["device_hours_range"])
    source = "as stages of it took" if model["measured"] else "reckoned from its operations"
    text = f"of one {model['device']}, {least} to {most} ({source})"
    if (alone := _span(model["device_hours_unshared"])) != _span(model["device_hours"]):
        text += f"; {alone} without sharing"
    if "price" in model:
        low, high = model["price_range"]
        text += f"; price {model['price']:.2f}, {low:.2f} to {high:.2f}"
    return _span(model["device_hours"]), text


def _span(hours: float) -> str:
    """Hours in the unit that fits."""
    for unit, count in (("h", hours), ("min", 60 * hours)):
        if count >= 1:
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.2g} {unit}"
    return f"{3600 * hours:.2g} s"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
