"""PrivLeak: do lists still differ after unlearning, as they would not had one of them never been studied?

    privleak(rows, never, by=["model", "forget_layer"])

Shi et al. 2024 (MUSE, arXiv 2407.06460; muse_bench, eval.py), section 3: 100 (a - r) / r, with a the AUC of telling
texts that were to be forgotten from texts that were never studied, of the model, and r that of a model trained without
the former. The score is Min-K% with k = 40: ``Membership(pair, k=40)``. Studied texts are likelier, so that a is low
where too little was forgotten and the measure negative; above 0 too much was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from memexp.errors import SpecError
from memexp.stats.members import SIGNS, membership
from memexp.stats.tables import Names

__all__ = ["privleak"]

KEPT = ("auc", "auc_low", "auc_high", "never", "never_low", "never_high", "members", "others")


def privleak(
    table: Any,
    never: Any,
    by: Sequence[str] = ("model",),
    *,
    match: Sequence[str] = ("model",),
    score: str = "min_k",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """PrivLeak of each group of rows, against rows of a condition that never saw the members.

    Args:
        table: rows of kind ``membership``, whose members were studied and maybe forgotten.
        never: the same of models that studied neither list.
        by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        match: those of `by` in which groups have to agree with what they are compared with; others of `never`'s
            settings are taken together.
        score: column of the score.

    Returns:
        One row per group: `by`; privleak, in percent, NULL where r is 0 or not known; auc with auc_low and auc_high (a:
        how often the other text has the higher score); never with never_low and never_high (r); members, others. The
        two share their texts, and privleak has no interval of its own.

    Raises:
        SpecError: a column is missing, `score` is none, or `match` is not in `by`.
    """
    by, match = ([one] if isinstance(one, str) else list(one) for one in (by, match))
    match = [name for name in match if name in by or name != "model"]
    if score not in SIGNS:
        raise SpecError(f"score: must be {', '.join(SIGNS)}, got {score!r}")
    if not set(match) <= set(by):
        raise SpecError(f"match: must be of by, which is {', '.join(by) or 'empty'}, got {', '.join(match)}")
    given: dict[str, Any] = {"over": over, "level": level, "items": items, "seeds": seeds, "lists": lists}
    told, against = (
        membership(rows, names, **given).filter(pc.field("score") == score)
        for rows, names in ((table, by), (never, match))
    )
    known = {tuple(row[name] for name in match): row for row in against.to_pylist()}
    found = []
    for row in told.to_pylist():
        a, r = (_turned(one) for one in (row, known.get(tuple(row[name] for name in match), {})))
        leak = None if a["auc"] is None or not r["auc"] else 100 * (a["auc"] - r["auc"]) / r["auc"]
        named = {name.replace("auc", "never"): value for name, value in r.items()}
        counts = {name: row[name] for name in ("members", "others")}
        found.append({"privleak": leak, **a, **named, **counts})
    columns = {name: pa.array([row[name] for row in found], pa.float64()) for name in ("privleak", *KEPT[:6])}
    columns |= {name: pa.array([row[name] for row in found], pa.int64()) for name in KEPT[6:]}
    return pa.table({name: told[name] for name in by} | columns)


def _turned(row: dict[str, Any]) -> dict[str, float | None]:
    """How often the other text has the higher score, of a row that says how often the member has."""
    turned = {"auc": row.get("auc"), "auc_low": row.get("auc_high"), "auc_high": row.get("auc_low")}
    return {name: None if value is None else 1 - value for name, value in turned.items()}
