"""Means with intervals: what they cover, against scipy and by hand, over any kind of table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import stats as scipy_stats

from memexp import stats
from memexp.errors import SpecError

SIMULATIONS, ITEMS = 2_000, 50


def simulated(kind: str, units: int, shares: bool) -> tuple[pa.Table, float]:
    """Rows of 2,000 studies of `units` seeds (items crossed) or lists (items nested), and the mean they are about."""
    draw = np.random.default_rng(units)
    shape = (SIMULATIONS, units, ITEMS)
    item = draw.normal(0, 1, (SIMULATIONS, 1 if kind == "seeds" else units, ITEMS))
    unit = draw.normal(0, 0.3, (SIMULATIONS, units, 1))
    values = 0.8 + item + unit + draw.normal(0, 1, shape)
    mean = 0.8
    if shares:
        values, mean = values > 0, float(scipy_stats.norm.cdf(0.8 / np.sqrt(1 + 0.3**2 + 1)))
    study, of_unit, of_item = (np.broadcast_to(part, shape).ravel() for part in np.ogrid[:SIMULATIONS, :units, :ITEMS])
    name = "seed" if kind == "seeds" else "replication"
    return pa.table({"study": study, name: of_unit, "item": of_item, "y": values.ravel()}), mean


def coverage(found: pa.Table, mean: float) -> float:
    low, high = (found[name].to_numpy() for name in ("low", "high"))
    return float(np.mean((low <= mean) & (mean <= high)))


@pytest.mark.parametrize(
    ("kind", "units", "shares"),
    [
        *((kind, units, False) for kind in ("seeds", "lists") for units in (3, 4, 10)),
        ("seeds", 4, True),
        ("seeds", 10, True),
        ("lists", 4, True),
    ],
)
def test_an_interval_over_both_covers_what_it_promises(kind: str, units: int, shares: bool) -> None:
    table, mean = simulated(kind, units, shares)
    found = stats.summary(table, "y", by=["study"], over="both")
    assert found.num_rows == SIMULATIONS and set(found["over"].to_pylist()) == {
        "items and seeds" if kind == "seeds" else "lists"
    }
    assert 0.93 <= coverage(found, mean) <= (0.98 if units == 10 else 1)
    assert set(found["items"].to_pylist()) == {ITEMS if kind == "seeds" else units * ITEMS}
    # The control: rows taken for independent ones, and items alone.
    naive = stats.summary(table, "y", by=["study"], over="items", items=(), seeds=(), lists=())
    assert naive["n"][0].as_py() == naive["items"][0].as_py() == units * ITEMS
    assert coverage(naive, mean) < 0.85
    if units == 3:
        assert coverage(stats.summary(table, "y", by=["study"], over="items"), mean) < 0.9


def by_hand(values: Any, *clusters: Any) -> float:
    """V of the mean over one kind of clusters, in a loop."""
    keys = list(zip(*clusters, strict=True))
    off = values - values.mean()
    sums = [sum(off[at] for at in range(len(off)) if keys[at] == key) for key in dict.fromkeys(keys)]
    count = len(sums)
    return float(sum(one**2 for one in sums) / len(values) ** 2 * count / (count - 1))


def rows(seeds: int = 4, items: int = 9) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(0)
    seed, item = (part.ravel() for part in np.mgrid[:seeds, :items])
    values = draw.normal(0, 1, items)[item] + draw.normal(0, 0.7, seeds)[seed] + draw.normal(0, 1, seeds * items)
    kept = np.arange(len(values)) % 7 != 3  # not every item under every seed
    return values[kept], item[kept], seed[kept]


def test_the_variance_over_both_is_that_of_two_ways() -> None:
    values, item, seed = rows()
    parts = by_hand(values, item), by_hand(values, seed), by_hand(values, item, seed)
    variance = parts[0] + parts[1] - parts[2]
    assert variance > max(parts[:2])
    found = stats.mean_interval(values, items=item, seeds=seed, over="both")
    half = scipy_stats.t.ppf(0.975, 3) * np.sqrt(variance)
    assert found.low == pytest.approx(values.mean() - half) and found.high == pytest.approx(values.mean() + half)
    assert (found.n, found.items, found.seeds, found.lists, found.df) == (len(values), 9, 4, None, 3)
    for over, one in (("items", parts[0]), ("seeds", parts[1])):
        assert stats.mean_interval(values, items=item, seeds=seed, over=over).error == pytest.approx(np.sqrt(one))


def test_it_is_never_below_either_one() -> None:
    seed, item = (part.ravel() for part in np.mgrid[:4, :6])
    values = item + np.array([0, 1, 1, 0])[seed] * np.where(item % 2, 1, -1)  # seeds agree in their means
    parts = by_hand(values, item), by_hand(values, seed), by_hand(values, item, seed)
    assert parts[0] + parts[1] - parts[2] < parts[0]
    found = stats.mean_interval(values, items=item, seeds=seed, over="both")
    assert found.error == pytest.approx(np.sqrt(parts[0]))


def test_lists_take_the_place_of_their_items() -> None:
    of_list, seed, item = (part.ravel() for part in np.mgrid[:5, :3, :4])
    values = np.random.default_rng(1).normal(0, 1, 60) + of_list
    found = stats.mean_interval(values, items=item, seeds=seed, lists=of_list, over="both")
    parts = by_hand(values, of_list), by_hand(values, seed), by_hand(values, of_list, seed)
    assert found.error == pytest.approx(np.sqrt(max(*parts[:2], parts[0] + parts[1] - parts[2])))
    assert (found.over, found.df, found.items, found.lists) == ("lists and seeds", 2, 20, 5)


@pytest.mark.parametrize("units", [1, 2])
def test_fewer_than_three_give_points_only(units: int) -> None:
    values, item, seed = rows(seeds=units)
    for over in ("both", "seeds"):
        found = stats.mean_interval(values, items=item, seeds=seed, over=over)
        assert found.low is None and found.high is None and found.mean == pytest.approx(values.mean())
        assert found.reason == f"{units} seed{'s' if units > 1 else ''}, an interval needs 3"
    assert stats.mean_interval([0.1, 0.7]).low is None
    found = stats.mean_interval(values, items=item, seeds=seed)  # the widest there is, and says of what not
    assert found.low is not None and found.over == "items" and "not over seeds" in str(found.reason)


def test_both_of_one_list_without_seeds_is_not_to_be_had() -> None:
    found = stats.mean_interval(np.arange(9.0), items=range(9), over="both")
    assert found.low is None and found.reason == "unknown seeds, an interval needs 3"


def test_items_alone_are_as_scipy_has_them() -> None:
    values = np.random.default_rng(2).normal(3, 1, 40)
    found = stats.mean_interval(values)
    interval = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize("right", [0, 1, 37, 50])
def test_choices_of_single_items_have_wilsons_interval(right: int) -> None:
    found = stats.mean_interval([True] * right + [False] * (50 - right))
    interval = scipy_stats.binomtest(right, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_share_stays_between_none_and_all() -> None:
    seed, item = (part.ravel() for part in np.mgrid[:3, :40])
    values = (item > 0) | (seed > 0)
    found = stats.mean_interval(values, items=item, seeds=seed)
    assert found.over == "items and seeds" and found.high is not None and 0.9 < found.mean < found.high <= 1


def test_seeds_that_make_no_difference_are_left_out() -> None:
    seed, item = (part.ravel() for part in np.mgrid[:5, :40])
    values = item % 4 == 0  # as a model that has not studied
    found = stats.mean_interval(values, items=item, seeds=seed, over="both")
    once = stats.mean_interval(values[:40])
    assert (found.low, found.high) == (once.low, once.high)
    assert (found.over, found.reason, found.n, found.seeds) == ("items", "no variation over seeds", 200, 5)


def test_no_variation_gives_no_interval() -> None:
    found = stats.mean_interval([2.5] * 6)
    assert (found.mean, found.low, found.reason) == (2.5, None, "no variation over items")


def test_what_is_missing_is_counted() -> None:
    found = stats.mean_interval([1.0, None, 2.0, float("nan"), 4.0])
    assert (found.n, found.missing, found.mean) == (3, 2, pytest.approx(7 / 3))
    empty = stats.mean_interval([None, None])
    assert (empty.mean, empty.low, empty.n, empty.reason is not None) == (None, None, 0, True)
    assert stats.mean_interval([]).n == 0


TABLE = pa.table(
    {
        "model": ["b", "a", "b", None, "a", "b", "b"],
        "seed": [0, 0, 0, 0, 1, 1, 1],
        "item": [0, 0, 1, 0, 0, 0, 1],
        "target_nll": [1.0, 2.0, 3.0, 1.0, 2.0, None, 1.0],
        "foil_nll": [2.0, 1.0, 3.0, 2.0, 3.0, 3.0, 4.0],
        "corpus": pa.nulls(7, pa.string()),
    }
)


@pytest.mark.parametrize("made", [lambda table: table, pa.Table.to_pandas, pl.from_arrow, pa.Table.to_pydict])
def test_any_table_will_do(made: Any) -> None:
    found = stats.summary(made(TABLE), "target_nll < foil_nll", ["model"])
    assert found["model"].to_pylist() == ["b", "a", None]  # in the order of appearance
    assert found["mean"].to_pylist() == [pytest.approx(2 / 3), 0.5, 1.0]
    assert found["n"].to_pylist() == [3, 2, 1] and found["missing"].to_pylist() == [1, 0, 0]
    assert found["items"].to_pylist() == [2, 1, 1] and found["lists"].to_pylist() == [None] * 3


def test_a_value_may_be_a_column_a_difference_or_an_array() -> None:
    given = ("item", "foil_nll - target_nll", np.arange(7), pd.Series(range(7)), pl.Series(range(7)))
    means = [stats.summary(TABLE, value)["mean"][0].as_py() for value in given]
    assert means == [pytest.approx(2 / 7), pytest.approx(5 / 6), 3.0, 3.0, 3.0]


def test_every_group_is_as_if_it_were_alone() -> None:
    table, _ = simulated("seeds", 4, True)
    table = table.slice(0, 600).take(np.random.default_rng(0).permutation(600))
    for row in stats.summary(table, "y", ["study"]).to_pylist():
        alone = table.filter(pa.compute.equal(table["study"], row.pop("study")))
        expected = vars(stats.mean_interval(alone["y"], items=alone["item"], seeds=alone["seed"]))
        assert {name: pytest.approx(value) for name, value in expected.items()} == row


def test_columns_that_are_not_there_are_named() -> None:
    with pytest.raises(SpecError, match=r"no column 'nll'; there are model, seed, item, target_nll, foil_nll$"):
        stats.summary(TABLE, "nll")
    with pytest.raises(SpecError, match="no column 'lr'"):
        stats.summary(TABLE, "item", ["lr"])
    with pytest.raises(SpecError, match="model: holds string"):
        stats.summary(TABLE, "model")
    with pytest.raises(SpecError, match="over: 'subjects' is none of items, seeds, lists, both"):
        stats.mean_interval([1, 2, 3], over="subjects")
    with pytest.raises(SpecError, match="takes an Arrow, pandas or polars table"):
        stats.summary([1, 2], "item")
    with pytest.raises(SpecError, match="differ in length: 2 and 3"):
        stats.mean_interval([1, 2, 3], items=[1, 2])
