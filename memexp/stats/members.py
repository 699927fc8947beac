"""Members told from others by scores of single texts, beside what a classifier does that has seen no model.

    membership(rows, by=["model", "exposures"])     # an Arrow table: a row for each score and for `blind`
    blind_auc(studied_texts, other_texts)           # Mean(mean=.71, low=.66, ...): the lists give themselves away

The area under the curve (AUC) is the share of all pairs of a member and another text, judged by one model, in which the
member has the higher score, a tie counting one half. Its interval is that of DeLong et al. (1988), clustered as every
mean here: each text contributes how many of the others it is above. Few false positives are what an accusation needs:
the true positive rate at a false positive rate of 1 % (Carlini et al. 2022, arXiv 2112.03570) stands beside it.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.errors import SpecError
from memexp.stats.clusters import Group
from memexp.stats.detection import share_above
from memexp.stats.means import Mean, groups_of, mean_interval, means
from memexp.stats.tables import Codes, Floats, Names, arrow, codes, column, numbers, units_of

__all__ = ["blind_auc", "membership", "tpr_at"]

SIGNS = {"loss": -1, "zlib": 1, "min_k": 1, "min_k_plus": 1, "reference": 1}
"""Of the scores of `memexp.Membership`: what makes each of them high for members."""
BLIND = "blind"
FOLDS = 5
ORDER = "auc auc_low auc_high tpr members others missing items seeds lists over reason level".split()
"""The columns of `membership` after those of the groups and the score."""

Mask = NDArray[np.bool_]


def tpr_at(members: Any, others: Any, fpr: float = 0.01) -> float | None:
    """Share of members above a threshold that at most the share `fpr` of the others is above: the largest there is.

    Shapes (members,) and (others,), high for members; NULL and NaN are left out. None where nothing is left of either.
    Of fewer than 1 / `fpr` others none may be above it.

    Raises:
        SpecError: `fpr` is no share.
    """
    if not 0 <= fpr < 1:
        raise SpecError(f"fpr: must be from 0 to less than 1, got {fpr}")
    member, other = numbers(members, "members"), numbers(others, "others")
    member, other = member[~np.isnan(member)], np.sort(other[~np.isnan(other)])[::-1]
    if not len(member) or not len(other):
        return None
    return float((member > other[math.floor(fpr * len(other) + 1e-9)]).mean())


def blind_auc(members: Sequence[str], others: Sequence[str], *, folds: int = FOLDS, level: float = 0.95) -> Mean:
    """How well two lists are told apart by their words alone, with its interval: .5 where they are not.

    Naive Bayes over the words of each text, its punctuation, and about how long it is, in cross-validation: every text
    is judged by what was learned from the other folds, and compared with those of its own. Text i of both lists is in
    one fold, so that pairs that share words are judged without each other. An interval without .5 says that whatever
    tells members of these lists from others may have read the lists and not the model. It is wider than of scores that
    do not depend on each other, as folds learn from each other's texts (Nadeau & Bengio 2003).

    Args:
        members, others: texts.
        folds: of the cross-validation, at most the texts of either list.
        level: coverage of the interval.

    Raises:
        SpecError: fewer than two folds.
    """
    if folds < 2:
        raise SpecError(f"folds: must be at least 2, got {folds}")
    member = np.arange(len(members) + len(others)) < len(members)
    return mean_interval(_blind((*members, *others), tuple(member.tolist()), folds), level=level)


def membership(
    table: Any,
    by: Sequence[str] = (),
    *,
    fpr: float = 0.01,
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """AUC of each score of rows of kind `membership`, and of the words alone, for each group of rows.

    Texts are compared with others of the same model only: AUC, true positive rate and `blind` are means over seeds and
    lists of each one's own.

    Args:
        table, by, over, level, items, seeds, lists: as for `summary`.
        fpr: false positive rate that `tpr` is at, without an interval; of few others it means little.

    Returns:
        One row per group and score (loss, zlib, min_k, min_k_plus, reference, as far as there are values, and blind):
        the columns of `by`, then score, auc, auc_low, auc_high, tpr, members, others (rows with a value), missing,
        items, seeds, lists, over, reason, level.
    """
    rows = arrow(table)
    group, keys = groups_of(rows, by)
    units = units_of(rows, items, seeds, lists, by)
    member = numbers(column(rows, "member"), "member") == 1
    models = codes([part for part in (group.codes, units.seeds, units.lists) if part is not None], rows.num_rows)
    found = []
    for name, values, together in _scores(rows, member, models):
        there = ~np.isnan(values)
        parts = _parts(values, member, together)
        told = means(_widened(parts, models, together) if name == BLIND else parts, group, units, over, level)
        columns = {"auc": told["mean"], "auc_low": told["low"], "auc_high": told["high"]}
        columns["tpr"] = pa.array(_rates(values, member, together, group, fpr), pa.float64(), from_pandas=True)
        for kind, which in (("members", there & member), ("others", there & ~member), ("missing", ~there)):
            columns[kind] = pa.array(np.bincount(group.codes[which], minlength=group.count))
        columns |= {one: told[one] for one in ORDER if one in told.column_names}
        part = keys if keys.num_columns else pa.table({"score": [name]})
        part = part.append_column("score", pa.array([name] * group.count)) if keys.num_columns else part
        for one in ORDER:
            part = part.append_column(one, columns[one])
        found.append(part)
    whole = pa.concat_tables(found)
    return whole.take(np.arange(whole.num_rows).reshape(len(found), group.count).T.ravel())


def _scores(rows: pa.Table, member: Mask, models: Codes) -> Iterator[tuple[str, Floats, Codes]]:
    """Each score of the rows, high for members, and which rows are compared with each other."""
    for name, sign in SIGNS.items():
        if name in rows.column_names and rows.column(name).null_count < rows.num_rows:
            yield name, sign * numbers(rows.column(name), name), models
    if "text" in rows.column_names:
        values, folds = np.full(len(models), np.nan), np.zeros(len(models), np.int64)
        texts = rows.column("text").to_pylist()
        for model in range(int(models.max(initial=-1)) + 1):
            mine = np.flatnonzero(models == model)
            values[mine], folds[mine] = _judged(tuple(texts[at] for at in mine), tuple(member[mine].tolist()), FOLDS)
        yield BLIND, values, codes([models, folds], len(models))


def _parts(values: Floats, member: Mask, together: Codes) -> Floats:
    """What each row contributes to the AUC of those it is `together` with, of which it is the mean; NaN without one.

    Of a member AUC + N/n (share of others below it - AUC), n members of N rows, and the other way round: so their
    spread over rows is DeLong's, whatever n and N are.
    """
    found = np.full(len(values), np.nan)
    for rows in _groups(together, ~np.isnan(values)):
        mine = member[rows]
        if mine.all() or not mine.any():
            continue
        of_members = 1 - share_above(values[rows[mine]], values[rows[~mine]])
        of_others = share_above(values[rows[~mine]], values[rows[mine]])
        area = of_members.mean()
        found[rows[mine]] = area + (of_members - area) * len(rows) / mine.sum()
        found[rows[~mine]] = area + (of_others - area) * len(rows) / (~mine).sum()
    return found


def _rates(values: Floats, member: Mask, together: Codes, group: Group, fpr: float) -> list[float | None]:
    """`tpr_at` of each group: the mean over what is compared with each other."""
    found: list[list[float]] = [[] for _ in range(group.count)]
    for rows in _groups(together, ~np.isnan(values)):
        rate = tpr_at(values[rows[member[rows]]], values[rows[~member[rows]]], fpr)
        if rate is not None:
            found[group.codes[rows[0]]].append(rate)
    return [float(np.mean(rates)) if rates else None for rates in found]


def _groups(together: Codes, there: Mask) -> list[Codes]:
    """The rows of each that have a value."""
    rows = np.flatnonzero(there)
    rows = rows[np.argsort(together[rows], kind="stable")]
    return np.split(rows, np.flatnonzero(np.diff(together[rows])) + 1) if len(rows) else []


# ---------------------------------------------------------------------------------------------------------
# Without a model


def _blind(texts: tuple[str, ...], member: tuple[bool, ...], folds: int) -> Floats:
    values, of = _judged(texts, member, folds)
    return _widened(_parts(values, np.array(member, bool), of), np.zeros(len(texts), np.int64), of)


def _widened(parts: Floats, models: Codes, together: Codes) -> Floats:
    """Contributions of each model's folds, `together`, with the spread that their mean has: its variance is as many
    times larger as 1 and the number of folds over one less (Nadeau & Bengio 2003, corrected for what they share)."""
    found = parts.copy()
    for rows in _groups(models, ~np.isnan(parts)):
        folds = len(np.unique(together[rows]))
        mean = parts[rows].mean()
        found[rows] = mean + (parts[rows] - mean) * math.sqrt(1 + folds / (folds - 1))
    return found


@functools.lru_cache(maxsize=64)
def _judged(texts: tuple[str, ...], member: tuple[bool, ...], folds: int) -> tuple[Floats, Codes]:
    """Of each text how much likelier its words are among members than among others, log odds learned from the other
    folds; and its fold. NaN where a list has fewer than two texts."""
    mine = np.array(member, bool)
    folds = min(folds, int(mine.sum()), int((~mine).sum()))
    fold = np.zeros(len(texts), np.int64)
    values = np.full(len(texts), np.nan)
    if folds < 2:
        return values, fold
    for side in (mine, ~mine):
        fold[side] = np.arange(side.sum()) % folds
    words = [_words(text) for text in texts]
    vocabulary = len(set().union(*words))
    for one in range(folds):
        logs = []
        for side in (mine, ~mine):
            counts: Counter[str] = Counter()
            for at in np.flatnonzero(side & (fold != one)):
                counts.update(words[at])
            logs.append((counts, math.log(counts.total() + vocabulary)))
        (yes, of_yes), (no, of_no) = logs
        for at in np.flatnonzero(fold == one):
            values[at] = sum(n * (math.log((yes[w] + 1) / (no[w] + 1)) - of_yes + of_no) for w, n in words[at].items())
    return values, fold


def _words(text: str) -> Counter[str]:
    """Lower-cased runs of letters and digits, other signs one by one, and the length in bits of how many there are."""
    found = re.findall(r"\w+|[^\w\s]", text.lower())
    return Counter([*found, f" {len(found).bit_length()}"])
