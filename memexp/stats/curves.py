"""Retention: what is left of what study gained, and curves of forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = ["CURVES", "Fit", "fit_curve", "retention"]

CURVES = ("power", "exponential", "log")
"""``power``: floor + a (1 + t)^-c; ``exponential``: floor + a exp(-t / c); ``log``: floor - a log10 t, of t >= 1."""


@dataclass(frozen=True)
class Fit:
    """A curve of forgetting, fitted by least squares to the mean at every retention interval."""

    curve: str
    parameters: dict[str, float]
    """a, c and floor, as in `CURVES`."""
    low: dict[str, float | None]
    """Bounds of the parameters, from refitting on resampled items and seeds; None where these are too few."""
    high: dict[str, float | None]
    held_out: float
    """Root mean squared error at intervals t >= 1 that were left out of the fit, each in turn; NaN where too few."""
    chosen: bool
    """Whether its `held_out` is the smallest."""
    steps: int
    """Retention intervals it was fitted to."""
    n: int
    """Values."""
    over: str
    reason: str | None
    level: float

    def at(self, t: Any) -> Any:
        """The curve at retention intervals `t`, an array of the same shape."""
        raise NotImplementedError


def fit_curve(
    t: Any,
    values: Any,
    *,
    items: Any = None,
    seeds: Any = None,
    lists: Any = None,
    curves: Sequence[str] = CURVES,
    floor: float | None = None,
    over: str | None = None,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> list[Fit]:
    """Each of `curves`, best first by its error on intervals that it was not fitted to.

    Args:
        t: retention interval in optimizer steps, shape (rows,); 0 right after study.
        values: numbers or booleans, shape (rows,).
        items, seeds, lists, over, level: as for `memexp.stats.mean_interval`.
        floor: what is left in the end; None to fit it. Curve ``log`` always fits it.
        resamples: how often curves are refitted; 0 for no intervals.
        seed: of the resampling.

    Raises:
        SpecError: a curve is unknown, or a `t` is negative.
    """
    raise NotImplementedError


def retention(
    table: Any,
    value: Any,
    by: Sequence[str] = ("model",),
    *,
    steps: str = "retention_steps",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: str | Sequence[str] | None = None,
    seeds: str | Sequence[str] | None = None,
    lists: str | Sequence[str] | None = None,
) -> pa.Table:
    """Mean by retention interval, and as a share of what study gained: (m_t - m_0) / (m_study - m_0).

    m_0 is the untrained model's (exposures 0), m_study the mean right after study (steps NULL or 0), of the same group;
    at 0 exposures columns of study (lr, batch size) may have any value. Where study's gain is not told from 0, there is
    nothing to be retained and `retained` is NULL. Compare conditions whose m_study is about equal.

    Args:
        table, value, by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        steps, exposures: columns of these; `exposures` is a group as those of `by`.

    Returns:
        One row per group and interval, in order: `by`, `exposures`, `steps` (0: right after study), then mean, low,
        high, n, missing, items, seeds, lists, over, reason, level; untrained (m_0), studied (m_study), gained,
        gained_low, gained_high, retained.
    """
    raise NotImplementedError
