"""Anticipatory recovery against curves made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import t as student

from memexp import stats
from memexp.errors import SpecError

CURVES = {0: (1.0, 2.0, 3.0, 2.5), 1: (1.0, 3.0, 2.5, 2.0), 2: (0.5, 1.0, 1.5, 1.5)}
"""Means by seed, of which 1/4, 1/2 and nothing comes back."""


def rows(curves: dict[int, tuple[float, ...]], exposures: int = 2, items: int = 4) -> list[dict[str, Any]]:
    return [
        {"model": "m", "seed": seed, "item": item, "item_exposures": exposures, "steps_since": 5 * at}
        | {"target_nll": mean + item - (items - 1) / 2}
        for seed, curve in curves.items()
        for at, mean in enumerate(curve)
        for item in range(items)
    ]


def test_it_is_what_comes_back_with_an_interval_over_seeds() -> None:
    never = [{**row, "item_exposures": 0, "steps_since": None} for row in rows({0: (9.0,)})]
    [found] = stats.recovery(pa.Table.from_pylist([*rows(CURVES), *never])).to_pylist()
    shares = np.array([0.25, 0.5, 0.0])
    half = student.ppf(0.975, 2) * shares.std(ddof=1) / np.sqrt(3)
    assert (found["model"], found["item_exposures"], found["seeds"], found["over"]) == ("m", 2, 3, "seeds")
    assert [found[name] for name in ("recovery", "low", "high")] == pytest.approx([0.25, 0.25 - half, 0.25 + half])
    highest = np.mean([max(curve) for curve in CURVES.values()])
    assert [found[name] for name in ("after", "highest", "before")] == pytest.approx([2.5 / 3, highest, 2.0])


def test_few_seeds_have_no_interval() -> None:
    [found] = stats.recovery(pa.Table.from_pylist(rows({0: CURVES[0]}))).to_pylist()
    assert found["recovery"] == pytest.approx(0.25) and found["low"] is None


def test_nothing_forgotten_is_null_and_what_was_cut_short_is_left_out() -> None:
    better, whole = rows({0: (3.0, 2.0, 1.0)}, exposures=1), rows(CURVES)
    cut = [row for row in rows(CURVES, exposures=3) if row["item"] < 4 - row["steps_since"] / 5]
    found = stats.recovery(pa.Table.from_pylist([*better, *whole, *cut]), by="model").to_pylist()
    assert [(row["item_exposures"], row["recovery"]) for row in found] == [(1, None), (2, pytest.approx(0.25))]


def test_columns_that_are_missing() -> None:
    with pytest.raises(SpecError, match="steps_since"):
        stats.recovery(pa.Table.from_pylist(rows(CURVES)).drop_columns(["steps_since"]))


def test_texts_of_other_lags_are_not_one_curve() -> None:
    """Of a text that is not there at the highest, the others would stand for it; only its seed is left out."""
    gap = [row for row in rows(CURVES) if not (row["seed"] == 1 and row["item"] == 0 and row["steps_since"] == 5)]
    [found] = stats.recovery(pa.Table.from_pylist(gap)).to_pylist()
    assert (found["seeds"], found["missing"]) == (2, 1) and found["recovery"] == pytest.approx((0.25 + 0.0) / 2)
    broken = [{**row, "target_nll": np.nan} if row["seed"] == 2 and row["item"] == 0 else row for row in rows(CURVES)]
    [found] = stats.recovery(pa.Table.from_pylist(broken)).to_pylist()
    assert found["missing"] == 1 and found["recovery"] == pytest.approx((0.25 + 0.5) / 2)
