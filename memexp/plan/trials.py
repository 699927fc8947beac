"""Trees of the forest, bundled into what worker groups execute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memexp.plan.forest import Ask, Forest, Stage
from memexp.sources import Stream, Texts
from memexp.spec import Resources

__all__ = ["TRIALS_PER_SLOT", "Trial", "bundle"]

TRIALS_PER_SLOT = 4
"""Bundles per place of a one-worker trial: a warm trial starts in about 0.2 s, so finer bundles even out the finish."""


@dataclass
class Trial:
    """What one worker group executes: trees of the forest under one base model."""

    base: Stage
    """The model, loaded once."""
    stages: list[Stage]
    """All other stages, parents before children."""
    asks: list[Ask]
    """What is to be measured after which of them."""
    resources: Resources
    """What the trial holds."""
    texts: dict[str, Texts] = field(default_factory=dict)
    """The lists its stages and asks need, by identity."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """The streams its stages need, by identity; their texts stay where they are."""

    def corpus(self, corpus: str) -> Texts | Stream:
        """A corpus by identity."""
        return self.texts[corpus] if corpus in self.texts else self.streams[corpus]

    @property
    def steps(self) -> int:
        """Optimizer steps of all its stages."""
        return sum(stage.steps for stage in self.stages)


def bundle(forest: Forest, asks: Sequence[Ask], slots: Callable[[Resources], int]) -> list[Trial]:
    """The trials that measure `asks`: the trees under each base, dealt out by cost.

    Args:
        forest: the whole sweep.
        asks: what is to be measured.
        slots: how many trials of given resources the cluster can execute at a time.

    Returns:
        Trials, the bases with most steps first and the longest first under each; none is empty.
    """
    trees: dict[str, dict[str, list[Ask]]] = {}
    for ask in asks:
        path = forest.path(ask.stage)
        root = path[1].id if len(path) > 1 else ""  # "": measured at the base itself
        trees.setdefault(path[0].id, {}).setdefault(root, []).append(ask)
    trials = []
    for base, by_root in trees.items():
        resources = forest.resources[base]
        at_base = by_root.pop("", [])
        parts = [_trial(forest, base, tree) for tree in by_root.values()]
        wanted = max(1, slots(resources)) * (TRIALS_PER_SLOT if resources.workers == 1 else 1)
        dealt = _deal(parts, wanted) or [[]]
        bundles = [[ask for part in group for ask in part.asks] for group in dealt]
        bundles[-1] = at_base + bundles[-1]  # the cheapest bundle also measures the untrained model
        trials.append([_trial(forest, base, group) for group in bundles])
    trials.sort(key=lambda group: -sum(trial.steps for trial in group))
    return [trial for group in trials for trial in group]


def _deal(parts: Sequence[Trial], bundles: int) -> list[list[Trial]]:
    """`parts` in at most `bundles` groups of about equal cost, the costliest first."""
    groups: list[list[Trial]] = [[] for _ in range(min(bundles, len(parts)))]
    cost = [0] * len(groups)
    for part in sorted(parts, key=lambda part: -part.steps):
        lightest = cost.index(min(cost))
        groups[lightest].append(part)
        cost[lightest] += part.steps + len(part.asks)
    order = sorted(range(len(groups)), key=lambda i: -cost[i])
    return [groups[i] for i in order]


def _trial(forest: Forest, base: str, asks: Sequence[Ask]) -> Trial:
    needed = {stage.id: stage for ask in asks for stage in forest.path(ask.stage)[1:]}
    corpora = {stage.corpus for stage in needed.values() if stage.corpus} | {
        text for ask in asks for text in ask.corpora.values()
    }
    return Trial(
        base=forest.stages[base],
        stages=list(needed.values()),
        asks=list(asks),
        resources=forest.resources[base],
        texts={corpus: forest.texts[corpus] for corpus in sorted(corpora & forest.texts.keys())},
        streams={corpus: forest.streams[corpus] for corpus in sorted(corpora & forest.streams.keys())},
    )
