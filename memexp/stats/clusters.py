"""The variance of a mean over items, seeds and lists: clustered one way or two, with its degrees of freedom.

What a mean is made of is given as influences: what each row adds to the mean's error, (value - mean) / n. They add up
to 0 over a group. The variance over clusters is G / (G - 1) times the sum of squares of the clusters' sums; over two
kinds of them V_one + V_other - V_residual, the last over what both cut out together (Cameron, Gelbach & Miller 2011),
and never below either one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memexp.errors import SpecError
from memexp.stats.tables import Codes, Floats, Units, dense

__all__ = ["FEWEST", "OVER", "SAME", "Group", "Spread", "check_level", "count", "spread"]

OVER = ("items", "seeds", "lists", "both")
"""What an interval may be asked to generalise over. ``both``: items and seeds; lists and seeds where there are several
lists; lists alone where seeds are not known."""
FEWEST = 3
"""Clusters below which nothing is said of others like them: points only."""
SAME = 1e-12
"""A standard error below this share of the mean is rounding: nothing varies."""


@dataclass(frozen=True)
class Group:
    """Which rows belong together: to one mean, or to one side of a difference."""

    codes: Codes
    """Of each row, shape (rows,)."""
    count: int

    @classmethod
    def one(cls, rows: int) -> Group:
        return cls(np.zeros(rows, np.int64), 1)


@dataclass
class Spread:
    """Standard error of each group's mean, shapes (groups,)."""

    error: Floats
    """NaN where there is none: `reason` says why."""
    df: Floats
    over: list[str]
    reason: list[str | None]
    """Why there is no error, or none over more."""
    kinds: list[tuple[str, ...]]
    """The kinds of clusters that were used."""
    counts: dict[str, Codes]
    """How many of each kind there are, 0 where they are not known; of a difference on the side that has fewer."""
    single: NDArray[np.bool_]
    """Where it is over items, and an item's rows are one or all equal."""


def check_level(over: str | None, level: float) -> None:
    """Raises SpecError."""
    if over is not None and over not in OVER:
        raise SpecError(f"over: {over!r} is none of {', '.join(OVER)}")
    if not 0 < level < 1:
        raise SpecError(f"level: must be between 0 and 1, got {level}")


def count(group: Group, codes: Codes | None) -> Codes:
    """How many clusters each group has, shape (groups,); 0 where they are not known."""
    if codes is None:
        return np.zeros(group.count, np.int64)
    _, owner = _within(group, codes)
    return np.bincount(owner, minlength=group.count).astype(np.int64)


def spread(influence: Floats, group: Group, units: Units, over: str | None, sides: Group | None = None) -> Spread:
    """The standard error of the means that `influence` is about.

    Args:
        influence: shape (rows,).
        group: one for each mean.
        units: of each row.
        over: one of `OVER`, None for all that there is enough of.
        sides: of a difference, whose influences have opposite signs. Clusters that no two sides share have each side's
            correction, and the smaller number of clusters counts.
    """
    known = {"items": units.items, "seeds": units.seeds, "lists": units.lists}
    counts = {kind: _fewest(group, codes, sides) for kind, codes in known.items()}
    copies = _copies(influence, group if sides is None else sides, units)
    copies = copies if sides is None else np.array([copies.all()])
    decided = [
        _decide(over, {kind: int(of[at]) for kind, of in counts.items()}, bool(copies[at])) for at in range(group.count)
    ]
    error, df = np.full(group.count, np.nan), np.full(group.count, np.nan)
    for kinds in dict.fromkeys(kinds for kinds, _ in decided):
        smallest = np.min([counts[kind] for kind in kinds], axis=0)
        enough = np.array([used == kinds for used, _ in decided], np.bool_) & (smallest >= FEWEST)
        if enough.any():
            variance = _variance(influence, group, [known[kind] for kind in kinds], sides)
            error[enough], df[enough] = np.sqrt(variance[enough]), smallest[enough] - 1
    used, reasons = [kinds for kinds, _ in decided], [reason for _, reason in decided]
    rows = np.bincount((group if sides is None else sides).codes, minlength=(sides or group).count)
    single = (rows == count(sides or group, units.items)).all() if sides else rows == counts["items"]
    single = (single | copies) & np.array([kinds == ("items",) for kinds in used], np.bool_)
    return Spread(error, df, [" and ".join(kinds) for kinds in used], reasons, used, counts, single)


def _decide(over: str | None, counts: dict[str, int], copies: bool) -> tuple[tuple[str, ...], str | None]:
    """The kinds of clusters of a group, and what there is too little of; `copies`: all seeds have the same numbers."""
    several = counts["lists"] > 1
    kinds: tuple[str, ...]
    if copies and over in (None, "both"):
        kinds = ("lists",) if (several if over else counts["lists"] >= FEWEST) else ("items",)
        return kinds, _too_few(counts, [kind for kind in kinds if counts[kind] < FEWEST]) or "no variation over seeds"
    if over is None:
        kinds = ("lists",) if counts["lists"] >= FEWEST else ("items",)
        kinds += ("seeds",) if counts["seeds"] >= FEWEST else ()
        lacking = [kind for kind in ("lists", "seeds") if 0 < counts[kind] < FEWEST and (kind == "seeds" or several)]
        if counts["items"] < FEWEST:
            return kinds, _too_few(counts, ("items",))
        return kinds, f"not over {' and '.join(lacking)}: {_too_few(counts, lacking)}" if lacking else None
    if over != "both":
        kinds = (over,)
    else:
        kinds = ("lists",) if several else ("items",)
        if counts["seeds"] or not several:
            kinds += ("seeds",)
    return kinds, _too_few(counts, [kind for kind in kinds if counts[kind] < FEWEST])


def _copies(influence: Floats, group: Group, units: Units) -> NDArray[np.bool_]:
    """The groups in which every item has equal rows under every seed: the untrained model's, or all right."""
    if units.seeds is None:
        return np.zeros(group.count, bool)
    items, seeds = (count(group, codes) for codes in (units.items, units.seeds))
    cluster, owner = _within(group, units.items)
    one = np.zeros(len(owner))
    one[cluster] = influence  # of some row of each item
    differing = np.bincount(group.codes[influence != one[cluster]], minlength=group.count)
    rows = np.bincount(group.codes, minlength=group.count)
    found: NDArray[np.bool_] = (differing == 0) & (seeds > 1) & (rows == items * seeds)
    return found


def _too_few(counts: dict[str, int], kinds: list[str] | tuple[str, ...]) -> str | None:
    """A reason, None where there is enough of all."""
    said = [f"{counts[kind]} {kind if counts[kind] > 1 else kind[:-1]}" if counts[kind] else f"unknown {kind}"
            for kind in kinds]  # fmt: skip
    return f"{', '.join(said)}, an interval needs {FEWEST}" if said else None


def _variance(influence: Floats, group: Group, codes: list[Codes | None], sides: Group | None) -> Floats:
    """Over one or two kinds of clusters, shape (groups,)."""
    parts = [part for part in codes if part is not None]
    single = [_one_way(influence, group, part, sides) for part in parts]
    if len(single) == 1:
        return single[0]
    both, _ = dense(parts[0] * (parts[1].max() + 1) + parts[1])
    residual = _one_way(influence, group, both, sides)
    return np.maximum(np.maximum(*single), single[0] + single[1] - residual)


def _one_way(influence: Floats, group: Group, codes: Codes, sides: Group | None) -> Floats:
    parts = group if sides is None or _shared(group, codes, sides) else sides
    cluster, owner = _within(parts, codes)
    sums = np.bincount(cluster, influence, minlength=len(owner))
    squares = np.bincount(owner, sums**2, minlength=parts.count)
    clusters = np.bincount(owner, minlength=parts.count)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = squares * clusters / (clusters - 1)
    return variance if parts is group else np.array([variance.sum()])


def _fewest(group: Group, codes: Codes | None, sides: Group | None) -> Codes:
    """Clusters of each group; of a difference on the side that has fewer."""
    if sides is None or codes is None:
        return count(group, codes)
    return np.array([count(sides, codes).min()])


def _shared(group: Group, codes: Codes, sides: Group) -> bool:
    """Whether some cluster is on both sides."""
    return bool(count(group, codes).sum() < count(sides, codes).sum())


def _within(group: Group, codes: Codes) -> tuple[Codes, Codes]:
    """Clusters as codes that differ between groups, shape (rows,), and the group of each cluster, shape (clusters,)."""
    width = int(codes.max(initial=0)) + 1
    cluster, what = dense(group.codes * width + codes)
    return cluster, what // width
