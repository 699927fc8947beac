"""Retention and its curves, and the best of a grid: planted parameters, and scipy's fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import optimize

from memexp import stats
from memexp.errors import SpecError

STEPS = np.array([0, 1, 3, 10, 30, 100, 300, 1000])
PLANTED = {
    "power": {"a": 0.55, "c": 0.5, "floor": 0.4},
    "exponential": {"a": 0.55, "c": 40.0, "floor": 0.4},
    "log": {"a": 0.1, "floor": 0.9},
}


def curve(name: str, t: Any, a: float, c: float, floor: float) -> Any:
    return floor + a * ((1 + t) ** -c if name == "power" else np.exp(-t / c))


def forgotten(
    name: str, seeds: int, items: int = 150, draw: int = 0, of_seeds: float = 0.02
) -> tuple[dict[str, Any], Any]:
    """Arguments for `fit_curve`, of scores that forget as planted, and their means."""
    random = np.random.default_rng(draw)
    planted = PLANTED[name]
    if name == "log":
        means = planted["floor"] - planted["a"] * np.log10(np.maximum(STEPS, 0.1))
    else:
        means = curve(name, STEPS, **planted)
    seed, item, at = (part.ravel() for part in np.mgrid[:seeds, :items, : len(STEPS)])
    noise = (
        random.normal(0, 0.1, items)[item] + random.normal(0, of_seeds, seeds)[seed] + random.normal(0, 0.1, item.size)
    )
    values = means[at] + noise
    return {"t": STEPS[at], "values": values, "items": item, "seeds": seed}, [values[at == k].mean() for k in range(8)]


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_curve_is_chosen_and_its_parameters_are_within_their_bounds(name: str) -> None:
    fits = stats.fit_curve(**forgotten(name, seeds=4)[0])
    assert [fit.chosen for fit in fits] == [True, False, False] and fits[0].curve == name
    assert fits[0].held_out < fits[1].held_out < fits[2].held_out
    for parameter, value in PLANTED[name].items():
        assert fits[0].low[parameter] < value < fits[0].high[parameter]
    assert fits[0].over == "items and seeds" and fits[0].n == 4 * 150 * 8


@pytest.mark.parametrize("name", ["power", "exponential"])
def test_the_least_squares_are_those_of_scipy(name: str) -> None:
    given, means = forgotten(name, seeds=3)
    [fit] = stats.fit_curve(**given, curves=[name], resamples=0)
    expected, _ = optimize.curve_fit(lambda *at: curve(name, *at), STEPS, means, p0=list(PLANTED[name].values()))
    assert list(fit.parameters.values()) == pytest.approx(expected, rel=1e-4)
    assert fit.at([5, 500]) == pytest.approx(curve(name, np.array([5, 500]), *expected), rel=1e-5)
    assert fit.low == dict.fromkeys("a c floor".split())


def test_bounds_over_both_are_wider_than_over_items_and_cover() -> None:
    inside = narrower = 0
    for draw in range(25):
        given, _ = forgotten("power", seeds=5, items=60, draw=draw, of_seeds=0.1)
        [both] = stats.fit_curve(**given, curves=["power"], resamples=100)
        inside += both.low["floor"] < 0.4 < both.high["floor"]
        [items] = stats.fit_curve(**given, curves=["power"], resamples=100, over="items")
        narrower += items.low["floor"] < 0.4 < items.high["floor"]
    assert inside >= 22 and narrower <= 15  # of 25


def test_a_floor_may_be_given_and_is_not_below_nothing() -> None:
    given, _ = forgotten("log", seeds=1)
    given["values"] = np.maximum(given["values"], 0)
    fits = {fit.curve: fit for fit in stats.fit_curve(**given, resamples=0)}
    assert fits["power"].parameters["floor"] >= 0
    [fixed] = stats.fit_curve(**given, curves=["exponential"], floor=0.5, resamples=0)
    assert fixed.parameters["floor"] == 0.5


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(SpecError, match=r"needs 3 intervals of a step or more, got \[0.0, 1.0, 10.0\]"):
        stats.fit_curve([0, 1, 10], [1.0, 0.9, 0.8])
    with pytest.raises(SpecError, match="'cubic' is none of power, exponential, log"):
        stats.fit_curve(STEPS, STEPS / 1e4, curves=["cubic"])
    with pytest.raises(SpecError, match="t must be a number of steps"):
        stats.fit_curve([-1, 1, 2], [1, 2, 3])
    few = stats.fit_curve([1, 2, 3], [1.0, 0.5, 0.4])  # each left out in turn leaves two
    assert not any(fit.chosen for fit in few if fit.curve != "log")


# What is left of what study gained


def studied(gain: float = 0.45, seeds: int = 4) -> pa.Table:
    """Rows of recognition: half right untrained, at every seed the same; then less and less of the gain."""
    draw = np.random.default_rng(0)
    untrained = np.arange(200) % 2 == 0
    parts = []
    for seed in range(seeds):
        parts.append((0, None, None, seed, untrained))
        for steps, left in ((None, 1.0), (10, 0.7), (100, 0.4)):
            parts.append((3, 1e-3, steps, seed, draw.random(200) < 0.5 + gain * left))
    return pa.concat_tables(
        pa.table(
            {
                "exposures": [exposures] * 200,
                "lr": pa.array([lr] * 200, pa.float64()),
                "retention_steps": pa.array([steps] * 200, pa.int64()),
                "seed": [seed] * 200,
                "item": range(200),
                "right": right,
            }
        )
        for exposures, lr, steps, seed, right in parts
    )


def test_retention_is_a_share_of_what_study_gained() -> None:
    rows = stats.retention(studied(), "right", by=["lr"]).to_pylist()
    assert [row["retention_steps"] for row in rows] == [0, 10, 100]
    for row, left in zip(rows, (1, 0.7, 0.4), strict=True):
        assert row["untrained"] == 0.5 and row["gained"] == row["studied"] - 0.5
        assert row["retained"] == pytest.approx((row["mean"] - 0.5) / (row["studied"] - 0.5))
        assert row["retained"] == pytest.approx(left, abs=0.1)
    assert rows[0]["retained_low"] == pytest.approx(1) == rows[0]["retained_high"]
    assert all(row["retained_low"] < row["retained"] < row["retained_high"] for row in rows[1:])


def test_without_a_gain_there_is_nothing_to_retain() -> None:
    for row in stats.retention(studied(gain=0.005), "right", by=["lr"]).to_pylist():
        assert row["gained_low"] < 0 < row["gained_high"] and row["retained"] is None
    table = studied()
    alone = stats.retention(table.filter(pa.compute.greater(table["exposures"], 0)), "right", by=["lr"])
    assert alone["mean"].null_count == 0 and alone["retained"].null_count == alone["untrained"].null_count == 3


# The best of a grid


def grid(noise: float, replications: int = 4, draw: int = 0) -> pa.Table:
    """Scores at nine points that are equal, 0, but for noise of points and replications."""
    random = np.random.default_rng(draw)
    rate, batch, replication, item = (part.ravel() for part in np.mgrid[:3, :3, :replications, :30])
    bump = random.normal(0, noise, (9, replications))[rate * 3 + batch, replication]
    return pa.table(
        {
            "model": [f"m{draw}"] * rate.size,
            "lr": np.array([1e-5, 1e-4, 1e-3])[rate],
            "batch_size": np.array([1, 4, 16])[batch],
            "replication": replication,
            "item": item,
            "y": bump + (item - 14.5) * 0.01,
        }
    )


def test_the_best_is_too_good_and_what_is_left_out_is_not() -> None:
    table = pa.concat_tables(grid(noise=0.1, draw=draw) for draw in range(40))
    for smallest, sign in ((False, 1), (True, -1)):
        found = stats.best(table, "y", smallest=smallest)
        assert found.num_rows == 40 and found["tied"].to_pylist() == [0] * 40
        assert set(found["points"].to_pylist()) == {9} and set(found["replications"].to_pylist()) == {4}
        assert found["mean"].to_numpy().mean() * sign > 0.06
        assert abs(found["left_out"].to_numpy().mean()) < 0.02


def test_one_replication_leaves_nothing_to_leave_out() -> None:
    [row] = stats.best(grid(noise=0.1, replications=1), "y").to_pylist()
    assert (row["left_out"], row["replications"]) == (None, 1)


def test_the_first_of_equal_points_is_taken_and_an_edge_is_marked() -> None:
    [row] = stats.best(grid(noise=0), "y").to_pylist()
    assert (row["lr"], row["batch_size"], row["tied"]) == (1e-5, 1, 8)
    assert row["edge"] == "smallest lr, smallest batch_size"
    table = grid(noise=0)
    middle = np.where((table["lr"].to_numpy() == 1e-4) & (table["batch_size"].to_numpy() == 4), 1.0, 0.0)
    [inner] = stats.best(table, middle).to_pylist()
    assert (inner["lr"], inner["batch_size"], inner["edge"]) == (1e-4, 4, None)
    with pytest.raises(SpecError, match="lr cannot be in by and be chosen"):
        stats.best(table, "y", by=["lr"])
