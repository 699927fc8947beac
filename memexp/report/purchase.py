"""What the models of a plan take: memory, time and money, a few rows each.

model_rows(plan.models)      # [("tiny-s (full)", "0.6 M", "0.79 GB on one worker at the peak"), ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["model_rows"]


def model_rows(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """A row for each figure of each model: what, how much, and what is to be said of it."""
    rows: list[tuple[str, str, str]] = []
    for model in models:
        name = f"{model['model']} ({model['method']})"
        workers = f"on each of {model['workers']} workers" if model["workers"] > 1 else "on one worker"
        peak, host = model["peak_bytes_per_worker"], model["peak_bytes_per_host"]
        of_host = f", {_gb(host)} on a host" if host != peak else ""
        rows.append((name, f"{model['parameters'] / 1e6:.1f} M", f"{_gb(peak)} {workers} at the peak{of_host}"))
        parts = [f"{what} {_gb(size)}" for what, size in model["peak_parts"].items() if size >= 5e6]
        rows.append(("", "", ", ".join(parts)))
        if model["recall_bytes_per_worker"] > peak:
            more = _gb(model["recall_bytes_per_worker"])
            rows.append(("", "", f"{more} where a worker has so much: recall then gathers its weights once"))
        if "workers_that_fit" in model:
            rows.append(("", *_fitting(model["workers_that_fit"])))
        rows.append(("", *_time(model)))
    return rows


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
