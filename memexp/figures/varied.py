"""What varies between results, and what therefore tells lines and panels of a figure apart.

    dimensions(results, axis="exposures")    # ["model", "lr"]

No mean is over results that differ in more than `AVERAGED`: the same rule as that of the tables after a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memexp.figures.gathered import Result
from memexp.figures.order import FIRST
from memexp.records import MADE_WITH, SETTINGS

__all__ = ["AVERAGED", "comparable", "dimensions", "lists_of", "matching", "seed_of", "split", "text"]

SEEDS = ("seed", "init_seed", "lora_seed", "pretrain_seed")
AVERAGED = {*SEEDS, "corpus", "corpus_id", "counterbalanced", "replication"}
"""What a mean may be taken over: seeds and study lists."""
_NEVER = {"condition_id", "stage_id", "probe_id", *MADE_WITH.names}
_TOLD_BY_OTHERS = tuple(name for name in SETTINGS.names if name not in (*FIRST, *AVERAGED, *_NEVER))
"""Become a dimension only where results agree in everything else."""


def dimensions(results: Sequence[Result], axis: Iterable[str] = ()) -> list[str]:
    """Settings, labels and parts that vary, in the order of `FIRST`, without those on an axis."""
    without = {*axis, *AVERAGED, *_NEVER}
    names = dict.fromkeys(name for result in results for name in result.settings if name not in without)
    labels = [name for name in names if name not in SETTINGS.names and name not in FIRST]
    found = [name for name in (*FIRST, *labels) if name in names and _varies(results, name)]
    for name in _TOLD_BY_OTHERS:
        if name in names and name not in without and _splits(results, [*found, *axis, *AVERAGED], name):
            found.append(name)
    return found


def _varies(results: Iterable[Result], name: str) -> bool:
    """Whether a setting has several values; that a part is absent another column says."""
    return len({result.settings[name] for result in results if name in result.settings}) > 1


def _splits(results: Sequence[Result], by: Sequence[str], name: str) -> bool:
    """Whether there are results that differ in `name` and agree in all of `by`."""
    if not _varies(results, name):
        return False
    met: dict[tuple[Any, ...], Any] = {}
    for result in results:
        if name in result.settings:
            group = tuple(result.settings.get(one) for one in by)
            if met.setdefault(group, result.settings[name]) != result.settings[name]:
                return True
    return False


def split(results: Iterable[Result], by: Sequence[str]) -> dict[tuple[Any, ...], list[Result]]:
    """Results that agree in all of `by`, by its values; None stands for an absent part."""
    found: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        found.setdefault(tuple(result.settings.get(name) for name in by), []).append(result)
    return found


def comparable(controls: Iterable[Result], results: Sequence[Result], but: Iterable[str]) -> list[Result]:
    """The controls that some result agrees with in all that both have, but in `but` and in seeds and lists."""
    without = {*but, *AVERAGED, *_NEVER, "probe_settings", "model_id"}
    names = [name for name in dict.fromkeys(n for one in results for n in one.settings) if name not in without]
    known = list(split(results, names))
    return [one for one in controls if matching([one.settings.get(name) for name in names], known)]


def matching(group: Sequence[Any], others: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """Of `others` those that agree with a group in what it has: untrained models have no learning rate."""
    return [one for one in others if all(mine is None or mine == its for mine, its in zip(group, one, strict=True))]


def seed_of(settings: Mapping[str, Any]) -> str | None:
    """The seeds of a result, for people: one where there is one; None where they are not known."""
    found = [f"{name} {settings[name]}" for name in SEEDS if name in settings]
    return (found[0].removeprefix("seed ") if len(found) == 1 else ", ".join(found)) or None


def lists_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the study lists of results with these settings apart.

    A condition and its counterbalanced twin share their items, which are pairs: no list is taken from a corpus there.
    """
    twins = any(settings.get("counterbalanced") for settings in results)
    corpora = ["" if twins else settings.get("corpus_id", settings.get("corpus", "")) for settings in results]
    return [f"{own.get('replication', '')} {corpus}".strip() for own, corpus in zip(results, corpora, strict=True)]


def text(value: Any) -> str:
    """A value of a setting or label, for people."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
