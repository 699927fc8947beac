"""Forget quality and model utility, by hand and beside the formulas of the published code."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import hmean

from memexp import stats
from memexp.errors import SpecError

DRAW = np.random.default_rng(0)


def rows(ratios: Any, **columns: Any) -> pa.Table:
    given = {"task": ["list"] * len(ratios), "item": range(len(ratios)), "truth_ratio": list(ratios), **columns}
    return pa.table({name: pa.array(values) for name, values in given.items()})


def distance(one: Any, other: Any) -> float:
    """The largest distance of two distribution functions, at every value that there is."""
    return max(abs(np.mean(np.array(one) <= at) - np.mean(np.array(other) <= at)) for at in (*one, *other))


def exact_p(one: list[float], other: list[float]) -> float:
    """Share of all ways to deal the values to both sides that are at least as far apart."""
    both, far = [*one, *other], distance(one, other)
    found = []
    for mine in itertools.combinations(range(len(both)), len(one)):
        sides = [both[at] for at in mine], [both[at] for at in range(len(both)) if at not in mine]
        found.append(distance(*sides) >= far - 1e-12)
    return float(np.mean(found))


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_forget_quality_by_hand(shift: float) -> None:
    one, other = (DRAW.lognormal(mean, 0.5, n).tolist() for mean, n in ((shift, 6), (0.0, 5)))
    found = stats.forget_quality(rows(one), rows(other))
    assert found.d == pytest.approx(distance(one, other), abs=1e-12)
    assert found.p == pytest.approx(exact_p(one, other), abs=1e-9)
    assert (found.n, found.n_retained) == (6, 5)
    assert stats.forget_quality(one, np.array(other)) == found


def test_right_over_wrong_gives_the_same_answer() -> None:
    """As the published code has the ratio."""
    one, other = DRAW.lognormal(0, 1, 300), DRAW.lognormal(0.2, 1, 200)
    found, turned = stats.forget_quality(one, other), stats.forget_quality(1 / one, 1 / other)
    assert (found.d, found.p) == (pytest.approx(turned.d), pytest.approx(turned.p))


def test_what_was_kept_is_told_and_what_was_forgotten_is_not() -> None:
    never, forgot, kept = DRAW.lognormal(0, 0.5, 400), DRAW.lognormal(0, 0.5, 400), DRAW.lognormal(-1, 0.5, 400)
    told = stats.forget_quality(kept, never)
    assert told.p is not None and told.p < 1e-10 and told.d is not None and told.d > 0.5
    same = stats.forget_quality(forgot, never)
    assert same.p is not None and same.p > 0.05


def test_null_is_left_out_and_nothing_is_none() -> None:
    found = stats.forget_quality(rows([0.5, None, 0.7]), rows([0.1, float("nan")]))
    assert (found.n, found.n_retained) == (2, 1)
    nothing = stats.forget_quality(rows([None, None]).cast(rows([0.5]).schema), [0.3])
    assert nothing == stats.ForgetQuality(None, None, 0, 1)


def test_several_conditions_are_a_line() -> None:
    both = pa.concat_tables([rows([0.5, 0.6]), rows([0.7, 0.8])])
    for call in (
        lambda: stats.forget_quality(both, [0.3]),
        lambda: stats.forget_quality([0.3], both),
        lambda: stats.model_utility(retain=both),
    ):
        with pytest.raises(SpecError, match="an item is there several times") as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="there is no column 'truth_ratio'"):
        stats.forget_quality(pa.table({"item": [0]}), [0.3])


def lists() -> dict[str, pa.Table]:
    found = {}
    for name in ("retain", "authors", "facts"):
        columns = {one: DRAW.uniform(0.1, 1, 50) for one in ("probability", "normalised", "rougeL_recall")}
        found[name] = rows(DRAW.lognormal(-0.5, 0.8, 50), **columns)
    return found


def test_utility_is_that_of_the_published_formulas() -> None:
    given = lists()
    nine = []
    for name, table in given.items():
        right_over_wrong = 1 / np.array(table["truth_ratio"])
        nine.append(np.mean(table["probability" if name == "retain" else "normalised"]))
        nine += [np.mean(table["rougeL_recall"]), np.mean(np.maximum(0, 1 - 1 / right_over_wrong))]
    found = stats.model_utility(**given)
    assert found.utility == pytest.approx(hmean(nine), abs=1e-12)
    assert list(found.parts.values()) == pytest.approx(nine) and found.missing == ()
    assert list(found.parts)[:4] == ["retain probability", "retain rouge", "retain truth", "authors probability"]


def test_utility_says_what_it_is_without() -> None:
    found = stats.model_utility(retain=lists()["retain"])
    assert found.utility == pytest.approx(hmean(list(found.parts.values()))) and len(found.parts) == 3
    assert found.missing == tuple(
        f"{one} {part}" for one in ("authors", "facts") for part in ("probability", "rouge", "truth")
    )
    assert stats.model_utility().utility is None and len(stats.model_utility().missing) == 9
    columns = {"probability": [0.5], "normalised": [0.5], "rougeL_recall": [0.0]}
    assert stats.model_utility(retain=rows([0.5], **columns)).utility == 0.0
