"""What worker groups execute: trees of the forest under one base model. `memexp.plan.packing` bundles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from memexp.plan.forest import Ask, BaseStage, Corpora, Forest, ForgetStage, TrainingStage
from memexp.sources import Stream, Texts
from memexp.spec import LoRA, Resources, Snapshots, runs_users_code
from memexp.store.snapshots import Mark, SideFiles, is_whole

__all__ = ["Tree", "Trial", "apart", "merged", "trial_of", "whole"]


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

    @property
    def most_lanes(self) -> int:
        """How many of its trees may be walked through in one pass: what its resources say, or 1 where that would harm.

        A probe of the user's own may change weights that lanes share, and some of memexp's do; lanes minimise mean NLLs
        and nothing else. What took its process along has company no more, nor has what may be ended at any report, or
        what memory ran out of on one of several workers.
        """
        own = any(runs_users_code(ask.probe) for ask in self.asks)
        own |= isinstance(self.base.method, LoRA) and any(ask.probe.changes_frozen for ask in self.asks)
        aimed = any(isinstance(stage, TrainingStage) and stage.aimed for stage in self.stages)
        apart = self.cautious or self.stoppable or self.halved or self.alone
        return 1 if own or aimed or apart or self.resources.workers > 1 else self.resources.most_lanes

    @property
    def moments(self) -> int:
        """Numbers that an optimizer of its stages keeps of each that learns, at most."""
        return max((stage.moments for stage in self.stages if isinstance(stage, TrainingStage)), default=0)

    def path(self, stage: str) -> list[str]:
        """The stages from the first one below the base to `stage`, whose identity is the last."""
        parents, found = {one.id: one.parent for one in self.stages}, list[str]()
        at: str | None = stage
        while at in parents:
            found.append(at)
            at = parents[at]
        return found[::-1]

    def lacking_leaves(self, store: SideFiles) -> tuple[str, ...]:
        """Those of its leaves of which the store has no snapshot that could be taken up."""
        stages = {stage.id: stage for stage in self.stages if isinstance(stage, TrainingStage)}
        ends = [(stages[leaf], Mark(leaf, stages[leaf].last)) for leaf in self.leaves]
        return tuple(mark.trajectory for stage, mark in ends if not is_whole(store, mark, stage.start or stage.parent))


def whole(forest: Forest, asks: Sequence[Ask]) -> Trial:
    """The one trial that measures `asks`, all of one base model, from the base down."""
    base = forest.base(asks[0].stage).id
    return trial_of(forest, base, [Tree(list(asks))], phase=0)


def merged(trials: Sequence[Trial]) -> Trial:
    """Trials of one base model as one, which has the trees of all."""
    return replace(
        trials[0],
        stages=list({stage.id: stage for trial in trials for stage in trial.stages}.values()),
        asks=[ask for trial in trials for ask in trial.asks],
        texts={corpus: texts for trial in trials for corpus, texts in trial.texts.items()},
        streams={corpus: stream for trial in trials for corpus, stream in trial.streams.items()},
    )


def apart(trial: Trial) -> list[Trial]:
    """A trial of its own for each tree of `trial`, the trial itself where it has one only."""
    trees: dict[str, Tree] = {}
    for end, ask in [*((ask.stage, ask) for ask in trial.asks), *((leaf, None) for leaf in trial.leaves)]:
        path = trial.path(end)
        tree = trees.setdefault(next((stage for stage in path if stage not in trial.given), ""), Tree())
        tree.given |= dict.fromkeys(stage for stage in path if stage in trial.given)
        if ask is not None:
            tree.asks.append(ask)
        else:
            tree.leaves[end] = None
    return [_only(trial, tree) for tree in trees.values()] if len(trees) > 1 else [trial]


def _only(trial: Trial, tree: Tree) -> Trial:
    """`trial` with one of its trees."""
    ends = [*(ask.stage for ask in tree.asks), *tree.leaves]
    needed = {stage for end in ends for stage in trial.path(end)}
    stages = [stage for stage in trial.stages if stage.id in needed]
    corpora = _corpora(stages, tree.asks)
    return replace(
        trial,
        stages=stages,
        asks=tree.asks,
        texts={corpus: trial.texts[corpus] for corpus in sorted(corpora & trial.texts.keys())},
        streams={corpus: trial.streams[corpus] for corpus in sorted(corpora & trial.streams.keys())},
        leaves=tuple(tree.leaves),
        given=frozenset(tree.given),
    )


def _corpora(stages: Sequence[TrainingStage | ForgetStage], asks: Sequence[Ask]) -> set[str]:
    """What these train on, and what is asked about."""
    trained = [stage for stage in stages if isinstance(stage, TrainingStage)]
    found = {corpus for stage in trained for corpus in (stage.corpus, stage.beside) if corpus is not None}
    return found | {corpus for ask in asks for corpus in ask.corpora.values()}


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
    path = (stage for end in chain((ask.stage for ask in asks), leaves) for stage in forest.path(end))
    needed = {stage.id: stage for stage in path if not isinstance(stage, BaseStage)}
    corpora = _corpora(list(needed.values()), asks)
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
