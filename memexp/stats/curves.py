"""Curves of forgetting, fitted to means over retention intervals and chosen by what they were not fitted to.

fits = fit_curve(t, correct, items=item, seeds=seed)
fits[0].curve, fits[0].parameters, fits[0].low, fits[0].at([1, 10, 100])

Points of one trajectory are not independent, so that the residuals of a fit say nothing about another one's: intervals
come from refitting on resampled items and seeds (all intervals of an item, of a seed, together).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from memexp.errors import SpecError
from memexp.stats.clusters import Group, check_level, spread
from memexp.stats.means import units_from
from memexp.stats.tables import Codes, Floats, Units, numbers

__all__ = ["CURVES", "Fit", "fit_curve"]

CURVES = {"power": ("a", "c", "floor"), "exponential": ("a", "c", "floor"), "log": ("a", "floor")}
"""``power``: floor + a (1 + t)^-c; ``exponential``: floor + a exp(-t / c); ``log``: floor - a log10 t, of t >= 1.
Their parameters by name, in the order of `Fit`."""
MANY = 20
"""Clusters from which on the percentiles of resamples are an interval; of fewer, t times their standard deviation."""
FEWEST_INTERVALS = 3
GRID, ROUNDS = 40, 6
"""Values of c, evenly on a log scale, around the best of which as many are tried again, and how often."""


@dataclass(frozen=True)
class Fit:
    """A curve of forgetting, fitted by least squares to the mean at every retention interval."""

    curve: str
    parameters: dict[str, float]
    """a, c and floor, as in `CURVES`."""
    low: dict[str, float | None]
    """Bounds of the parameters, from refitting on resampled items and seeds; None where these are too few."""
    high: dict[str, float | None]
    held_out: float | None
    """Root mean squared error at intervals t >= 1 that were left out of the fit, each in turn; None of too few."""
    chosen: bool
    """Whether its `held_out` is the smallest."""
    steps: int
    """Retention intervals it was fitted to."""
    n: int
    """Values."""
    over: str
    """What `low` and `high` generalise over, as in `Mean`."""
    reason: str | None
    level: float

    def at(self, t: Any) -> Floats:
        """The curve at retention intervals `t`, an array of the same shape."""
        return _curve(self.curve, np.array([*self.parameters.values()]), np.asarray(t, np.float64))


def fit_curve(
    t: Any,
    values: Any,
    *,
    items: Any = None,
    seeds: Any = None,
    lists: Any = None,
    curves: Sequence[str] = tuple(CURVES),
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
        floor: what is left in the end; None to fit it, to 0 at least where no value is below 0. ``log`` has its own.
        resamples: how often curves are refitted; 0 for no intervals.
        seed: of the resampling.

    Raises:
        SpecError: a curve is unknown, a `t` is negative or missing, or there are fewer than three different ones.
    """
    check_level(over, level)
    times, found = _checked(t, values, curves)
    there = ~np.isnan(found)
    times, found, units = times[there], found[there], units_from(len(there), items, seeds, lists).take(there)
    steps, at = np.unique(times, return_inverse=True)
    if (steps >= 1).sum() < FEWEST_INTERVALS:
        raise SpecError(
            f"fit_curve: a curve needs {FEWEST_INTERVALS} intervals of a step or more, got {steps.tolist()}"
        )
    mean = np.bincount(at, found) / np.bincount(at)
    about = spread((found - mean[at]) / max(len(found), 1), Group.one(len(found)), units, over)
    kinds = about.kinds[0] if not np.isnan(about.error[0]) else ()
    resampled = _resampled(found, at, units, kinds, resamples, seed) if kinds else np.zeros((0, len(steps)))
    fewest = min((int(about.counts[kind][0]) for kind in kinds), default=0)
    lowest = 0.0 if (found >= 0).all() else -math.inf
    fits = []
    for curve in curves:
        fitted, names = _fitter(curve, steps, floor, lowest), CURVES[curve]
        best, *others = fitted(np.stack([mean, *resampled]), np.ones(len(steps), bool))
        low, high = _bounds(best, np.array(others), names, fewest, level)
        error = _held_out(curve, steps, mean, fitted, len(names))
        named = dict(zip(names, best.tolist(), strict=True))
        counts = int((steps >= 1).sum() if curve == "log" else len(steps)), len(found)
        fits.append(Fit(curve, named, low, high, error, False, *counts, about.over[0], about.reason[0], level))
    fits.sort(key=lambda fit: math.inf if fit.held_out is None else fit.held_out)
    return [replace(fit, chosen=rank == 0 and fit.held_out is not None) for rank, fit in enumerate(fits)]


def _checked(t: Any, values: Any, curves: Sequence[str]) -> tuple[Floats, Floats]:
    times, found = numbers(t, "t"), numbers(values, "values")
    if len(times) != len(found) or not (times >= 0).all():
        raise SpecError("fit_curve: t must be a number of steps, 0 or more, for each of the values")
    for curve in curves:
        if curve not in CURVES:
            raise SpecError(f"fit_curve: {curve!r} is none of {', '.join(CURVES)}")
    return times, found


Fitter = Callable[[Floats, Any], Floats]
"""From means at all intervals, shape (rows, intervals), and which intervals to fit to, the parameters of each row."""


def _curve(curve: str, parameters: Floats, t: Floats) -> Floats:
    if curve == "log":
        with np.errstate(divide="ignore"):
            straight: Floats = parameters[1] - parameters[0] * np.log10(t)
        return straight
    found: Floats = parameters[2] + parameters[0] * _falling(curve, parameters[1], t)
    return found


def _falling(curve: str, c: Floats, t: Floats) -> Floats:
    """What falls from 1 to 0, for each of `c`: shape (c's, intervals)."""
    each = np.asarray(c)[..., None]
    found: Floats = (1 + t) ** -each if curve == "power" else np.exp(-t / each)
    return found


def _fitter(curve: str, steps: Floats, floor: float | None, lowest: float) -> Fitter:
    """Least squares: for any c the best a and floor are known, so that only c is searched for.

    The search is a grid that narrows down, of all rows at a time: the hundreds of refits of resamples take
    milliseconds, where those of scipy.optimize, one by one, take seconds.
    """
    if curve == "log":

        def straight(means: Floats, used: Any) -> Floats:
            used = used & (steps >= 1)
            return _linear(-np.log10(steps[used]), means[:, used], None, -math.inf).T

        return straight

    first, last = float(steps[steps > 0].min()), float(steps.max())
    ends = np.log((1e-3, 20.0) if curve == "power" else (first / 20, last * 20))

    def search(means: Floats, used: Any) -> Floats:
        t, target = steps[used], means[:, None, used]
        middle, half = np.full(len(means), ends.mean()), np.ptp(ends) / 2
        for _ in range(ROUNDS):
            log_c = np.clip(middle[:, None] + np.linspace(-half, half, GRID), *ends)
            falling = _falling(curve, np.exp(log_c), t)
            a, named = _linear(falling, target, floor, lowest)
            errors = ((named[..., None] + a[..., None] * falling - target) ** 2).sum(-1)
            middle = np.take_along_axis(log_c, errors.argmin(1)[:, None], 1)[:, 0]
            half *= 2 / (GRID - 1)
        a, named = _linear(_falling(curve, np.exp(middle), t), means[:, used], floor, lowest)
        return np.stack([a, np.exp(middle), named], 1)

    return search


def _linear(x: Floats, y: Floats, floor: float | None, lowest: float) -> Floats:
    """a and floor of floor + a x with the named squares, the floor given or not below `lowest`.

    `x` and `y` have shapes (..., points); the answer (2, ...).
    """
    given = lowest if floor is None else floor
    with np.errstate(divide="ignore", invalid="ignore"):
        through = (x * (y - given)).sum(-1) / (x**2).sum(-1)
        middle = x - x.mean(-1, keepdims=True)
        a = (middle * y).sum(-1) / (middle**2).sum(-1)
    named = y.mean(-1) - a * x.mean(-1)
    fixed = ~(named >= lowest) if floor is None else np.ones_like(a, bool)
    return np.array([np.where(fixed, through, a), np.where(fixed, given, named)])


def _held_out(curve: str, steps: Floats, mean: Floats, fitted: Fitter, parameters: int) -> float | None:
    errors = []
    for out in np.flatnonzero(steps >= 1):
        used = np.arange(len(steps)) != out
        if (used & (steps >= (1 if curve == "log" else 0))).sum() < parameters:
            return None
        errors.append(_curve(curve, fitted(mean[None], used)[0], steps[out : out + 1])[0] - mean[out])
    return float(np.sqrt(np.mean(np.square(errors))))


def _resampled(values: Floats, at: Codes, units: Units, kinds: Sequence[str], resamples: int, seed: int) -> Floats:
    """Means at each interval of rows whose items, seeds or lists were drawn anew; shape (resamples, intervals)."""
    draw = np.random.default_rng(seed)
    clusters = [np.unique(getattr(units, kind), return_inverse=True)[1] for kind in kinds]
    width = int(at.max()) + 1
    found = np.full((resamples, width), np.nan)
    for row in found:
        weight = np.ones(len(values))
        for part in clusters:  # crossed: a row counts as often as its item and its seed were drawn together
            count = int(part.max()) + 1
            weight *= draw.multinomial(count, np.full(count, 1 / count))[part]
        total = np.bincount(at, weight, minlength=width)
        row[:] = np.divide(np.bincount(at, weight * values, minlength=width), total, out=row, where=total > 0)
    whole: Floats = found[~np.isnan(found).any(1)]
    return whole


def _bounds(
    best: Floats, others: Floats, names: Sequence[str], fewest: int, level: float
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Bounds of each parameter from `others`, those of resamples; of c on a log scale, since it is above 0."""
    if len(others) < 2:
        return dict.fromkeys(names), dict.fromkeys(names)
    if fewest >= MANY:
        low, high = (np.quantile(others, part, axis=0) for part in ((1 - level) / 2, (1 + level) / 2))
    else:
        logarithmic = np.array([name == "c" for name in names])
        scaled = np.where(logarithmic, np.log(np.abs(others) + 1e-300), others)
        center = np.where(logarithmic, np.log(np.abs(best) + 1e-300), best)
        half = stdtrit(fewest - 1, (1 + level) / 2) * scaled.std(0) * math.sqrt(fewest / (fewest - 1))
        low, high = (np.where(logarithmic, np.exp(bound), bound) for bound in (center - half, center + half))
    return dict(zip(names, low.tolist(), strict=True)), dict(zip(names, high.tolist(), strict=True))
