"""Texts that are studied or probed and passed over by pretraining, filler or interference as well, or kept while they
are to be forgotten.

overlaps = Overlaps(forest)
overlaps.note(condition.interference, corpus, lists)        # for every condition
overlaps.check()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from memexp.errors import SpecError
from memexp.plan.forest import Forest
from memexp.plan.passes import Passing
from memexp.sources import Stream, Texts, shared_texts
from memexp.spec import Spaced
from memexp.wording import amount, noun

__all__ = ["Overlaps"]


@dataclasses.dataclass
class Overlaps:
    """Which corpora that pretraining and interference pass over may hold texts that are studied or probed."""

    forest: Forest
    """The forest to remark upon."""
    wanted: dict[tuple[str, str, str], dict[str, None]] = dataclasses.field(default_factory=dict)
    """Class, corpus identity and what to do about an overlap; and the identities of the lists to look for."""

    def note(self, settings: Passing | Spaced, corpus: Texts | Stream, others: Iterable[str]) -> None:
        """Remember to look for the lists `others` in `corpus`; many conditions ask for the same."""
        key = (type(settings).__name__, corpus.id, getattr(settings, "overlap", "report"))
        self.wanted.setdefault(key, {}).update(dict.fromkeys(others))

    def check(self) -> None:
        """Say, or refuse, that texts are studied or probed as well. Raises SpecError or DataError."""
        for (what, corpus_id, overlap), others in self.wanted.items():
            for line in self._found(self.forest.corpus(corpus_id), list(others)):
                if overlap == "refuse":
                    raise SpecError(f"{what}: {line}; overlap='report' allows it")
                self.forest.remarks[f"{what}: {line}"] = None

    def _found(self, corpus: Texts | Stream, others: list[str]) -> list[str]:
        """A line for each list that shares texts with `corpus`, or one that nobody can know."""
        lists = [self.forest.texts[other] for other in others]
        if isinstance(corpus, Stream) and not corpus.is_local:
            return [f"{corpus.name} is streamed from the hub, where nobody looks for texts that are studied or probed"]
        if isinstance(corpus, Stream):
            counts = shared_texts(corpus, lists)
        else:
            counts = [len(set(corpus.items) & set(texts.items)) for texts in lists]
        return [
            f"{amount(count, 'text')} of {corpus.name} {noun(count, 'is', 'are')} in {texts.name} as well"
            for count, texts in zip(counts, lists, strict=True)
            if count
        ]
