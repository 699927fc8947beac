"""From conditions to a forest of stages, and from the part of it that is missing to trials.

Conditions that share a training prefix share its stages: exposures 1, 2, 3 are three stops of one trajectory. A stage's
identity is the hash of its parent's and of what it does (ARCHITECTURE.md has the table): two conditions share exactly
what would be computed twice with the same result. Imports neither torch, transformers nor Ray; what executes, searches
and reports imports it.

    forest = grow(conditions)
    trials = bundle(forest, find_missing(forest, store).asks, slots)
"""

from memexp.plan.forest import Ask, BaseStage, Corpora, Forest, ForgetStage, Stage, TrainingStage
from memexp.plan.missing import Copy, Missing, answered, copy_results, find_missing
from memexp.plan.packing import bundle
from memexp.plan.stages import grow
from memexp.plan.trials import Trial, apart, merged, whole

__all__ = [
    "Ask",
    "BaseStage",
    "Copy",
    "Corpora",
    "Forest",
    "ForgetStage",
    "Missing",
    "Stage",
    "TrainingStage",
    "Trial",
    "answered",
    "apart",
    "bundle",
    "copy_results",
    "find_missing",
    "grow",
    "merged",
    "whole",
]
