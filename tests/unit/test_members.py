"""Members told from others: against brute-force counts; lists that give themselves away against those that do not."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memexp import stats
from memexp.errors import SpecError
from memexp.probes.membership import SCHEMA
from memexp.stats.members import BLIND, SIGNS

WORDS = "ferry island noon violin bed fox pond dawn baker rolls clock May boats doors train poppies goats steps".split()


def counted(members: Any, others: Any) -> float:
    """The share of pairs in which the member is above, ties one half, one pair at a time."""
    pairs = list(itertools.product(members, others))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def drawn(count: int, seed: int, more: str = "") -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=8)) + more for _ in range(count)]


def table(members: int = 40, others: int = 25, seeds: int = 3, **columns: Any) -> pa.Table:
    """Scores rounded, so that some tie; those of another seed are shifted by more than what tells members apart."""
    draw = np.random.default_rng(members)
    rows = []
    for seed in range(seeds):
        for member, count in ((True, members), (False, others)):
            texts = drawn(count, seed=int(member))
            for item in range(count):
                score = round(float(draw.normal(0.6 * member + 5 * seed, 1)), 1)
                row = {"item": item, "member": member, "text": texts[item], "tokens": 9, "seed": seed}
                rows.append(row | {name: sign * score for name, sign in SIGNS.items()})
    made = pa.Table.from_pylist(rows)
    for name, value in columns.items():
        made = made.append_column(name, pa.array([value] * made.num_rows))
    return made


def of(found: pa.Table, score: str) -> dict[str, Any]:
    [row] = [row for row in found.to_pylist() if row["score"] == score]
    return row


def values(rows: pa.Table, score: str, seed: int, member: bool) -> list[float]:
    return [row[score] for row in rows.to_pylist() if row["seed"] == seed and row["member"] == member]


def test_auc_is_the_mean_of_each_models_own() -> None:
    rows = table()
    found = stats.membership(rows)
    assert found["score"].to_pylist() == [*SIGNS, BLIND]
    for score, sign in SIGNS.items():
        sides = [[sign * np.array(values(rows, score, seed, member)) for member in (True, False)] for seed in range(3)]
        expected = np.mean([counted(*both) for both in sides])
        row = of(found, score)
        assert row["auc"] == pytest.approx(expected, abs=1e-12)
        assert row["tpr"] == pytest.approx(np.mean([stats.tpr_at(*both) for both in sides]))
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert (row["members"], row["others"], row["missing"], row["seeds"]) == (120, 75, 0, 3)
    together = [sign * np.concatenate([values(rows, "loss", seed, member) for seed in range(3)]) for member in (1, 0)]
    assert abs(counted(*together) - of(found, "loss")["auc"]) > 0.05, "of all models at once it would be another"


def test_the_interval_is_delongs() -> None:
    """Of one model, over texts that are not paired: the two variances by hand."""
    rows = table(seeds=1)
    member, other = (np.array(values(rows, "zlib", 0, one)) for one in (True, False))
    above = [np.mean([(a > b) + (a == b) / 2 for b in other]) for a in member]
    below = [np.mean([(a > b) + (a == b) / 2 for a in member]) for b in other]
    error = np.sqrt(np.var(above, ddof=1) / len(member) + np.var(below, ddof=1) / len(other))
    rows = rows.drop_columns("item")
    row = of(stats.membership(rows, over="items"), "zlib")
    assert row["items"] == 65
    assert (row["auc_high"] - row["auc_low"]) / 2 == pytest.approx(2 * error, rel=0.03)


def test_groups_are_as_if_each_were_alone_and_what_is_missing_is_counted() -> None:
    one, two = table(exposures=0), table(members=30, others=30, exposures=3)
    loss = two["loss"].to_pylist()
    loss[0] = None
    two = two.set_column(two.column_names.index("loss"), "loss", pa.array(loss))
    found = stats.membership(pa.concat_tables([one, two]), by=["exposures"])
    assert found.column_names[:3] == ["exposures", "score", "auc"]
    assert found["exposures"].to_pylist() == [0] * 6 + [3] * 6
    for at, rows in enumerate((one, two)):
        assert found.slice(6 * at, 6).drop_columns("exposures").equals(stats.membership(rows))
    assert of(found.slice(6), "loss")["missing"] == 1 and of(found.slice(6), "loss")["members"] == 89


def test_what_was_not_measured_has_no_row() -> None:
    rows = table()
    at = rows.column_names.index("reference")
    rows = rows.set_column(at, "reference", pa.nulls(rows.num_rows, pa.float64()))
    assert stats.membership(rows)["score"].to_pylist() == ["loss", "zlib", "min_k", "min_k_plus", "blind"]
    assert stats.membership(rows.drop_columns("text"))["score"].to_pylist()[-1] == "min_k_plus"
    assert {*SIGNS} == {*SCHEMA.names} - {"item", "member", "text", "tokens"}
    with pytest.raises(SpecError, match="there is no column 'member'"):
        stats.membership(rows.drop_columns("member"))


def test_tpr_is_the_largest_that_the_false_positives_allow() -> None:
    members, others = [9.0, 8.0, 5.0, 5.0, 1.0], [*range(7), 8.0, 4.0, 4.0]
    for fpr in (0.0, 0.05, 0.1, 0.2, 0.3, 0.7):
        allowed = [
            np.mean(np.array(members) >= t) for t in [*members, 99] if np.mean(np.array(others) >= t) <= fpr + 1e-9
        ]
        assert stats.tpr_at(members, others, fpr) == max(allowed)
    assert stats.tpr_at(members, others) == 1 / 5, "a tie with the likeliest other is not above it"
    assert stats.tpr_at([1.0, None], [0.0] * 99 + [2.0]) == 1.0, "one of a hundred may be"
    assert stats.tpr_at([1.0], [0.0] * 98 + [2.0]) == 0.0
    assert stats.tpr_at([], [1.0]) is None and stats.tpr_at([1.0], [None]) is None
    with pytest.raises(SpecError, match=r"fpr: must be from 0 to less than 1, got 1\.5"):
        stats.tpr_at([1.0], [1.0], 1.5)


# Without a model


def test_lists_that_give_themselves_away_are_seen() -> None:
    for more in (" indeed", " !", " and so on and on and on and on and on"):
        told = stats.blind_auc(drawn(60, 1, more), drawn(60, 2))
        assert told.mean is not None and told.low is not None
        assert told.mean == 1.0 and told.low > 0.9
    assert stats.blind_auc(drawn(60, 1), drawn(60, 2, " indeed")).mean == 1.0


def test_lists_that_do_not_are_not() -> None:
    """Also on average: cross-validation that compares texts of different folds is below one half."""
    found = [stats.blind_auc(drawn(30, 2 * at), drawn(30, 2 * at + 1)) for at in range(300)]
    means = np.array([one.mean for one in found])
    assert abs(means.mean() - 0.5) < 3 * means.std() / np.sqrt(len(means)) < 0.02
    inside = np.mean([one.low <= 0.5 <= one.high for one in found if one.low is not None and one.high is not None])
    assert 0.92 < inside < 0.99


def test_blind_is_naive_bayes_of_the_other_folds() -> None:
    """Three folds of one text each: the log odds by hand."""
    members, others = ["a b", "a c", "b c"], ["d e", "a e", "d a"]
    length = " 2"  # two words
    vocabulary = {*"abcde", length}
    odds = []
    for fold in range(3):
        for text in (members[fold], others[fold]):
            sides = []
            for texts in (members, others):
                known = [w for at, one in enumerate(texts) if at != fold for w in [*one.split(), length]]
                sides.append(
                    [np.log((known.count(w) + 1) / (len(known) + len(vocabulary))) for w in [*text.split(), length]]
                )
            odds.append(sum(sides[0]) - sum(sides[1]))
    expected = np.mean([counted([odds[2 * fold]], [odds[2 * fold + 1]]) for fold in range(3)])
    assert stats.blind_auc(members, others, folds=3).mean == pytest.approx(expected)
    from memexp.stats.members import _judged

    judged, folds = _judged((*members, *others), (True,) * 3 + (False,) * 3, 3)
    assert folds.tolist() == [0, 1, 2] * 2
    np.testing.assert_allclose(judged, [*odds[::2], *odds[1::2]], rtol=1e-9)


def test_a_membership_table_says_so_of_its_own_texts() -> None:
    rows = table(seeds=2)
    texts = [f"{row['text']} indeed" if row["member"] else row["text"] for row in rows.to_pylist()]
    given_away = rows.set_column(rows.column_names.index("text"), "text", pa.array(texts))
    assert of(stats.membership(given_away), BLIND)["auc_low"] > 0.8
    plain = of(stats.membership(rows), BLIND)
    assert plain["auc"] == pytest.approx(stats.blind_auc(drawn(40, 1), drawn(25, 0)).mean)
    assert plain["auc_low"] < 0.5 < plain["auc_high"]


def test_too_few_texts_have_no_baseline() -> None:
    assert stats.blind_auc(["one"], ["two", "three"]).mean is None
    assert stats.blind_auc([], []).mean is None
    with pytest.raises(SpecError, match="folds: must be at least 2, got 1"):
        stats.blind_auc(["a"], ["b"], folds=1)
