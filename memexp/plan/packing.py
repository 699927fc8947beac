"""Bundling the trees of a forest into trials, so that all places of a cluster are busy until the end.

    trials = bundle(forest, find_missing(forest, store).asks, slots, clock)

Guided self-scheduling (Polychronopoulos & Kuck 1987): a trial takes half of what a place's share of the rest would be,
so that the first are few and long, which costs few starts and loads, and the last are short, which evens out the end.
A tree that would take longer than everybody's share is cut where its study ends, if that gains anything: the trials of
the next phase begin there, as they do where pretraining ends. `benchmarks.packing` holds it against the lower bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from memexp.plan.forest import Ask, BaseStage, Forest, Stage
from memexp.plan.trials import Tree, Trial, trial_of
from memexp.spec import Resources

__all__ = ["Clock", "Slots", "bundle"]

SHARE = 2
"""A trial takes one part of so many of a place's share of what is left."""
FINEST = 50
"""No trial is shorter than one part of so many of the whole, if there are trees to fill it."""
STARTS = 5
"""Nor than so many starts of one."""
WORTH = 0.9
"""Trees are cut where that leaves at most so much of the time."""

Slots = Callable[[Resources], int]
"""How many trials of given resources the cluster can execute at a time."""
Trees = dict[str, dict[str, Tree]]
"""By base, and by the stage that the tree hangs on ("": measured at the base itself)."""
Parts = list[tuple[float, Tree]]
"""Trees, each with its seconds, the longest first."""


class Clock(Protocol):
    """How long things take, about; `memexp.plan.outlay` has one."""

    def seconds(self, trial: Trial) -> float:
        """A trial's training and measuring."""

    def start(self, base: BaseStage, resources: Resources) -> float:
        """Starting a trial where one of the same base has just ended."""

    def cut(self, base: BaseStage, resources: Resources) -> float:
        """Leaving the end of a stage in the store, and beginning there."""


class _Steps:
    """Where nobody knows more: the steps of a trial and what it measures. Groups of workers are started once."""

    def seconds(self, trial: Trial) -> float:
        return trial.steps + len(trial.asks)

    def start(self, base: BaseStage, resources: Resources) -> float:
        return 0 if resources.workers == 1 else math.inf

    def cut(self, base: BaseStage, resources: Resources) -> float:
        return math.inf


_STEPS = _Steps()


def bundle(forest: Forest, asks: Sequence[Ask], slots: Slots, clock: Clock = _STEPS) -> list[Trial]:
    """The trials that measure `asks`: the trees under each base, dealt out by time.

    Trees are cut at the end of pretraining, or all that hangs below one pretraining would be executed one after the
    other: the trials of phase 0 leave it in the store, those of phase 1 begin there.

    Args:
        forest: the whole sweep.
        asks: what is to be measured.
        slots: how many trials of given resources the cluster can execute at a time.
        clock: how long it takes.

    Returns:
        Trials, phase 0 before phase 1, in the order in which they are to begin: what takes most of the cluster first,
        then the bases with most to do, the longest trials first under each. None is empty.
    """
    whole = [_Phase(forest, number, trees, slots, clock) for number, trees in enumerate(_cut(forest, asks, ()))]
    ends = {end for phase in whole for end in phase.cuts()}
    if ends:
        whole = [_Phase(forest, number, trees, slots, clock) for number, trees in enumerate(_cut(forest, asks, ends))]
    return [trial for phase in whole for trial in phase.trials()]


def _cut(forest: Forest, asks: Sequence[Ask], ends: Collection[str]) -> list[Trees]:
    """The trees of each phase: cut behind pretraining, and where something else comes after one of `ends`."""
    phases: list[Trees] = [{}]
    for ask in asks:
        base, *path = forest.path(ask.stage)
        begin = phase = 0
        for i, (stage, after) in enumerate(itertools.pairwise(path)):
            if stage.kind != after.kind and (stage.kind == "pretrain" or stage.id in ends):
                _tree(phases, phase, base.id, path, begin).leaves[stage.id] = None
                begin, phase = i + 1, phase + 1
        _tree(phases, phase, base.id, path, begin).asks.append(ask)
    return phases


def _tree(phases: list[Trees], phase: int, base: str, path: Sequence[Stage], begin: int) -> Tree:
    """The tree of a phase that has the stage `begin` of a path."""
    if phase == len(phases):
        phases.append({})
    root = path[begin].id if path else ""
    tree = phases[phase].setdefault(base, {}).setdefault(root, Tree())
    tree.given |= dict.fromkeys(stage.id for stage in path[:begin])
    return tree


@dataclass
class _Base:
    """What is to be done under one base."""

    stage: BaseStage
    places: int
    """Trials at a time."""
    parts: Parts
    untrained: Tree
    """What is measured at the base itself."""

    @property
    def share(self) -> float:
        """Seconds of the whole cluster."""
        return sum(seconds for seconds, _ in self.parts) / self.places


class _Phase:
    """Trials that depend on none of each other."""

    def __init__(self, forest: Forest, number: int, trees: Trees, slots: Slots, clock: Clock) -> None:
        self.forest, self.number, self.clock = forest, number, clock
        self.bases = [self._base(base, dict(by_root), slots) for base, by_root in trees.items()]
        # Groups of workers first: to find so many places free at once gets harder towards the end.
        self.bases.sort(key=lambda base: (base.places, -base.share))
        self.share = sum(base.share for base in self.bases)
        """Seconds if no place were ever idle."""

    def _base(self, base: str, by_root: dict[str, Tree], slots: Slots) -> _Base:
        untrained = by_root.pop("", Tree())
        parts = [(self._seconds(base, tree), tree) for tree in by_root.values()]
        parts.sort(key=lambda part: -part[0])
        return _Base(self.forest.base(base), max(1, slots(self.forest.resources[base])), parts, untrained)

    def _seconds(self, base: str, tree: Tree) -> float:
        return self.clock.seconds(trial_of(self.forest, base, [tree], self.number))

    def trials(self) -> list[Trial]:
        """All of them, in order."""
        left, found = self.share, list[Trial]()
        for base in self.bases:
            groups = self._guided(base, left) or [[]]
            left -= base.share
            groups[-1].insert(0, base.untrained)  # the shortest also measures the untrained model
            found += [trial_of(self.forest, base.stage.id, group, self.number) for group in groups]
        return found

    def _guided(self, base: _Base, left: float) -> list[list[Tree]]:
        """The trees of a base as trials, the longest first; `left`: seconds that the cluster has to do from here on."""
        resources = self.forest.resources[base.stage.id]
        # Lanes are filled with the trees of one trial; no place is left empty for that.
        fewest = min(resources.most_lanes, max(1, len(base.parts) // base.places))
        finest = min(self.share, max(self.share / FINEST, STARTS * self.clock.start(base.stage, resources)))
        found: list[list[tuple[float, Tree]]] = []
        size = 0.0
        for seconds, tree in base.parts:
            if not found or (size + seconds > max(left / SHARE, finest) and len(found[-1]) >= fewest):
                left, size = left - size / base.places, 0.0
                found.append([])
            found[-1].append((seconds, tree))
            size += seconds
        found.sort(key=lambda group: -sum(seconds for seconds, _ in group))
        return [[tree for _, tree in group] for group in found]

    def cuts(self) -> set[str]:
        """The ends of study behind which long trees are to be cut, where the others would wait for them."""
        found: set[str] = set()
        for base in self.bases:
            long = [(seconds, tree) for seconds, tree in base.parts if seconds > self.share]
            below = [self._below(base, tree) for _, tree in long]
            trunks = [seconds - sum(pieces.values()) for (seconds, _), pieces in zip(long, below, strict=True)]
            pieces = [seconds for one in below for seconds in one.values()]
            if not pieces:
                continue
            then = max(trunks) + max(*pieces, sum(pieces) / base.places)
            then += self.clock.cut(base.stage, self.forest.resources[base.stage.id])
            if then <= WORTH * long[0][0]:
                found |= {end for one in below for end, _ in one}
        return found

    def _below(self, base: _Base, tree: Tree) -> Mapping[tuple[str, str], float]:
        """Seconds of what hangs on the studies of a tree, by the end of a study and what comes after it."""
        pieces: dict[tuple[str, str], Tree] = {}
        for ask in tree.asks:
            path = self.forest.path(ask.stage)
            for i, (stage, after) in enumerate(itertools.pairwise(path)):
                if stage.kind == "study" and after.kind not in ("study", "filler"):
                    piece = pieces.setdefault((stage.id, after.id), Tree())
                    piece.asks.append(ask)
                    piece.given |= dict.fromkeys(one.id for one in path[1 : i + 1])
        return {key: self._seconds(base.stage.id, piece) for key, piece in pieces.items()}
