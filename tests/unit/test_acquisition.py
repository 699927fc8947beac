"""Effectivity and retainability: by hand, against a plain loop, and where there is nothing to compare."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memexp import stats
from memexp.errors import SpecError

STEPS = (0, 2, 5, 20, 100)
DEPTHS = ("memorisation", "paraphrase")


def rows(
    exposures: tuple[int, ...] = (0, 1, 2), spans: int = 3, seeds: int = 3, items: int = 8
) -> list[dict[str, Any]]:
    """A trajectory that is best two steps after an exposure, of spans that gain less in other words."""
    draw = np.random.default_rng(0)
    start = {(i, d, s): float(draw.normal(-6, 1)) for i in range(items) for d in DEPTHS for s in range(spans)}
    found = []
    for n in exposures:
        for seed in range(seeds):
            for steps in STEPS if n else (0,):
                for (item, depth, span), base in start.items():
                    gain = n * (1.0 if depth == DEPTHS[0] else 0.4) * (1.2 if steps == 2 else 1)
                    gain *= 1 - 0.2 * math.log10(max(steps - 1, 1))
                    value = base + gain + float(draw.normal(0, 0.05)) * (n > 0)
                    where = {
                        "model": "tiny",
                        "lr": 1e-3 if n else None,
                        "exposures": n,
                        "retention_steps": steps or None,
                    }
                    told = {"seed": seed, "item": item, "depth": depth, "span": span}
                    found.append({**where, **told, "per_token": value})
    return found


def plain_best(table: list[dict[str, Any]], like: dict[str, Any], n: int, window: int) -> tuple[float, int]:
    mine = [
        (row["per_token"], -(row["retention_steps"] or 0))
        for row in table
        if row["exposures"] == n
        and (row["retention_steps"] or 0) <= window
        and all(row[name] == like[name] for name in ("seed", "item", "depth", "span"))
    ]
    value, steps = max(mine)
    return value, -steps


def plain_at(table: list[dict[str, Any]], like: dict[str, Any], n: int, steps: int) -> float:
    [value] = [
        row["per_token"]
        for row in table
        if (row["exposures"], row["retention_steps"] or 0) == (n, steps)
        and all(row[name] == like[name] for name in ("seed", "item", "depth", "span"))
    ]
    return float(value)


@pytest.mark.parametrize(("window", "gap"), [(50, 0), (0, 0), (2, 20)])
def test_effectivity_is_that_of_a_plain_loop(window: int, gap: int) -> None:
    table = rows()
    found = stats.effectivity(pa.Table.from_pylist(table), by=["model", "lr", "depth"], window=window, gap=gap)
    assert found.column("exposures").to_pylist() == [1, 2, 1, 2] and set(found.column("lr").to_pylist()) == {1e-3}
    for one in found.to_pylist():
        spans = [row for row in table if row["exposures"] == 0 and row["depth"] == one["depth"]]
        n = one["exposures"]
        each = [
            plain_best(table, row, n, window)[0] - plain_at(table, row, n - 1, gap if n > 1 else 0) for row in spans
        ]
        assert one["effectivity"] == pytest.approx(np.mean(each), abs=1e-9)
        assert (one["n"], one["missing"], one["items"], one["seeds"]) == (8 * 3 * 3, 0, 8, 3)
        assert one["low"] < one["effectivity"] < one["high"]


def test_a_model_that_has_not_studied_is_that_of_all_seeds() -> None:
    """Results have it once. Of models drawn at random each has its own."""
    every = rows()
    once = [row for row in every if row["exposures"] or row["seed"] == 0]
    for measure in (stats.effectivity, stats.retainability):
        both = [measure(pa.Table.from_pylist(table)).to_pylist() for table in (every, once)]
        for one, other in zip(*both, strict=True):
            assert one == {name: pytest.approx(value) for name, value in other.items()}
    drawn = pa.Table.from_pylist([{**row, "init_seed": row["seed"]} for row in once])
    assert {one["n"] for one in stats.effectivity(drawn).to_pylist()} == {8 * 3, 8 * 3 * 3}


@pytest.mark.parametrize("window", [50, 0])
def test_retainability_is_that_of_a_plain_loop(window: int) -> None:
    table = rows()
    found = stats.retainability(pa.Table.from_pylist(table), window=window).to_pylist()
    expected: dict[tuple[str, int, int], list[float]] = {}
    for row in table:
        if row["exposures"] == 0:
            continue
        best, at = plain_best(table, row, row["exposures"], window)
        t = (row["retention_steps"] or 0) - at
        if t > 0:
            start = plain_at(table, row, 0, 0)
            key = (row["depth"], row["exposures"], t)
            expected.setdefault(key, []).append(100 * (row["per_token"] - start) / (best - start))
    assert {(one["depth"], one["exposures"], one["t"]) for one in found} == expected.keys()
    for one in found:
        each = expected[one["depth"], one["exposures"], one["t"]]
        assert (one["retainability"], one["n"]) == (pytest.approx(np.mean(each), abs=1e-9), len(each))


def test_the_slope_is_that_of_the_published_fit() -> None:
    """b - a log10 t, and where it is 0."""
    table = [
        {"model": "m", "exposures": n, "retention_steps": t, "item": 0, "depth": "memorisation", "span": 0}
        | {"per_token": -4.0 + (2 if t == 0 else 2 * (0.8 - 0.2 * math.log10(t))) * n}
        for n in (0, 1)
        for t in (0, 1, 10, 100, 1000)
        if n or t == 0
    ]
    found = stats.retainability(pa.Table.from_pylist(table), window=0)
    assert found.column("retainability").to_pylist() == pytest.approx([80, 60, 40, 20])
    [fit] = stats.fit_curve(found["t"], found["retainability"], curves=["log"], resamples=0)
    assert (fit.parameters["a"], fit.parameters["floor"]) == (pytest.approx(20), pytest.approx(80))
    assert 10 ** (fit.parameters["floor"] / fit.parameters["a"]) == pytest.approx(1e4)


def test_what_gained_nothing_and_outliers_are_missing() -> None:
    table = rows(exposures=(0, 1))
    for row in table:
        if row["item"] == 0 and row["exposures"]:
            row["per_token"] = -99.0
    found = stats.retainability(pa.Table.from_pylist(table), window=0, by=["model"]).to_pylist()
    assert {(one["n"], one["missing"]) for one in found} == {(7 * 18, 18)}
    for row in table:
        if row["item"] == 1 and row["exposures"] and row["retention_steps"] == 20:
            row["per_token"] -= 50
    kept, all_of_them = (
        {one["t"]: one for one in stats.retainability(pa.Table.from_pylist(table), window=0, outliers=o).to_pylist()
         if one["depth"] == "memorisation"}
        for o in (1.5, None)
    )  # fmt: skip
    assert kept[20]["missing"] >= 9 + 9 > all_of_them[20]["missing"] == 9
    assert kept[20]["retainability"] > 50 > 0 > all_of_them[20]["retainability"]


def test_without_rows_before_study_nothing_is_known() -> None:
    table = pa.Table.from_pylist(rows(exposures=(1, 2)))
    found = {(one["depth"], one["exposures"]): one for one in stats.effectivity(table).to_pylist()}
    assert found["memorisation", 1]["effectivity"] is None and found["memorisation", 2]["effectivity"] > 0.5
    assert {one["retainability"] for one in stats.retainability(table).to_pylist()} == {None}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"window": -1}, "window and gap: must be 0 or more, got -1 and 0"),
        ({"value": "nope"}, "there is no column 'nope'"),
        ({"steps": "nope"}, "there is no column 'nope'"),
        ({"over": "nope"}, "over"),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    table = pa.Table.from_pylist(rows(exposures=(0, 1)))
    for measure in (stats.effectivity, stats.retainability):
        with pytest.raises(SpecError) as error:
            measure(table, **fields)
        assert str(error.value).startswith(says)
    with pytest.raises(SpecError, match=r"^outliers: must be above 0, or None, got 0"):
        stats.retainability(table, outliers=0)


def test_a_sweep_that_has_come_no_further_than_its_controls() -> None:
    never = pa.Table.from_pylist(rows(exposures=(0,)))
    assert stats.effectivity(never).num_rows == stats.retainability(never).num_rows == 0
    one = {"model": "m", "exposures": 0, "item": 0, "seed": 0, "steps": 3, "most": 10, "criterion": 0.5}
    assert stats.savings(pa.Table.from_pylist([{**one, "nll_before": 1.0}])).num_rows == 0


def test_who_saw_a_part_of_the_list_is_not_before_study() -> None:
    every = rows()
    part = [{**row, "further_batches": 3, "per_token": -1.0} for row in every if row["exposures"] == 0]
    both = [{**row, "further_batches": None} for row in every] + part
    for measure in (stats.effectivity, stats.retainability):
        alone, beside = (measure(pa.Table.from_pylist(one)).to_pylist() for one in (every, both))
        assert alone == beside
