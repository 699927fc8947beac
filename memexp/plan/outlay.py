"""What the trials of a base model will do, in tokens, and how long that takes: for a plan.

work = work_of(base, trials)      # work_alone: the same without sharing
hours(work, inspection, stage, resources, DEVICES["h100"], measured)      # at least, likely, at most
times = Times(inspections, device)                     # of trials, for `memexp.plan.packing`
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp.plan.attempts import Log
from memexp.plan.devices import DEVICES, ETHERNET, HOST, PCIE, REACHED, Device
from memexp.plan.forest import BaseStage, Forest, ForgetStage, Stage, TrainingStage
from memexp.plan.inspection import Inspection
from memexp.plan.lengths import Lengths
from memexp.plan.memory import Load
from memexp.plan.trials import Trial
from memexp.probes import Quantized, Savings
from memexp.spec import AdamW, LoRA, Resources, Unlearn, probes_within

__all__ = ["Times", "Work", "hours", "load_of", "occupied", "seconds_per_token", "work_alone", "work_of"]

PADDING = 1.15
"""Of a batch, which is of texts of like length."""
RECALLED = 6_144
"""Tokens of texts that are completed together."""
COMPLETING = ("recall", "qa", "truth_ratio", "continuation")
"""Kinds whose texts are completed, or may be."""
ABLATING = ("ablation", "base_forgetting", "capacity", "membership", "priming")
"""Kinds that ask the model without what it has learned."""
SPREAD = 0.25
"""By which what was measured may be off for other conditions."""
LAUNCH = {("full", 4): 0.6e-3, ("full", 2): 1.3e-3, ("lora", 4): 1.6e-3, ("lora", 2): 2.9e-3}
"""Seconds of the host a block and step, however small the batch, by method and bytes of a number: measured at the depth
of GPT-2, OPT-1.3B and an 8B with adapters, and tiny width."""


@dataclass(frozen=True)
class Work:
    """What passes through the model."""

    batches: Mapping[tuple[int, float], int]
    """Optimizer steps, by texts a batch and tokens a text."""
    measured: int
    """Tokens that are measured, or passed forward alone by what unlearning remembers."""
    moments: int = AdamW().moments
    """Numbers that an optimizer keeps of each that learns, at most."""

    @property
    def trained(self) -> float:
        """Tokens that are trained on."""
        return sum(steps * size * tokens for (size, tokens), steps in self.batches.items())


def load_of(forest: Forest, base: str) -> Load:
    """What the stages below a base take of memory."""
    stages = [stage for stage in forest.stages.values() if forest.base(stage.id).id == base]
    lengths = Lengths(forest.base(base).model)
    trained = {
        (stage.corpus, stage.settings.block_size, stage.pass_size): stage
        for stage in stages
        if isinstance(stage, TrainingStage)
    }
    tokens = [PADDING * size * lengths.studied(forest, stage) for (_, _, size), stage in trained.items()]
    parted = any(stage.pass_size < stage.batch_size for stage in trained.values())
    diverging = any(isinstance(stage.settings, Unlearn) and stage.settings.loss == "kl" for stage in trained.values())
    asks = [ask for ask in forest.asks if forest.base(ask.stage).id == base]
    restudies = [(ask, ask.probe) for ask in asks if isinstance(ask.probe, Savings)]
    tokens += [PADDING * math.prod(lengths.restudied(forest, ask)) for ask, _ in restudies]
    forks, forking = _forks(base, stages)
    moments = max([_most_moments(stages), *((probe.optimizer or AdamW()).moments for _, probe in restudies)])
    recalled = RECALLED if any(one.kind in COMPLETING for ask in asks for one in probes_within(ask.probe)) else 0
    rounding = any(isinstance(one, Quantized) for ask in asks for one in probes_within(ask.probe))
    return Load(
        int(max(tokens, default=0)),
        forks + bool(restudies),  # the trajectory, while a copy of the model studies
        None if restudies else forking,
        recalled,
        moments,
        _held(stages),
        parted,
        diverging,
        rounding,
        ablating=any(one.kind in ABLATING for ask in asks for one in probes_within(ask.probe)),
    )


def _most_moments(stages: Iterable[Stage]) -> int:
    """Numbers that an optimizer of `stages` keeps of each that learns, at most; where nothing is trained AdamW's."""
    return max((one.moments for one in stages if isinstance(one, TrainingStage)), default=AdamW().moments)


def _held(stages: Iterable[Stage]) -> int:
    """Numbers that are kept of each that learns, of the beginnings of all lines on one way, at most."""
    found: dict[str, int] = {}
    for stage in stages:  # parents come first
        before = found.get(stage.parent or "", 0)
        begins = isinstance(stage, TrainingStage) and stage.parent == stage.start
        found[stage.id] = before + (stage.held if begins and isinstance(stage, TrainingStage) else 0)
    return max(found.values(), default=0)


def _forks(base: str, stages: Sequence[Stage]) -> tuple[int, int]:
    """States that are kept in memory at a time: one where several stages follow, until the last of them begins; and at
    how many stages that is, the base aside."""
    below: dict[str, tuple[int, int, int]] = {}
    """By stage: how many follow, states at a time below the last of them, and below any other."""
    at_once = forking = 0
    for stage in reversed(stages):  # children come after their parents, the base is the first of all
        follow, last, others = below.pop(stage.id, (0, 0, 0))
        held = int(follow > 1 and stage.id != base)
        at_once, forking = max(held + others, last), forking + held
        if stage.parent is not None:
            follow, last, others = below.get(stage.parent, (0, at_once, 0))
            below[stage.parent] = follow + 1, last, max(others, at_once if follow else 0)
    return at_once, forking


def work_of(base: str, trials: Sequence[Trial]) -> Work:
    """What the trials of a base do."""
    mine = [trial for trial in trials if trial.base.id == base]
    stages = ((trial, stage, 1) for trial in mine for stage in trial.stages if stage.id not in trial.given)
    measured: dict[str, set[str]] = {}
    for ask in (ask for trial in mine for ask in trial.asks):
        measured.setdefault(ask.probe_id, set()).add(ask.stage)
    return _work(mine, stages, {probe: len(ends) for probe, ends in measured.items()})


def work_alone(base: str, trials: Sequence[Trial]) -> Work:
    """What it would be if every condition were trained and measured by itself; the untrained model is measured once."""
    mine = [trial for trial in trials if trial.base.id == base]
    measured = Counter(ask.probe_id for trial in mine for ask in trial.asks if ask.stage != base)
    measured.update({ask.probe_id for trial in mine for ask in trial.asks if ask.stage == base})
    return _work(mine, (one for trial in mine for one in _alone(trial)), measured)


def _alone(trial: Trial) -> Iterator[tuple[Trial, TrainingStage | ForgetStage, int]]:
    """Its stages, with how many conditions pass through each."""
    times = Counter(stage for _, stage in {(ask.condition_id, ask.stage) for ask in trial.asks})
    for stage in reversed(trial.stages):  # children come after their parents
        times[stage.parent] += times[stage.id]
        yield trial, stage, times[stage.id]


def _work(
    trials: Sequence[Trial],
    stages: Iterable[tuple[Trial, TrainingStage | ForgetStage, int]],
    measured: Mapping[str, int],
) -> Work:
    """Of stages and of probes (by identity), so many times each; restudy counts with its most steps."""
    batches: Counter[tuple[int, float]] = Counter()
    if not trials:
        return Work(batches, 0, AdamW().moments)
    lengths, read, moments = Lengths(trials[0].base.model), 0.0, set[int]()
    for trial, stage, times in stages:
        if isinstance(stage, TrainingStage) and times:
            moments.add(stage.moments)
            batches[stage.batch_size, lengths.studied(trial, stage)] += times * stage.steps
            read += times * lengths.remembered(trial, stage)
            passes, batch = lengths.consolidated(trial, stage)
            if passes:
                batches[batch] += times * passes
    for trial, ask in {ask.probe_id: (one, ask) for one in trials for ask in one.asks}.values():
        times = measured[ask.probe_id]
        read += times * lengths.measured(trial, ask)
        if isinstance(ask.probe, Savings):
            batches[lengths.restudied(trial, ask)] += times * ask.probe.most
    return Work(batches, int(read), max(moments, default=AdamW().moments))


def hours(
    work: Work, inspection: Inspection, base: BaseStage, resources: Resources, device: Device, per_token: float | None
) -> tuple[float, float, float]:
    """Hours of one device: at least, likely and at most; from `per_token` seconds of training where they are known."""
    training = _operations(base, resources)
    measured = work.measured * 2 / training
    if per_token is not None:
        likely = per_token * (work.trained + measured) / 3600
        return likely * (1 - SPREAD), likely, likely * (1 + SPREAD)
    operations = training * inspection.parameters / device.speed(base.dtype)
    fixed, launch = _moved(inspection, base, resources, device, work.moments), _launched(inspection, base)
    least_to_most = []
    for used, reached, host in zip(*map(reversed, (device.used, REACHED, HOST)), strict=True):
        seconds = operations * measured / used / resources.workers
        for (size, tokens), steps in work.batches.items():
            here = tokens * math.ceil(size / resources.workers)  # a worker without a text waits for the others
            seconds += steps * max(host * launch, operations * here / used + fixed / reached)
        least_to_most.append(resources.workers * seconds / 3600)
    low, usual, high = least_to_most
    return low, usual, high


def _operations(base: BaseStage, resources: Resources) -> int:
    """Of a parameter and token in training: 2 forward, 4 back, or 2 where no gradient of a weight is asked for; with
    checkpointing another 2 forward."""
    return (4 if isinstance(base.method, LoRA) else 6) + 2 * resources.checkpointing


def _moved(inspection: Inspection, base: BaseStage, resources: Resources, device: Device, moments: int) -> float:
    """Seconds a step in which weights, gradients and moments are moved, whatever the batch: at the best bandwidths."""
    width, workers = (2 if base.dtype == "bfloat16" else 4), resources.workers
    learning = 0 if isinstance(base.method, LoRA) else inspection.parameters
    # Weights are read forward and back; a gradient is written, the optimizer reads it, and reads and writes
    # a weight and its moments.
    memory = 2 * width * inspection.parameters + 4 * (4 + 2 * moments) * learning / workers
    # Weights are gathered forward and back, and gradients scattered in float32.
    between = (2 * width * inspection.parameters + 4 * learning) * (workers - 1) / workers
    away = 2 * 4 * moments * learning / workers if resources.offload and resources.gpus else 0
    return memory / device.bandwidth + between / (ETHERNET if resources.spread else device.link) + away / PCIE


def occupied(forest: Forest, base: str, inspection: Inspection, device: Device) -> float:
    """The largest share of a training step in which the device computes, of the stages below a base on one worker.

    1 where the host is never waited for, and where nothing is trained.
    """
    stage, resources = forest.base(base), forest.resources[base]
    lengths = Lengths(stage.model)
    batches = {
        (one.batch_size, lengths.studied(forest, one), one.moments)
        for one in forest.stages.values()
        if isinstance(one, TrainingStage) and forest.base(one.id).id == base
    }
    launch = HOST[1] * _launched(inspection, stage)
    token = _operations(stage, resources) * inspection.parameters / device.speed(stage.dtype) / device.used[1]
    found = [
        size * tokens * token + _moved(inspection, stage, resources, device, moments) / REACHED[1]
        for size, tokens, moments in batches
    ]
    return max((seconds / max(seconds, launch) for seconds in found), default=1.0)


def _launched(inspection: Inspection, base: BaseStage) -> float:
    """Seconds a step that the host takes, however fast the device is."""
    method = "lora" if isinstance(base.method, LoRA) else "full"
    return LAUNCH[method, 2 if base.dtype == "bfloat16" else 4] * (inspection.blocks or 1)


def seconds_per_token(log: Log, model: str, device: str) -> float | None:
    """Of one device, as stages of a model took them; None where none was trained on such a device."""
    rows = [
        row
        for row in log.rows(status="complete", model=model)
        if row["tokens"] and row["kind"] != "base" and device.lower() in str(row["device"]).lower().replace(" ", "")
    ]
    tokens = sum(row["tokens"] for row in rows)
    return sum(row["seconds"] * (row["workers"] or 1) for row in rows) / tokens if tokens else None


WARM, GROUP = 0.2, 20.0
"""Seconds until a trial of one worker begins whose process has the base model, and until a group of workers does."""
DISK = 1e9
"""Bytes a second from and to files: a local NVMe does more, a file system over the network less."""
SAVED = 1.0
"""Seconds to leave a stage's end in the store and to take it up, beside the bytes."""


class Times:
    """How long trials take, about: likely, and on one kind of device for each of their `Resources`.

    What one step of a stage takes, and what a measured token, is worked out once.
    """

    def __init__(self, inspections: Mapping[str, Inspection], device: Callable[[Resources], str]) -> None:
        """What models are like, by their identity; and on what device trials are, of `DEVICES`."""
        self._inspections, self._device = inspections, device
        self._lengths: dict[str, Lengths] = {}
        self._known: dict[tuple[str, Any], float] = {}

    def seconds(self, trial: Trial) -> float:
        """A trial's training and measuring, from its first step to its last row."""
        lengths = self._lengths.setdefault(trial.base.id, Lengths(trial.base.model))
        found = read = 0.0
        for stage in trial.stages:
            if isinstance(stage, TrainingStage) and stage.id not in trial.given:
                batch = stage.batch_size, lengths.studied(trial, stage)
                found += stage.steps * self._of(trial, (batch, stage.moments), Work({batch: 1}, 0, stage.moments))
                read += lengths.remembered(trial, stage)
                passes, batch = lengths.consolidated(trial, stage)
                if passes:
                    found += passes * self._of(trial, (batch, stage.moments), Work({batch: 1}, 0, stage.moments))
        for ask in {ask.measurement: ask for ask in trial.asks}.values():
            read += lengths.measured(trial, ask)
            if isinstance(ask.probe, Savings):
                batch, moments = lengths.restudied(trial, ask), (ask.probe.optimizer or AdamW()).moments
                found += ask.probe.most * self._of(trial, (batch, moments), Work({batch: 1}, 0, moments))
        return found + read * self._of(trial, None, Work({}, _MANY)) / _MANY

    def _of(self, trial: Trial, what: Any, work: Work) -> float:
        key = trial.base.id, what
        if key not in self._known:
            base, resources = trial.base, trial.resources
            device = DEVICES[self._device(resources)]
            _, likely, _ = hours(work, self._inspections[base.model.id], base, resources, device, None)
            self._known[key] = 3600 * likely / resources.workers
        return self._known[key]

    def start(self, base: BaseStage, resources: Resources) -> float:
        """A trial where one of the same base has just ended: a group of workers loads the model each time."""
        return WARM if resources.workers == 1 else GROUP + self._bytes(base) / DISK

    def cut(self, base: BaseStage, resources: Resources) -> float:
        """Leaving the end of a stage in the store, and beginning there: weights and moments of what learns."""
        moved = 0 if isinstance(base.method, LoRA) else 2 * 3 * self._bytes(base)
        return SAVED + moved / DISK + self.start(base, resources)

    def _bytes(self, base: BaseStage) -> float:
        return 4.0 * self._inspections[base.model.id].parameters


_MANY = 1_000_000
"""Tokens, of which one is an even part."""
