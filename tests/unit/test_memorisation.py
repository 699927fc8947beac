"""What study itself did: by hand, by planted effects, and where there is nothing to compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memexp import stats
from memexp.errors import SpecError

ITEMS, SEEDS = 60, 4
KNOWN = 0.3
"""By how much targets are likelier than foils before anything is studied."""
STUDIED = {1: 0.5, 3: 1.5}
"""By how much a text becomes likelier, by exposures."""
DRIFT = 0.2
"""And any text becomes less likely."""


def rows(twins: bool = True, exposures: tuple[int, ...] = (0, 1, 3), noise: float = 0.1) -> list[dict[str, Any]]:
    """Recognition by models that had the list or its twin, of texts whose own difficulty varies far more."""
    draw = np.random.default_rng(0)
    hard = draw.normal(4, 1, (2, ITEMS)) - np.array([[KNOWN], [0]])
    found = []
    for twin in (False, True)[: 1 + twins]:
        for n in exposures:
            for seed in range(SEEDS):
                for item in range(ITEMS):
                    nll = hard[:, item] + draw.normal(0, noise, 2) + DRIFT * (n > 0)
                    nll[int(twin)] -= STUDIED.get(n, 0)
                    texts = [f"target {item}", f"foil {item}"]
                    first, second = (
                        (1, 0) if twin else (0, 1)
                    )  # as the twin has them: its targets are the others' foils
                    where = {"model": "tiny", "exposures": n, "seed": seed, "item": item, "counterbalanced": twin}
                    given = {"target": texts[first], "foil": texts[second]}
                    found.append({**where, **given, "target_nll": nll[first], "foil_nll": nll[second]})
    return found


def test_counterfactual_by_hand() -> None:
    table = rows(exposures=(1, 3), noise=0.5)
    found = stats.counterfactual(pa.Table.from_pylist(table), by=["model", "exposures"]).to_pylist()
    assert [one["exposures"] for one in found] == [1, 3]
    for one in found:
        mine = [row for row in table if row["exposures"] == one["exposures"]]
        studied, not_studied = {}, {}
        for row in mine:
            studied.setdefault(row["target"], []).append(-row["target_nll"])
            not_studied.setdefault(row["foil"], []).append(-row["foil_nll"])
        each = [np.mean(studied[text]) - np.mean(not_studied[text]) for text in studied]
        assert one["counterfactual"] == pytest.approx(np.mean(each), abs=1e-12)
        assert one["studied"] - one["unstudied"] == pytest.approx(one["counterfactual"], abs=1e-12)
        assert one["low"] < STUDIED[one["exposures"]] < one["high"] and one["p"] < 1e-3
        assert (one["items"], one["seeds"], one["n"]) == (2 * ITEMS, SEEDS, 2 * ITEMS * SEEDS)


def test_texts_one_by_one() -> None:
    """Each against itself under the twin: nothing of its own difficulty is left."""
    found = stats.counterfactual(pa.Table.from_pylist(rows(exposures=(3,), noise=0.01)), by="text").to_pylist()
    assert len(found) == 2 * ITEMS
    assert all(one["counterfactual"] == pytest.approx(STUDIED[3], abs=0.05) for one in found)


def test_without_a_twin_there_is_nothing_to_compare() -> None:
    table = pa.Table.from_pylist(rows(twins=False))
    [one] = stats.counterfactual(table, by=["model"]).to_pylist()
    assert (one["counterfactual"], one["low"], one["n"]) == (None, None, 0)
    assert one["reason"] == "nothing was measured on one side"
    with pytest.raises(SpecError, match="no column 'foil'"):
        stats.counterfactual(table.drop_columns(["foil"]))


@pytest.mark.parametrize("twins", [False, True])
def test_difference_in_differences_by_hand(twins: bool) -> None:
    table = rows(twins, noise=0.5)
    found = stats.difference_in_differences(pa.Table.from_pylist(table)).to_pylist()
    assert [(one["model"], one["exposures"]) for one in found] == [("tiny", 1), ("tiny", 3)]

    def mean(name: str, exposures: int) -> float:
        return float(np.mean([-row[name] for row in table if row["exposures"] == exposures]))

    for one in found:
        n = one["exposures"]
        target, foil = (mean(name, n) - mean(name, 0) for name in ("target_nll", "foil_nll"))
        assert one["effect"] == pytest.approx(target - foil, abs=1e-12)
        assert one["after"] - one["before"] == pytest.approx(one["effect"], abs=1e-12)
        assert one["low"] < STUDIED[n] < one["high"]
        assert (one["items"], one["seeds"]) == (ITEMS, SEEDS)


def test_what_was_known_before_and_what_all_texts_lose_is_no_effect_of_study() -> None:
    table = pa.Table.from_pylist(rows(noise=0.01))
    [one, three] = stats.difference_in_differences(table).to_pylist()
    assert one["effect"] == pytest.approx(STUDIED[1], abs=0.01) and three["effect"] == pytest.approx(1.5, abs=0.01)
    shifted = (
        table.set_column(table.column_names.index("lr"), "lr", table["lr"]) if "lr" in table.column_names else table
    )
    assert stats.difference_in_differences(shifted, by=("model", "seed")).num_rows == 2 * SEEDS


def test_settings_of_study_say_nothing_before_it() -> None:
    table = rows(twins=False)
    for row in table:
        row["lr"] = None if row["exposures"] == 0 else 1e-3
    found = stats.difference_in_differences(pa.Table.from_pylist(table), by=("model", "lr"))
    assert found["effect"].null_count == 0


def test_without_what_was_before_there_is_no_effect() -> None:
    found = stats.difference_in_differences(pa.Table.from_pylist(rows(exposures=(1,)))).to_pylist()
    assert [(one["effect"], one["reason"]) for one in found] == [(None, "nothing was measured on one side")]
