"""What study itself did to the likelihood of a text: against a twin that never saw it, or against time and other texts.

    counterfactual(rows, by=["model", "lr"])               # rows of a list and of its counterbalanced twin
    difference_in_differences(rows, by=["model", "lr"])    # rows before study and after it

Two measures with two names, both in nats per token, above 0 where study helped. The first compares models, and needs a
twin of each; the second compares texts, and takes it that targets and foils would have changed alike without study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memexp.stats.clusters import check_level
from memexp.stats.differences import Difference, difference_of
from memexp.stats.means import beside, groups_of
from memexp.stats.retained import STUDY
from memexp.stats.tables import (
    Codes,
    Floats,
    Names,
    Units,
    arrow,
    as_array,
    codes,
    column,
    numbers,
    rows_of_each,
    units_of,
    unstudied,
)

__all__ = ["counterfactual", "difference_in_differences"]


def counterfactual(
    table: Any,
    by: Sequence[str] = (),
    *,
    target: str = "target_nll",
    foil: str = "foil_nll",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    seeds: Names = None,
) -> pa.Table:
    """Counterfactual memorisation: log-likelihood of texts where they were studied less that where they were not.

    Zhang et al. 2021 (arXiv 2112.12938), equation 1, over seeds; here the two models of a pair come from one base and
    differ in the list alone (`memexp.counterbalanced`), so that what the base knew of a text cancels. A text is studied
    where it is a target after an exposure, and not where it is a foil then; it counts where it was both.

    Args:
        table: rows of kind ``recognition``, of a list and of its counterbalanced twin; those of 0 exposures are left
            out.
        by: as for `memexp.stats.summary`; ``target`` is none, name texts by it: the column ``text``.
        target, foil: columns of mean token NLLs, in nats.
        exposures: column of their number.
        over, level, seeds: as for `memexp.stats.summary`; items are texts.

    Returns:
        One row per group: `by`; counterfactual, low, high, p; studied and unstudied, the two means; n, items, seeds,
        over, reason, level. NULL where no text is on both sides.

    Raises:
        SpecError: a column is missing, or `over` or `level` is none.
    """
    check_level(over, level)
    rows = arrow(table)
    rows = rows.filter(numbers(column(rows, exposures), exposures) > 0)
    each = [_each(rows, text, nll) for text, nll in (("target", target), ("foil", foil))]
    texts = pa.concat_tables(each)
    side = np.repeat([0, 1], rows.num_rows)
    units = units_of(texts, "text", seeds, (), by)
    group, keys = groups_of(texts, by)
    values = -numbers(texts["nll"], "nll")
    parts = [_both(mine, side, units.items) for mine in rows_of_each(group.codes, group.count)]
    found = _differences(values, side, units, parts, over, level)
    return beside(keys, _table(found, ("counterfactual", "studied", "unstudied")))


def _both(mine: Codes, side: Codes, items: Codes) -> Codes:
    """Those of the rows `mine` whose text is on both sides."""
    shared = np.intersect1d(*(items[mine[side[mine] == at]] for at in (0, 1)))
    return mine[np.isin(items[mine], shared)]


def _each(rows: pa.Table, text: str, nll: str) -> pa.Table:
    """One side of each pair, its text and its NLL under names that both have."""
    kept = rows.drop_columns([name for name in ("text", "nll") if name in rows.column_names])
    given = {"text": column(rows, text).cast(pa.large_string()), "nll": as_array(numbers(column(rows, nll), nll))}
    for name, values in given.items():
        kept = kept.append_column(name, values)
    return kept


def difference_in_differences(
    table: Any,
    by: Sequence[str] = ("model",),
    *,
    target: str = "target_nll",
    foil: str = "foil_nll",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """What study added to the log-likelihood of targets, less what it added to that of foils.

    (targets after - targets before) - (foils after - foils before), the estimator that Lesci et al. 2024 (arXiv
    2406.04327), section 4, take for memorisation: of instances that were trained on and of such that were not.

    Args:
        table: rows of kind ``recognition``, those of 0 exposures among them: settings of study say nothing there.
        by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        target, foil: columns of mean token NLLs, in nats.
        exposures: column of their number; each is a group of its own.

    Returns:
        One row per group: `by` and `exposures`; effect, low, high, p; after and before, by how much targets were
        likelier than foils; n, items, seeds, over, reason, level. Without rows of 0 exposures `effect` is NULL.

    Raises:
        SpecError: as `counterfactual`.
    """
    check_level(over, level)
    rows = arrow(table)
    named = [by] if isinstance(by, str) else list(by)
    told = [*(name for name in named if name != exposures), exposures]
    seen, never = numbers(column(rows, exposures), exposures), unstudied(rows, exposures)
    margin = numbers(column(rows, foil), foil) - numbers(column(rows, target), target)
    group, keys = groups_of(rows, told)
    units = units_of(rows, items, seeds, lists, told)
    alike = codes([rows[name] for name in told if name not in (*STUDY, exposures)], rows.num_rows)
    before = rows_of_each(np.where(never, alike, -1), int(alike.max(initial=-1)) + 1)
    after = [mine for mine in rows_of_each(group.codes, group.count) if seen[mine[0]] > 0]
    parts = [np.concatenate([mine, before[alike[mine[0]]]]) for mine in after]
    found = _differences(margin, never.astype(np.int64), units, parts, over, level)
    kept = keys.take([int(group.codes[mine[0]]) for mine in after])
    return beside(kept, _table(found, ("effect", "after", "before")))


def _differences(
    values: Floats, side: Codes, units: Units, parts: Sequence[Codes], over: str | None, level: float
) -> Iterator[Difference]:
    """The difference of each part of the rows."""
    return (difference_of(values[mine], side[mine], units.take(mine), over, level) for mine in parts)


def _table(found: Iterator[Difference], names: tuple[str, str, str]) -> pa.Table:
    """A row for each difference; it and its two means have these names."""
    rows = list(found)

    def of(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(one, name) for one in rows], kind)

    itself, a, b = names
    columns = {itself: of("difference", pa.float64())}
    columns |= {name: of(name, pa.float64()) for name in ("low", "high", "p")}
    columns |= {a: of("mean_a", pa.float64()), b: of("mean_b", pa.float64()), "n": of("n_a", pa.int64())}
    columns |= {name: of(name, pa.int64()) for name in ("items", "seeds")}
    columns |= {name: of(name, pa.string()) for name in ("over", "reason")}
    return pa.table(columns | {"level": of("level", pa.float64())})
