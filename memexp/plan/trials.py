"""Trees of the forest, bundled into what worker groups execute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from memexp.plan.forest import Ask, BaseStage, Corpora, Forest, ForgetStage, TrainingStage
from memexp.sources import Stream, Texts
from memexp.spec import Resources, Snapshots
from memexp.store.snapshots import Mark, SideFiles, is_whole

__all__ = ["TRIALS_PER_SLOT", "Trial", "apart", "bundle", "whole"]

TRIALS_PER_SLOT = 4
"""Bundles per place of a one-worker trial: a warm trial starts in about 0.2 s, so finer bundles even out the finish."""


@dataclass
class Trial(Corpora):
    """What one worker group executes: trees of the forest under one base model."""

    base: BaseStage
    """The model, loaded once."""
    stages: list[TrainingStage | ForgetStage]
    """All other stages, parents before children."""
    asks: list[Ask]
    """What is to be measured after which of them."""
    resources: Resources
    """What the trial holds."""
    texts: dict[str, Texts] = field(default_factory=dict)
    """The lists its stages and asks need, by identity."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """The streams its stages need, by identity; their texts stay where they are."""
    snapshots: Snapshots = field(default_factory=Snapshots)
    """How often its trajectories are saved to the store."""
    phase: int = 0
    """Trials of phase 1 begin where pretraining ends, and so when those of phase 0 are over."""
    leaves: tuple[str, ...] = ()
    """The pretrain stages whose ends it is to leave in the store, for those of the next phase."""
    given: frozenset[str] = frozenset()
    """The pretrain stages that the phase before leaves; where one is not there, the trial trains it again."""

    stoppable: bool = False
    """May be ended whenever it reports a result, so that its rows in ``stages/`` must not lag behind."""
    cautious: bool = False
    """Writes down in ``stages/`` where it is, so that what kills its process costs itself only."""
    halved: bool = False
    """Batches half as large throughout: at an earlier try memory ran out on one of its workers."""
    alone: bool = False
    """Holds all CPUs of its nodes, as far as they can be shared out: it, or what was beside it, took all memory."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all its stages but those that are given."""
        return sum(stage.steps for stage in self.stages if stage.id not in self.given)

    def lacking_leaves(self, store: SideFiles) -> tuple[str, ...]:
        """Those of its leaves of which the store has no snapshot that could be taken up."""
        stages = {stage.id: stage for stage in self.stages if isinstance(stage, TrainingStage)}
        ends = [(stages[leaf], Mark(leaf, stages[leaf].last)) for leaf in self.leaves]
        return tuple(mark.trajectory for stage, mark in ends if not is_whole(store, mark, stage.start or stage.parent))


def bundle(forest: Forest, asks: Sequence[Ask], slots: Callable[[Resources], int]) -> list[Trial]:
    """The trials that measure `asks`: the trees under each base, dealt out by cost.

    Trees are cut at the end of pretraining, or all that hangs below one pretraining would be executed one after the
    other: the trials of phase 0 leave it in the store, those of phase 1 begin there.

    Args:
        forest: the whole sweep.
        asks: what is to be measured.
        slots: how many trials of given resources the cluster can execute at a time.

    Returns:
        Trials, phase 0 before phase 1, the bases with most steps first and the longest first under each. None is empty.
    """
    found: list[Trial] = []
    for phase, trees in enumerate(_cut(forest, asks)):
        groups = [_bundle(forest, base, by_root, phase, slots) for base, by_root in trees.items()]
        groups.sort(key=lambda group: -sum(trial.steps for trial in group))
        found += [trial for group in groups for trial in group]
    return found


def whole(forest: Forest, asks: Sequence[Ask]) -> Trial:
    """The one trial that measures `asks`, all of one base model, from the base down."""
    base = forest.base(asks[0].stage).id
    return _trial(forest, base, [_Tree(list(asks))], phase=0)


def apart(forest: Forest, trial: Trial) -> list[Trial]:
    """A trial of its own for each tree of `trial`, the trial itself where it has one only."""
    trees: dict[str, _Tree] = {}
    for end, ask in [*((ask.stage, ask) for ask in trial.asks), *((leaf, None) for leaf in trial.leaves)]:
        path = [stage.id for stage in forest.path(end)[1:]]
        tree = trees.setdefault(next((stage for stage in path if stage not in trial.given), ""), _Tree())
        tree.given |= dict.fromkeys(stage for stage in path if stage in trial.given)
        if ask is not None:
            tree.asks.append(ask)
        else:
            tree.leaves[end] = None
    if len(trees) < 2:
        return [trial]
    found = [_trial(forest, trial.base.id, [tree], trial.phase) for tree in trees.values()]
    return [replace(one, snapshots=trial.snapshots) for one in found]


@dataclass
class _Tree:
    """What hangs on one stage below a base, or below the end of pretraining."""

    asks: list[Ask] = field(default_factory=list)
    leaves: dict[str, None] = field(default_factory=dict)
    given: dict[str, None] = field(default_factory=dict)


Trees = dict[str, dict[str, _Tree]]
"""By base, and by the stage that the tree hangs on ("": measured at the base itself)."""


def _cut(forest: Forest, asks: Sequence[Ask]) -> tuple[Trees, Trees]:
    """The trees of phase 0 and of phase 1."""
    first: Trees = {}
    second: Trees = {}
    for ask in asks:
        base, *path = forest.path(ask.stage)
        before = [stage.id for stage in path if stage.kind == "pretrain"]
        root = path[0].id if path else ""
        if before:
            tree = first.setdefault(base.id, {}).setdefault(root, _Tree())
            if len(path) == len(before):
                tree.asks.append(ask)
                continue
            tree.leaves[before[-1]] = None
            tree = second.setdefault(base.id, {}).setdefault(path[len(before)].id, _Tree())
            tree.given |= dict.fromkeys(before)
        else:
            tree = first.setdefault(base.id, {}).setdefault(root, _Tree())
        tree.asks.append(ask)
    return first, second


def _bundle(
    forest: Forest, base: str, by_root: dict[str, _Tree], phase: int, slots: Callable[[Resources], int]
) -> list[Trial]:
    """The trials of one phase under one base."""
    resources = forest.resources[base]
    at_base = by_root.pop("", _Tree())
    parts = [(_trial(forest, base, [tree], phase).steps, tree) for tree in by_root.values()]
    places = max(1, slots(resources))
    # Lanes are filled with the trees of one bundle; no place is left empty for that.
    full = max(places, len(parts) // resources.lanes) if resources.lanes > 1 else sys.maxsize
    wanted = min(places * (TRIALS_PER_SLOT if resources.workers == 1 else 1), full)
    dealt = _deal(parts, wanted) or [[]]
    dealt[-1].insert(0, at_base)  # the cheapest bundle also measures the untrained model
    return [_trial(forest, base, group, phase) for group in dealt]


def _deal(parts: Sequence[tuple[int, _Tree]], bundles: int) -> list[list[_Tree]]:
    """Trees, each with its steps, in at most `bundles` groups of about equal cost, the costliest first."""
    groups: list[list[_Tree]] = [[] for _ in range(min(bundles, len(parts)))]
    cost = [0] * len(groups)
    for steps, tree in sorted(parts, key=lambda part: -part[0]):
        lightest = cost.index(min(cost))
        groups[lightest].append(tree)
        cost[lightest] += steps + len(tree.asks)
    order = sorted(range(len(groups)), key=lambda i: -cost[i])
    return [groups[i] for i in order]


def _trial(forest: Forest, base: str, trees: Sequence[_Tree], phase: int) -> Trial:
    asks = [ask for tree in trees for ask in tree.asks]
    leaves = dict.fromkeys(stage for tree in trees for stage in tree.leaves)
    ends = [*(ask.stage for ask in asks), *leaves]
    path = [stage for end in ends for stage in forest.path(end)]
    needed = {stage.id: stage for stage in path if not isinstance(stage, BaseStage)}
    corpora = {stage.corpus for stage in needed.values() if stage.corpus is not None}
    corpora |= {corpus for ask in asks for corpus in ask.corpora.values()}
    return Trial(
        base=forest.base(base),
        stages=list(needed.values()),
        asks=asks,
        resources=forest.resources[base],
        texts={corpus: forest.texts[corpus] for corpus in sorted(corpora & forest.texts.keys())},
        streams={corpus: forest.streams[corpus] for corpus in sorted(corpora & forest.streams.keys())},
        phase=phase,
        leaves=tuple(leaves),
        given=frozenset(stage for tree in trees for stage in tree.given),
    )
