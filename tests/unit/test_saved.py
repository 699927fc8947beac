"""Steps spared, by hand, by planted effects, and where there is nothing to compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memexp import stats
from memexp.errors import SpecError

ITEMS, SEEDS, MOST = 40, 4, 60
SPARED = {1: 5, 3: 12}
"""Steps that are spared, by exposures."""


def rows(exposures: tuple[int, ...] = (0, 1, 3), slowest: int = 40) -> list[dict[str, Any]]:
    """Texts of which some are much harder than others; the first of each list cannot be measured."""
    draw = np.random.default_rng(0)
    hard = draw.integers(20, slowest, ITEMS)
    found = []
    for n in exposures:
        for seed in range(SEEDS):
            for item in range(ITEMS):
                steps = int(hard[item] - SPARED.get(n, 0) + draw.integers(-2, 3))
                row = {"model": "tiny", "exposures": n, "seed": seed, "item": item, "lr": 1e-3 if n else None}
                row |= {"steps": steps if steps <= MOST else None, "nll_before": 4.0, "criterion": 0.5, "most": MOST}
                found.append(row | ({"steps": None, "nll_before": None} if item == 0 else {}))
    return found


def table(found: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(found)


def test_savings_by_hand() -> None:
    given = rows()
    found = stats.savings(table(given), by=("model", "lr")).to_pylist()
    assert [(one["model"], one["exposures"], one["lr"]) for one in found] == [("tiny", 1, 1e-3), ("tiny", 3, 1e-3)]
    never = np.mean([row["steps"] for row in given if row["exposures"] == 0 and row["item"]])
    for one in found:
        n = one["exposures"]
        steps = np.mean([row["steps"] for row in given if row["exposures"] == n and row["item"]])
        assert (one["never"], one["steps"]) == (pytest.approx(never), pytest.approx(steps))
        assert one["saved"] == pytest.approx(never - steps) and one["savings"] == pytest.approx(1 - steps / never)
        assert one["low"] < SPARED[n] < one["high"] and one["p"] < 1e-3
        assert one["savings_low"] < SPARED[n] / never < one["savings_high"]
        assert (one["items"], one["seeds"], one["unmet"], one["unmet_never"]) == (ITEMS - 1, SEEDS, 0, 0)


def test_the_interval_of_the_share_is_that_of_the_pairs() -> None:
    """Of one seed and a common saving the pairs differ by nothing but noise, however hard the texts are."""
    one_seed = [row for row in rows((0, 3)) if row["seed"] == 0]
    [found] = stats.savings(table(one_seed)).to_pylist()
    ratio = np.array([row["steps"] for row in one_seed if row["item"]], float).reshape(2, -1)
    means = ratio.mean(1)
    residual = ratio[1] - means[1] / means[0] * ratio[0]  # the textbook's error of a ratio of paired means
    error = residual.std(ddof=1) / np.sqrt(residual.size) / means[0]
    half = (found["savings_high"] - found["savings_low"]) / 2
    assert half == pytest.approx(2.0244 * error, rel=1e-3)  # t with 38 degrees of freedom


def test_one_row_for_each_item() -> None:
    given = rows((0, 3))
    found = stats.savings(table(given), by=("model", "item")).to_pylist()
    assert [one["item"] for one in found] == [*range(ITEMS)]
    for one in found:
        steps = {
            n: [row["steps"] for row in given if (row["exposures"], row["item"]) == (n, one["item"])] for n in (0, 3)
        }
        if one["item"] == 0:
            assert (one["saved"], one["reason"]) == (None, "nothing was measured on one side")
            continue
        assert one["saved"] == pytest.approx(np.mean(steps[0]) - np.mean(steps[3]))
        assert (one["n"], one["seeds"]) == (SEEDS, SEEDS)


def test_what_did_not_meet_the_criterion_counts_with_the_most() -> None:
    given = rows((0, 1), slowest=100)
    [one] = stats.savings(table(given)).to_pylist()

    def of(n: int) -> list[float]:
        mine = [row for row in given if row["exposures"] == n and row["item"]]
        return [row["steps"] if row["steps"] is not None else MOST for row in mine]

    assert one["saved"] == pytest.approx(np.mean(of(0)) - np.mean(of(1)))
    share = np.mean([row["steps"] is None for row in given if row["exposures"] == 1 and row["item"]])
    assert one["unmet"] == pytest.approx(share) and 0 < share < one["unmet_never"]


def test_a_baseline_of_other_rows() -> None:
    given = [row for row in rows() if row["exposures"]]
    others = [row | {"exposures": 2, "label": "never saw it"} for row in rows() if not row["exposures"]]
    found = stats.savings(table(given), baseline=table(others)).to_pylist()
    assert found == stats.savings(table(rows())).to_pylist()
    assert [one["exposures"] for one in found] == [1, 3]


def test_without_a_baseline_nothing_is_saved() -> None:
    [one] = stats.savings(table(rows((1,)))).to_pylist()
    assert (one["saved"], one["savings"], one["unmet"]) == (None, None, 0)
    assert one["reason"] == "nothing was measured on one side"


@pytest.mark.parametrize(("name", "other"), [("criterion", 0.7), ("most", 99)])
def test_several_criteria_are_a_line(name: str, other: float) -> None:
    given = rows()
    given[3][name] = other
    with pytest.raises(SpecError, match=f"{name}: rows of several are together") as error:
        stats.savings(table(given))
    assert "\n" not in str(error.value)


def test_a_column_that_is_missing_is_a_line() -> None:
    with pytest.raises(SpecError, match="there is no column 'nll_before'"):
        stats.savings(table(rows()).drop_columns(["nll_before"]))


def test_who_saw_a_part_of_the_list_is_no_control() -> None:
    """Nor who studied again, or a second list: with 0 exposures as well."""
    plain = stats.savings(table(rows()), by=("model",)).to_pylist()
    for column in ("further_batches", "restudy_exposures", "then_exposures"):
        some = [{**row, column: 2, "steps": 1 if row["nll_before"] else None} for row in rows((0,))]
        given = [*({**row, column: None} for row in rows()), *some]
        found = [one for one in stats.savings(table(given), by=("model",)).to_pylist() if one["exposures"]]
        assert [(one["never"], one["saved"]) for one in found] == [(one["never"], one["saved"]) for one in plain]


def test_restudy_that_diverged_is_not_compared() -> None:
    given = [{**row, "diverged": False} for row in rows()]
    assert stats.savings(table(given)).num_rows == 2
    given[5]["diverged"] = True
    with pytest.raises(SpecError, match=r"^diverged: restudy of 1 rows did"):
        stats.savings(table(given))
