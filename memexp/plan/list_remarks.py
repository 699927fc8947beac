"""What of the lists misleads, said before anything is trained: texts that are cut, come twice, or are their own foils.

remark_texts(forest)         # when all its stages and asks are known
"""

from __future__ import annotations

from collections.abc import Iterator

from memexp.errors import DataError
from memexp.identity import texts_identity
from memexp.plan.forest import Ask, Forest, TrainingStage
from memexp.sources import ResolvedModel, Texts
from memexp.sources.tokens import cut
from memexp.spec import probes_within
from memexp.wording import noun

__all__ = ["remark_texts"]


def remark_texts(forest: Forest) -> None:
    """A line in `Forest.remarks` for each list, or pair of lists, that has such texts.

    Raises DataError where texts are cut of which nothing could be measured.
    """
    _refuse_cut(forest)
    forest.remarks |= dict.fromkeys([*_repeated(forest), *_own_foils(forest), *_cut(forest)])


def _refuse_cut(forest: Forest) -> None:
    asked: dict[tuple[str, str], tuple[Ask, ResolvedModel]] = {}
    for ask in forest.asks:
        model = forest.stages[ask.stage].model
        asked.setdefault((ask.probe_id, model.tokenizer_id), (ask, model))
    for ask, model in asked.values():
        lists = {name: forest.texts[one].items for name, one in ask.corpora.items()}
        for probe in probes_within(ask.probe):
            items, size = tuple(probe.uncut(lists)), getattr(probe, "block_size", None)
            if not items or size is None:
                continue
            if count := cut(model, Texts(texts_identity(items), ask.kind, items), size):
                raise DataError(
                    f"{type(probe).__name__}.block_size: {count} of the {len(items)} texts that are asked for have "
                    f"more than {size} tokens ({model.tokenizer_name or model.name}); give a larger one"
                )


def _repeated(forest: Forest) -> Iterator[str]:
    for texts in forest.texts.values():
        if texts.repeated:
            repeat = noun(texts.repeated, "repeats", "repeat")
            yield f"{texts.repeated} of the {texts.count} entries of {texts.name} {repeat} an earlier one"


def _own_foils(forest: Forest) -> Iterator[str]:
    pairs: dict[frozenset[str], tuple[str, str]] = {}  # one for a pair and its twin
    for ask in forest.asks:
        if {"targets", "foils"} <= ask.corpora.keys():
            found = ask.corpora["targets"], ask.corpora["foils"]
            pairs.setdefault(frozenset(found), found)
    for pair in pairs.values():
        targets, foils = (forest.texts[one] for one in pair)
        same = sum(target == foil for target, foil in zip(targets.items, foils.items, strict=False))
        if same:
            are = noun(same, "is its own foil", "are their own foils")
            line = f"{same} of the {targets.count} targets of {targets.name} {are} in {foils.name}"
            yield f"{line}; nothing can tell them apart"


def _cut(forest: Forest) -> Iterator[str]:
    """Once for a list, however many train on it or measure with it."""
    wanted: dict[tuple[str, str, int], ResolvedModel] = {}
    for stage in forest.stages.values():
        if isinstance(stage, TrainingStage) and stage.corpus in forest.texts:
            wanted.setdefault((stage.corpus, stage.model.tokenizer_id, stage.settings.block_size), stage.model)
    for ask in forest.asks:
        size, model = getattr(ask.probe, "block_size", None), forest.stages[ask.stage].model
        if isinstance(size, int):
            for corpus in ask.corpora.values():
                wanted.setdefault((corpus, model.tokenizer_id, size), model)
    found: dict[tuple[str, int, int | None], dict[str, None]] = {}
    for (corpus, _, size), model in wanted.items():
        names = found.setdefault((corpus, size, cut(model, forest.texts[corpus], size)), {})
        names[model.tokenizer_name or model.name] = None
    for (corpus, size, count), names in found.items():
        texts, who = forest.texts[corpus], ", ".join(names)
        if count is None:
            line = f"whether block_size {size} cuts texts of {texts.name} shows in training only"
            yield f"{line}: no tokenizer.json ({who})"
        elif count:
            are = noun(count, "is", "are")
            yield f"{count} of the {texts.count} texts of {texts.name} {are} cut at block_size {size} ({who})"
