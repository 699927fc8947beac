"""What can be drawn of each kind: measures of one item, as SQL, with the title of an axis and what guessing comes to.

    measures_of("recognition", None)["recognition"].sql    # (target_nll < foil_nll)::int

The first measure of a kind is the one that figures show unless asked for another. Of probes that users wrote it is the
headline that their files declare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memexp.spec import Headline

__all__ = ["CHANCE", "PARTS", "Measure", "by_importance", "column_measure", "measures_of"]


@dataclass(frozen=True)
class Measure:
    """One number of an item."""

    name: str
    """What it is asked for by."""
    title: str
    """Of an axis, with its unit in brackets."""
    sql: str
    """Over the columns of the kind; NULL where an item could not be measured."""
    share: bool = True
    """Whether it lies between 0 and 1."""
    chance: float | str | None = None
    """What guessing comes to: a number, or SQL of an item."""


PARTS: Mapping[str, tuple[str, ...]] = {
    "qa": ("task",),
    "choice": ("task",),
    "ablation": ("task", "ablated_side", "ablated_layer"),
    "ratios": ("relation",),
    "lm_eval": ("task", "metric"),
    "extraction": ("prefix_tokens",),
    "membership": ("member",),
    "spans": ("depth",),
    "capacity": ("part",),
    "prefix_offset": ("offset_tokens", "prefix_tokens"),
    "quantized": ("probe", "task", "bits", "group_size", "prefix_tokens"),
    "truth_ratio": ("task",),
    "continuation": ("task",),
}
"""Columns of a kind's items that tell apart what is never averaged."""

CHANCE = "chance"
"""The measure of what guessing comes to, of kinds whose items differ in it."""

_STUDIED = "CASE WHEN coalesce(member, true) THEN {} END"
"""Of extraction, which may have foils beside."""
_KNOWN: Mapping[str, tuple[Measure, ...]] = {
    "recognition": (
        Measure("recognition", "recognition (share of pairs told apart)", "(target_nll < foil_nll)::int", True, 0.5),
        Measure("target_nll", "NLL of targets (nats per token)", "target_nll", False),
        Measure("foil_nll", "NLL of foils (nats per token)", "foil_nll", False),
    ),
    "recall": (
        Measure("recall", "recall (ROUGE-2 of the completion)", "completion_rouge2"),
        Measure("exact", "exact recall (share of texts)", "exact::int"),
    ),
    "qa": (
        Measure("qa", "exact answers (share of questions)", "exact::int"),
        Measure("f1", "F1 of the answers (share of words)", "f1"),
    ),
    "choice": (Measure("choice", "right choices (share of questions)", "correct::int", True, "1 / len(choices)"),),
    "ablation": (Measure("ablation", "right answers (share of questions)", "correct::int"),),
    "ratios": (
        Measure("comparison", "comparison ratio (log, nats)", "log_comparison_ratio", False, 0.0),
        Measure("negation", "negation ratio (log, nats)", "log_negation_ratio", False, 0.0),
    ),
    "lm_eval": (Measure("lm_eval", "value of the metric (its own unit)", "value", False),),
    "extraction": (
        Measure("extraction", "greedy extraction (share of suffixes)", _STUDIED.format("exact::int")),
        Measure("matching", "matching tokens (share of a suffix)", _STUDIED.format("matching")),
        Measure("strength", "extraction strength (share of a suffix)", _STUDIED.format("strength")),
    ),
    "membership": (
        Measure("loss", "loss (nats per token)", "loss", False),
        Measure("min_k_plus", "Min-K%++ (standard deviations)", "min_k_plus", False),
    ),
    "exposure": (
        Measure("exposure", "exposure by rank (bits)", "exposure", False),
        Measure("fitted", "exposure by the fitted tail (bits)", "fitted", False),
    ),
    "spans": (
        Measure("spans", "log-probability of spans (nats per token)", "per_token", False),
        Measure("exact", "spans that are the likeliest (share)", "exact::int"),
    ),
    "base_forgetting": (
        Measure("cross_entropy", "cross-entropy against the base (nats per token)", "cross_entropy", False),
        Measure("kl", "divergence from the base (nats per token)", "kl", False, 0.0),
        Measure("loss", "NLL of general text (nats per token)", "loss", False),
    ),
    "prefix_offset": (
        Measure("matching", "matching tokens (share of a suffix)", "matching"),
        Measure("exact", "suffixes given exactly (share)", "exact::int"),
    ),
    "continuation": (
        Measure("continuation", "ROUGE-L of what is written", "rougeL"),
        Measure("rougeL_recall", "words of the reference that are written (share)", "rougeL_recall"),
    ),
    "priming": (Measure("priming", "probability of keywords, over that before study", "ratio", False, 1.0),),
    "capacity": (
        Measure("capacity", "stored of each part (bits)", "stored", False),
        Measure("gained", "gained by study of each part (bits)", "gained", False),
    ),
}


def by_importance(kinds: Iterable[str]) -> list[str]:
    """Kinds in the order in which a reader wants them: memexp's own first."""
    known = list(_KNOWN)
    return sorted(kinds, key=lambda kind: (known.index(kind) if kind in known else len(known), kind))


def measures_of(kind: str, headline: Headline | None) -> dict[str, Measure]:
    """The measures of a kind by name, the headline first; `headline` is what its files declare."""
    if kind in _KNOWN or headline is None:
        found = {one.name: one for one in _KNOWN.get(kind, ())}
    else:
        found = {kind: Measure(kind, f"{kind} ({headline.title})", headline.mean, False, headline.chance)}
    guessed = [one.chance for one in found.values() if isinstance(one.chance, str)]
    return found | ({CHANCE: Measure(CHANCE, "chance", guessed[0])} if guessed else {})


def column_measure(name: str) -> Measure:
    """The mean of any column of numbers or truth values."""
    return Measure(name, f"{name.replace('_', ' ')} (mean)", f'"{name}"', False)
