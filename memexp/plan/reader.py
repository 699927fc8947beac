"""Reads the corpora of conditions and probes into their forest.

read = Reader(forest, Sources())
read.texts(condition.study.corpus).id
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memexp.plan.forest import Forest, TrainingStage
from memexp.sources import Sources, Stream, Texts

__all__ = ["Reader"]


@dataclass(frozen=True)
class Reader:
    """Reads corpora and remembers them in the forest."""

    forest: Forest
    sources: Sources
    probes: dict[tuple[type, str], Any] = field(default_factory=dict)
    """What was found out of probes, which many conditions have in common, by class and how they are written."""
    stages: dict[tuple[Any, ...], TrainingStage] = field(default_factory=dict)
    """Exposures, by what makes them."""

    def texts(self, corpus: object) -> Texts:
        """Those of a list, under its own name: the forest has one of many lists with the same texts."""
        texts = self.sources.texts(corpus)
        self.forest.texts.setdefault(texts.id, texts)
        return texts

    def corpus(self, corpus: object) -> Texts | Stream:
        """A list or a stream."""
        found = self.sources.corpus(corpus)
        if isinstance(found, Texts):
            return self.texts(corpus)
        self.forest.streams.setdefault(found.id, found)
        return found
