"""From a study to its stages: an exposure each, what comes between them, and a stop within the last.

path += exposures("study", path[-1], condition.study, condition.seed, read)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from memexp.errors import DataError
from memexp.identity import canonical, identity
from memexp.plan.forest import Stage, TrainingStage
from memexp.plan.passes import filled, interleaved
from memexp.plan.reader import Reader
from memexp.sources import Texts, is_corpus
from memexp.spec import Passes, Spaced, Study
from memexp.wording import amount

__all__ = ["exposures"]

Kind = Literal["study", "restudy", "then"]


def exposures(kind: Kind, parent: Stage, study: Study, seed: int, read: Reader) -> Iterator[TrainingStage]:
    """A stage for each exposure, or one for all where the schedule knows its horizon; filler between spaced ones.

    Raises:
        DataError: the lists are not as long as each other, or too short for what the study says of them.
    """
    lists, between = [read.texts(corpus) for corpus in (study.corpus, *study.variants)], study.presentation
    passes = _checked(study, lists)
    what = _determining(study, lists[0])
    filler = read.corpus(between.filler) if isinstance(between, Spaced) else None
    beside = filler if isinstance(between, Spaced) and between.beside else None
    if beside is not None:
        what["beside"] = interleaved(study, beside)
    told = sys.intern(repr(what))
    spans = [(i, i) for i in range(1, study.exposures + 1 + bool(study.further_batches))]
    if study.knows_horizon and study.exposures:
        spans = [(1, study.exposures)]
    for first, last in spans:
        if filler is not None and isinstance(between, Spaced) and between.gap and first > 1:
            gap = between.steps_before(first - 1) + 1, between.steps_before(first)
            parent = filled(parent, study, what, seed, filler, *gap)
            yield parent
        texts = lists[(first - 1) % len(lists)]
        # More exposures pass through the same ones: of a grid each would be hashed many times.
        alike = parent.id, kind, told, texts.id, seed, first, last, last > study.exposures and study.further_batches
        if alike not in read.stages:
            key = {"parent": parent.id, kind: what | {"corpus": texts.id}, "seed": seed, "exposure": first}
            read.stages[alike] = TrainingStage(
                **_placed(key, study, passes, first, last),
                kind=kind,
                parent=parent.id,
                model=parent.model,
                method=parent.method,
                dtype=parent.dtype,
                settings=study,
                corpus=texts.id,
                seed=seed,
                moments=study.optimizer.moments,
                beside=None if beside is None else beside.id,
            )
        parent = read.stages[alike]
        yield parent


def _placed(key: dict[str, Any], study: Study, passes: Passes, first: int, last: int) -> dict[str, Any]:
    """Identity and steps of the exposures `first` to `last`, or of a stop within one, which is on a line of its own."""
    began, end = passes.steps_until(first - 1), passes.steps_until(last)
    if last <= study.exposures:
        return {"id": identity(key), "first": first, "last": last, "steps": end - began, "last_step": end}
    end, origin = began + study.further_batches * passes.repeats, identity(key | {"within": 2})
    line = {"id": identity({"origin": origin, "step": end}), "origin": origin, "start": key["parent"]}
    return line | {"first": began + 1, "last": end, "steps": end - began, "last_step": end}


def _determining(study: Study, texts: Texts) -> dict[str, Any]:
    """What determines a step beyond the model and the exposure; how many of these only where the schedule knows it.

    How exposures are spaced is in what comes between them; which wording one has, in its texts.
    """
    alone = {"exposures", "further_batches", "variants", "dtype"}
    if isinstance(study.presentation, Spaced):
        alone.add("presentation")
    settings = canonical(study, lambda value: texts.id if is_corpus(value) else None)["Study"]
    what = {name: value for name, value in settings.items() if name not in alone}
    return what | ({"exposures": study.exposures} if study.knows_horizon else {})


def _checked(study: Study, lists: Sequence[Texts]) -> Passes:
    """Raises DataError."""
    texts = lists[0]
    for other in lists[1:]:
        if other.count != texts.count:
            raise DataError(
                f"Study.variants: {other.name} has {amount(other.count, 'text')} and {texts.name} has {texts.count}; a "
                "variant has each text of the list in other words, line by line"
            )
    if study.times is not None and len(study.times) > texts.count:
        raise DataError(
            f"Study.times: {len(study.times)} numbers for the {amount(texts.count, 'text')} of {texts.name}"
        )
    passes, after = Passes(study, texts.count), study.exposures + 1
    there = passes.steps(after) // passes.repeats
    if study.further_batches and study.further_batches >= there:
        raise DataError(
            f"Study.further_batches: {study.further_batches} of the {amount(there, 'batch', 'batches')} of exposure "
            f"{after}; give fewer, or as many more of Study.exposures"
        )
    return passes
