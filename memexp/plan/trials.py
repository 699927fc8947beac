"""What worker groups execute: trees of the forest under one base model. `memexp.plan.packing` bundles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from memexp.plan.forest import Ask, BaseStage, Corpora, Forest, ForgetStage, TrainingStage
from memexp.sources import Stream, Texts
from memexp.spec import Resources, Snapshots
from memexp.store.snapshots import Mark, SideFiles, is_whole

__all__ = ["Tree", "Trial", "apart", "trial_of", "whole"]


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
    """Trials of phase 1 begin where stages of phase 0 end, and so when those are over."""
    leaves: tuple[str, ...] = ()
    """The stages whose ends it is to leave in the store, for those of the next phase."""
    given: frozenset[str] = frozenset()
    """The stages up to an end that a phase before leaves; where it is not there, the trial trains them again."""

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


def whole(forest: Forest, asks: Sequence[Ask]) -> Trial:
    """The one trial that measures `asks`, all of one base model, from the base down."""
    base = forest.base(asks[0].stage).id
    return trial_of(forest, base, [Tree(list(asks))], phase=0)


def apart(forest: Forest, trial: Trial) -> list[Trial]:
    """A trial of its own for each tree of `trial`, the trial itself where it has one only."""
    trees: dict[str, Tree] = {}
    for end, ask in [*((ask.stage, ask) for ask in trial.asks), *((leaf, None) for leaf in trial.leaves)]:
        path = [stage.id for stage in forest.path(end)[1:]]
        tree = trees.setdefault(next((stage for stage in path if stage not in trial.given), ""), Tree())
        tree.given |= dict.fromkeys(stage for stage in path if stage in trial.given)
        if ask is not None:
            tree.asks.append(ask)
        else:
            tree.leaves[end] = None
    if len(trees) < 2:
        return [trial]
    found = [trial_of(forest, trial.base.id, [tree], trial.phase) for tree in trees.values()]
    return [replace(one, snapshots=trial.snapshots) for one in found]


@dataclass
class Tree:
    """What hangs on one stage below a base, or below the end that a phase before leaves."""

    asks: list[Ask] = field(default_factory=list)
    leaves: dict[str, None] = field(default_factory=dict)
    """Ends that it is to leave, in order."""
    given: dict[str, None] = field(default_factory=dict)
    """What stands above it."""


def trial_of(forest: Forest, base: str, trees: Sequence[Tree], phase: int) -> Trial:
    """The trial of these trees of a base."""
    asks = [ask for tree in trees for ask in tree.asks]
    leaves = dict.fromkeys(stage for tree in trees for stage in tree.leaves)
    ends = [*(ask.stage for ask in asks), *leaves]
    path = [stage for end in ends for stage in forest.path(end)]
    needed = {stage.id: stage for stage in path if not isinstance(stage, BaseStage)}
    trained = [stage for stage in needed.values() if isinstance(stage, TrainingStage)]
    corpora = {corpus for stage in trained for corpus in (stage.corpus, stage.beside) if corpus is not None}
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
