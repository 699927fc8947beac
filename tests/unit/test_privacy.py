"""PrivLeak by hand: after too little forgetting, after enough, and after too much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memexp import stats
from memexp.errors import SpecError


def rows(shift: dict[Any, float], key: str = "layer", models: tuple[str, ...] = ("m",), seed: int = 0) -> pa.Table:
    """Min-K% of members, higher by `shift`, and of others."""
    draw = np.random.default_rng(seed)
    return pa.Table.from_pylist(
        [
            {"model": model, key: value, "seed": 0, "item": item, "member": member}
            | {"min_k": float(draw.normal(-6 + member * by, 1)), "loss": float(draw.normal())}
            for model in models
            for value, by in shift.items()
            for member in (True, False)
            for item in range(60)
        ]
    )


def plain(table: pa.Table) -> float:
    """The share of pairs in which the text that is no member has the higher score."""
    members, others = ([row["min_k"] for row in table.to_pylist() if row["member"] is side] for side in (True, False))
    return float(np.mean([(b > a) + 0.5 * (b == a) for a in members for b in others]))


def test_privleak_is_that_of_a_plain_loop() -> None:
    table, never = rows({0: 2.0, 1: 0.0, 2: -2.0}), rows({None: 0.1}, seed=1)
    found = stats.privleak(table, never, by=["model", "layer"]).to_pylist()
    assert [one["layer"] for one in found] == [0, 1, 2]
    r = plain(never)
    for one in found:
        a = plain(table.filter(pa.compute.field("layer") == one["layer"]))
        assert (one["auc"], one["never"]) == (pytest.approx(a, abs=1e-12), pytest.approx(r, abs=1e-12))
        assert one["privleak"] == pytest.approx(100 * (a - r) / r, abs=1e-9)
        assert one["auc_low"] < one["auc"] < one["auc_high"] and one["never_low"] < r < one["never_high"]
        assert (one["members"], one["others"]) == (60, 60)
    little, enough, much = (one["privleak"] for one in found)
    assert little < -50 < -25 < enough < 25 < 50 < much


def test_groups_are_compared_with_their_own_model() -> None:
    table = rows({0: 1.0}, models=("a", "b"))
    never = pa.concat_tables([rows({None: 0.0}, models=("a",)), rows({None: 3.0}, models=("b",), seed=2)])
    of_a, of_b = stats.privleak(table, never, by="model").to_pylist()
    assert of_a["never"] > 0.3 > of_b["never"] and of_a["privleak"] < 0 < of_b["privleak"]
    [alone] = stats.privleak(table, never, by=[], match=[]).to_pylist()
    assert of_b["never"] < alone["never"] < of_a["never"]
    [of_a, of_b] = stats.privleak(table, rows({None: 0.0}, models=("a",)), by="model").to_pylist()
    assert of_a["privleak"] is not None and (of_b["privleak"], of_b["never"]) == (None, None)


def test_what_cannot_be_is_a_line() -> None:
    table = rows({0: 1.0})
    with pytest.raises(SpecError, match=r"^score: must be loss, zlib, min_k, min_k_plus, reference, got 'nope'"):
        stats.privleak(table, table, score="nope")
    with pytest.raises(SpecError, match=r"^match: must be of by, which is model, got layer"):
        stats.privleak(table, table, by=["model"], match=["layer"])
