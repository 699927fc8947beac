"""From conditions to a forest of stages, and from the part of it that is missing to trials.

Conditions that share a training prefix share its stages: exposures 1, 2, 3 are three stops of one trajectory. A stage's
identity is the hash of its parent's and of what it does (DESIGN.md section 4), so two conditions share exactly what
would be computed twice with the same result.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from memexp.errors import SpecError
from memexp.identity import NUMERICS, canonical, identity, texts_identity
from memexp.records import check_items, check_labels
from memexp.sources import ResolvedModel, Sources, Texts
from memexp.spec import (
    Condition,
    Corpus,
    Full,
    HubText,
    InlineText,
    LoRA,
    Pair,
    Probe,
    Resources,
    ResourcesFor,
    ShippedText,
    Study,
    TextFile,
)
from memexp.store import Store

__all__ = ["Ask", "Copy", "Forest", "Missing", "Stage", "Trial", "bundle", "grow", "missing"]


@dataclass(frozen=True)
class Stage:
    """One indivisible segment of training."""

    id: str
    """Identity: hash of the parent's and of what this stage does."""
    kind: Literal["base", "study"]
    """What it does; ``base`` loads the model."""
    parent: str | None
    """Identity of the stage before it, None for a base."""
    model: ResolvedModel
    """The model it trains."""
    method: Full | LoRA
    """How it learns."""
    dtype: str
    """Arithmetic of the trajectory."""
    study: Study | None = None
    """The settings of a study stage."""
    corpus: str | None = None
    """Identity of the corpus it trains on."""
    seed: int = 0
    """Seed of a study stage."""
    first: int = 0
    """The first exposure this stage makes, counting from 1."""
    last: int = 0
    """The last exposure it makes: the same as `first` unless the schedule knows its horizon."""
    steps: int = 0
    """Optimizer steps."""


@dataclass(frozen=True)
class Ask:
    """One probe of one condition: what one result file answers."""

    stage: str
    """Identity of the stage after which it is measured."""
    probe: Probe
    """The bound probe."""
    probe_id: str
    """Its identity."""
    condition_id: str
    """Identity of the condition that asks."""
    settings: Mapping[str, Any]
    """The setting columns of its rows."""
    labels: Mapping[str, Any]
    """The label columns of its rows."""
    corpora: Mapping[str, str]
    """Field name to corpus identity, for every corpus of the probe."""

    @property
    def kind(self) -> str:
        """Folder in the store."""
        return self.probe.kind

    @property
    def measurement(self) -> tuple[str, str]:
        """Stage and probe: asks that agree here have the same numbers."""
        return self.stage, self.probe_id

    @property
    def prefix(self) -> str:
        """Beginning of the names of all files with these numbers."""
        return f"{self.stage}-{self.probe_id}-"

    @property
    def name(self) -> str:
        """File name, without the suffix: begins with what is measured, ends with who asks."""
        return self.prefix + self.condition_id


@dataclass
class Forest:
    """All stages of a sweep, what is asked of them and the texts both need."""

    stages: dict[str, Stage] = field(default_factory=dict)
    """By identity; parents come before their children."""
    asks: list[Ask] = field(default_factory=list)
    """One per condition and probe, without duplicates."""
    texts: dict[str, Texts] = field(default_factory=dict)
    """Every corpus by identity."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """What a trial holds, by base stage."""
    steps_unshared: int = 0
    """Optimizer steps if every condition were trained by itself."""

    @property
    def conditions(self) -> int:
        """Number of distinct conditions."""
        return len({ask.condition_id for ask in self.asks})

    @property
    def steps(self) -> int:
        """Optimizer steps with sharing."""
        return sum(stage.steps for stage in self.stages.values())

    def path(self, stage: str) -> list[Stage]:
        """The stages from the base to `stage`."""
        found: list[Stage] = []
        at: str | None = stage
        while at is not None:
            found.append(self.stages[at])
            at = found[-1].parent
        return found[::-1]


@dataclass(frozen=True)
class Copy:
    """A result whose numbers were measured for another condition already."""

    ask: Ask
    """Who asks now."""
    source: str
    """Name of the file that has the numbers."""


@dataclass
class Missing:
    """What of a forest the store does not have yet."""

    asks: list[Ask] = field(default_factory=list)
    """To be measured."""
    copies: list[Copy] = field(default_factory=list)
    """To be copied from other conditions' files."""
    diverged: list[Ask] = field(default_factory=list)
    """Not to be had: their training reached a loss that is not finite."""


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
    """The corpora its stages and asks need, by identity."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all its stages."""
        return sum(stage.steps for stage in self.stages)


def grow(
    conditions: Iterable[Condition],
    resources: ResourcesFor = Resources(),  # noqa: B008 - frozen
    sources: Sources | None = None,
) -> Forest:
    """The forest of `conditions`: reads their corpora, pins their models, and merges what they share.

    Raises:
        SpecError: two conditions give the same label different types, or a label hides a column.
        DataError, ModelError: a corpus or model cannot be used.
    """
    forest, sources = Forest(), sources or Sources()
    label_types: dict[str, type] = {}
    asks: dict[tuple[str, str], Ask] = {}
    seen: set[str] = set()
    kinds = {"recognition": "Recognition", "recall": "Recall"}
    for condition in conditions:
        model = sources.model(condition.model)
        path = _path(condition, model, _remember(forest, sources.texts(condition.study.corpus)))
        for stage in path:
            forest.stages.setdefault(stage.id, stage)
        if path[0].id not in forest.resources:
            needs = resources if isinstance(resources, Resources) else resources(condition.model)
            forest.resources[path[0].id] = needs
        _check_label_types(condition, label_types)
        settings = _settings(condition, path, forest.texts[sources.texts(condition.study.corpus).id])
        if settings["condition_id"] not in seen:  # a grid may name a condition twice
            seen.add(settings["condition_id"])
            forest.steps_unshared += sum(stage.steps for stage in path)
        for probe in condition.probes:
            table, name = probe.kind.lower(), type(probe).__qualname__  # SQL ignores case
            if kinds.setdefault(table, name) != name:
                raise SpecError(f"{name}.kind: {probe.kind!r} is the table of {kinds[table]}; name another")
            ask = _ask(forest, sources, condition, probe.bind(condition), settings)
            asks[ask.kind, ask.name] = ask
    forest.asks = list(asks.values())
    return forest


def _remember(forest: Forest, texts: Texts) -> Texts:
    return forest.texts.setdefault(texts.id, texts)


def _is_corpus(value: object) -> bool:
    return isinstance(value, TextFile | HubText | ShippedText | InlineText)


def _path(condition: Condition, model: ResolvedModel, texts: Texts) -> list[Stage]:
    """The stages of one condition, as in the table of DESIGN.md section 4."""
    study = condition.study
    key: dict[str, Any] = {"numerics": NUMERICS, "model": model.key, "method": canonical(condition.method)}
    if study.dtype != "float32":
        key["dtype"] = study.dtype
    path = [Stage(identity(key), "base", None, model, condition.method, study.dtype)]
    per_exposure = math.ceil(len(texts.items) / study.batch_size)
    # What determines a step beyond the model; the number of exposures only where the schedule knows it.
    settings = canonical(study, lambda value: texts.id if _is_corpus(value) else None)["Study"]
    what = {name: value for name, value in settings.items() if name not in ("exposures", "dtype")}
    spans = [(i, i) for i in range(1, study.exposures + 1)]
    if study.knows_horizon and spans:
        spans = [(1, study.exposures)]
        what["exposures"] = study.exposures
    for first, last in spans:
        key = {"parent": path[-1].id, "study": what, "seed": condition.seed, "exposure": first}
        stage = Stage(
            id=identity(key),
            kind="study",
            parent=path[-1].id,
            model=model,
            method=condition.method,
            dtype=study.dtype,
            study=study,
            corpus=texts.id,
            seed=condition.seed,
            first=first,
            last=last,
            steps=(last - first + 1) * per_exposure,
        )
        path.append(stage)
    return path


def _settings(condition: Condition, path: Sequence[Stage], texts: Texts) -> dict[str, Any]:
    """The setting columns of a condition's rows, without the probe's."""
    study, method, model = condition.study, condition.method, path[0].model
    study_key = canonical(study, lambda value: texts.id if _is_corpus(value) else None)
    condition_key = {
        "model": [model.name, model.key],
        "method": canonical(method),
        "study": study_key,
        "seed": condition.seed,
        "labels": dict(condition.labels),
    }
    lora = {}
    if isinstance(method, LoRA):
        targets = method.targets if isinstance(method.targets, str) else ",".join(method.targets)
        lora = {f"lora_{f.name}": getattr(method, f.name) for f in fields(method)} | {"lora_targets": targets}
    return {
        "condition_id": identity(condition_key),
        "stage_id": path[-1].id,
        "model": model.name,
        "model_revision": model.commit,
        "model_id": model.id,
        "init": "pretrained" if model.config is None else "random",
        "init_seed": None if model.config is None else model.seed,
        "tokenizer": model.tokenizer_name,
        "method": type(method).__name__.lower(),
        **lora,
        "corpus": texts.name,
        "corpus_id": texts.id,
        **{f.name: getattr(study, f.name) for f in fields(study) if f.name != "corpus"},
        "seed": condition.seed,
    }


def _check_label_types(condition: Condition, known: dict[str, type]) -> None:
    for name, value in condition.labels.items():
        expected = known.setdefault(name.lower(), type(value))
        if type(value) is not expected:
            raise SpecError(
                f"Condition.labels: {name!r} is {expected.__name__} in one condition and "
                f"{type(value).__name__} in another ({value!r}); a column has one type"
            )


def _ask(forest: Forest, sources: Sources, condition: Condition, probe: Probe, settings: dict[str, Any]) -> Ask:
    check_labels(condition.labels, probe.schema())
    check_items(type(probe).__name__, probe.schema())
    names = [name for name, _ in probe_corpora(probe)]
    if len(set(names)) < len(names):
        raise SpecError(
            f"{type(probe).__name__}: one Pair and corpora under other names, please; it has {', '.join(names)}"
        )
    corpora = {name: _remember(forest, sources.texts(corpus)) for name, corpus in probe_corpora(probe)}
    probe.check({name: texts.items for name, texts in corpora.items()}, {n: t.name for n, t in corpora.items()})

    def content(value: Any) -> Any | None:
        if isinstance(value, Pair):  # its name is for people only
            return [content(value.targets), content(value.foils)]
        return sources.texts(value).id if _is_corpus(value) else None

    probe_id = identity({"probe": canonical(probe, content), **_source(probe)})
    return Ask(
        stage=settings["stage_id"],
        probe=probe,
        probe_id=probe_id,
        condition_id=settings["condition_id"],
        settings={**settings, "probe_id": probe_id},
        labels=dict(condition.labels),
        corpora={name: texts.id for name, texts in corpora.items()},
    )


def _source(probe: Probe) -> dict[str, str]:
    """The hash of the class's source, for probes that do not come with memexp: who edits one wants new numbers.

    What the class calls elsewhere is not seen. memexp's own probes change their numbers with `NUMERICS` only.
    """
    if type(probe).__module__.partition(".")[0] == "memexp":
        return {}
    try:
        return {"source": texts_identity([inspect.getsource(type(probe))])}
    except (OSError, TypeError):  # typed into an interpreter that keeps no source
        return {}


def probe_corpora(probe: Probe) -> Iterator[tuple[str, Corpus]]:
    """Name and description of every corpus among a probe's fields; a `Pair` gives ``targets`` and ``foils``."""
    for item in fields(probe):  # type: ignore[arg-type] # Condition has checked that it is a dataclass
        value = getattr(probe, item.name)
        if isinstance(value, Pair):
            yield "targets", value.targets
            yield "foils", value.foils
        elif _is_corpus(value):
            yield item.name, value


def missing(forest: Forest, store: Store, retry_diverged: bool = False) -> Missing:
    """What of `forest` is not in `store`.

    Raises StoreError where a file that is to be relied on is not whole.
    """
    found = Missing()
    by_kind: dict[str, list[Ask]] = {}
    for ask in forest.asks:
        by_kind.setdefault(ask.kind, []).append(ask)
    for kind, asks in by_kind.items():
        names = store.names(kind)
        measured = {tuple(name.split("-")[:2]): name for name in sorted(names)}
        store.check_whole(kind, {ask.name for ask in asks} & names)
        for ask in asks:
            if ask.name in names:
                continue
            if ask.measurement in measured:
                found.copies.append(Copy(ask, measured[ask.measurement]))
            else:
                found.asks.append(ask)
    if found.asks and not retry_diverged:
        gone = _diverged(store)
        found.diverged = [ask for ask in found.asks if any(stage.id in gone for stage in forest.path(ask.stage))]
        lost = {(ask.kind, ask.name) for ask in found.diverged}
        found.asks = [ask for ask in found.asks if (ask.kind, ask.name) not in lost]
    return found


def _diverged(store: Store) -> set[str]:
    attempts = store.scan("stages")
    if attempts is None:
        return set()
    ids, status = attempts.column("stage_id").to_pylist(), attempts.column("status").to_pylist()
    ended: dict[str, set[str]] = {}
    for stage, outcome in zip(ids, status, strict=True):
        ended.setdefault(outcome, set()).add(stage)
    return ended.get("diverged", set()) - ended.get("complete", set())


TRIALS_PER_SLOT = 4
"""Bundles per place of a one-worker trial: a warm trial starts in about 0.2 s, so finer bundles even out the finish."""


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
    texts = {stage.corpus for stage in needed.values()} | {text for ask in asks for text in ask.corpora.values()}
    return Trial(
        base=forest.stages[base],
        stages=list(needed.values()),
        asks=list(asks),
        resources=forest.resources[base],
        texts={text: forest.texts[text] for text in sorted(filter(None, texts))},
    )
