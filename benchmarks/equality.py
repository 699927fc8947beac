"""What "the same results" means here. Whatever is timed is compared first, and after every timing again.

    compare("recall", {"published": ..., "careful": ..., "memexp": ...})

Study: the loss of every step, each way with its own optimizer and padding. All else: on the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from memexp.probes.recall import ROUGES
from memexp.records import MADE_WITH
from memexp.store import Store

__all__ = ["CELL", "Unequal", "compare", "compare_stores", "largest"]

LOSS = 1e-4
"""Largest relative difference of a step's loss: splitting a batch drifts by up to 1e-5 over 20 steps, and so does a
fused optimizer."""
NLL = 1e-5
"""Largest difference of a text's mean NLL, in nats, on the same weights."""
ROUGE = 1e-12
"""Largest difference of a ROUGE F-measure: completions being the same, only the sum's order could differ."""
LIKELIHOOD = 1e-5
"""Largest difference of an answer's log-likelihood behind lm-evaluation-harness, of its size or, below 1, in nats."""

CELL = 0.02
"""Largest difference of a cell's mean over the items, where each way has trained for itself: rounding grows over 100
steps, and turns a close decision here and there or a token of a completion."""


class Unequal(Exception):
    """Two ways gave different results: their times say nothing."""


def compare(part: str, results: Mapping[str, Sequence[Any]], reference: str = "published") -> dict[str, Any]:
    """Compare every way's result of a part with the reference's. Of the part's name the first word says what it is.

    Returns:
        What was compared, and the largest differences seen.

    Raises:
        Unequal: a tolerance is exceeded, a decision flipped or a completion differs.
    """
    checks = {"study": _study, "recognition": _recognition, "recall": _recall, "harness": _harness}
    expected = results[reference]
    found: dict[str, Any] = {}
    for way, result in results.items():
        if len(result) != len(expected):
            raise Unequal(f"{part}: {way} has {len(result)} results, {reference} {len(expected)}")
        if way != reference:
            found[way] = checks[part.split()[0]](f"{part}, {way} and {reference}", result, expected)
    return found


def _study(which: str, losses: Sequence[float], expected: Sequence[float]) -> dict[str, Any]:
    worst = largest(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    if not worst <= LOSS:
        raise Unequal(f"{which}: losses differ by {worst:.1e} of their size, more than {LOSS:g}")
    return {"steps": len(losses), "loss_relative": worst}


def _recognition(which: str, nlls: Sequence[float], expected: Sequence[float]) -> dict[str, Any]:
    worst = largest(abs(a - b) for a, b in zip(nlls, expected, strict=True))
    half = len(nlls) // 2
    flipped = sum(
        (nlls[i] < nlls[half + i]) != (expected[i] < expected[half + i])
        for i in range(half)  # targets, then foils
    )
    if not worst <= NLL:
        raise Unequal(f"{which}: NLLs differ by {worst:.1e}, more than {NLL:g}")
    if flipped:
        raise Unequal(f"{which}: {flipped} of {half} decisions flipped")
    return {"texts": len(nlls), "nll": worst, "decisions_flipped": flipped}


def _recall(which: str, items: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    differ = sum(a["completion"] != b["completion"] for a, b in zip(items, expected, strict=True))
    if differ:
        raise Unequal(f"{which}: {differ} of {len(items)} completions differ")
    scored = [(a, b) for a, b in zip(items, expected, strict=True) if b["completion"] is not None]
    worst = largest(abs(a[name] - b[name]) for a, b in scored for name in ROUGES)
    if not worst <= ROUGE:
        raise Unequal(f"{which}: ROUGE differs by {worst:.1e}, more than {ROUGE:g}")
    return {"texts": len(items), "completions_differing": differ, "rouge": worst}


def _harness(which: str, items: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(items, expected, strict=True))
    differ = sum(_decided(a) != _decided(b) for a, b in pairs)
    if differ:
        raise Unequal(f"{which}: {differ} of {len(items)} answers differ")
    logs = [(x, y) for a, b in pairs for x, y in zip(_logs(a), _logs(b), strict=True)]
    worst = largest(abs(x - y) / max(1.0, abs(y)) for x, y in logs)
    if not worst <= LIKELIHOOD:
        raise Unequal(f"{which}: log-likelihoods differ by {worst:.1e} of their size, more than {LIKELIHOOD:g}")
    if any(a["metrics"] != b["metrics"] for a, b in pairs):
        raise Unequal(f"{which}: metrics differ")
    found: dict[str, Any] = {"items": len(items), "answers_differing": differ}
    return found | ({"log_likelihood_relative": worst} if logs else {})


def _decided(item: Mapping[str, Any]) -> list[Any]:
    """The text, or which choice is the likeliest and which are greedy."""
    if isinstance(item["answers"][0], str):
        return list(item["answers"])
    logs = _logs(item)
    return [logs.index(max(logs)), *(greedy for _, greedy in item["answers"])]


def _logs(item: Mapping[str, Any]) -> list[float]:
    return [answer[0] for answer in item["answers"] if not isinstance(answer, str)]


def largest(differences: Iterable[float]) -> float:
    """The largest; infinite if any is no number, which `max` would pass over."""
    return max((d if math.isfinite(d) else math.inf for d in differences), default=0.0)


def compare_stores(first: Store, second: Store) -> dict[str, int]:
    """Rows per kind, where two stores hold the same results to the last bit. Raises Unequal where they do not."""
    rows = {}
    for kind in ("recognition", "recall", "training"):
        one, two = _sorted(first, kind), _sorted(second, kind)
        if one is None or two is None or not one.equals(two):
            raise Unequal(f"{kind}: the two stores differ")
        rows[kind] = one.num_rows
    return rows


def _sorted(store: Store, kind: str) -> pa.Table | None:
    """All rows of a kind in an order that does not depend on who wrote them; None where there are none."""
    table = store.scan(kind)
    if table is None:
        return None
    keys = ("stage_id", "step") if kind == "training" else ("condition_id", "probe_id", "item")
    table = table.drop_columns([name for name in MADE_WITH.names if name in table.column_names])
    return table.sort_by([(key, "ascending") for key in keys])
