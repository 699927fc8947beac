"""The hours that a plan tells: of operations, of what is moved, of the host; with sharing and without."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from memexp import (
    EWC,
    QA,
    SGD,
    AdamW,
    Canaries,
    Capacity,
    Condition,
    Exposure,
    Full,
    InlineItems,
    InlineText,
    Interference,
    LayerAblation,
    LoRA,
    Membership,
    Model,
    Pair,
    Probe,
    Quantized,
    Recall,
    Recognition,
    Resources,
    Savings,
    ShippedText,
    Study,
    Unlearn,
    probes,
)
from memexp.plan import bundle, grow
from memexp.plan.devices import ETHERNET, PCIE, Device
from memexp.plan.forest import BaseStage, TrainingStage
from memexp.plan.inspection import Inspection
from memexp.plan.lengths import Lengths
from memexp.plan.memory import needed
from memexp.plan.outlay import ABLATING, LAUNCH, SPREAD, Times, Work, hours, load_of, work_alone, work_of

FAST = Device(memory=80e9, float32=1e16, tf32=1e16, bfloat16=2e16, bandwidth=1e12, link=1e11)
SLOW = Device(memory=80e9, float32=1e12, tf32=2e12, bfloat16=4e12, bandwidth=1e15, link=1e15)
MODEL = Inspection(parameters=10**9, linear=10**6, context=None, blocks=20)
STEPS = 1000
SMALL, LARGE = Work({(1, 10.0): STEPS}, 0), Work({(64, 100.0): STEPS}, 0)
Trajectory = Callable[[float], list[Condition]]


@pytest.fixture
def base(trajectory: Trajectory) -> BaseStage:
    [found] = [stage for stage in grow(trajectory(1e-3)).stages.values() if isinstance(stage, BaseStage)]
    return found


def seconds(work: Work, base: BaseStage, device: Device, inspection: Inspection = MODEL, **resources: object) -> float:
    least, likely, most = hours(work, inspection, base, Resources(gpus=1, **resources), device, None)  # type: ignore[arg-type]
    assert 0 < least < likely < most
    return 3600 * likely / STEPS


def test_large_batches_take_the_time_of_their_operations(base: BaseStage) -> None:
    assert seconds(LARGE, base, SLOW) == pytest.approx(6 * 10**9 * 6400 / 1e12 / 0.35, rel=1e-3)
    adapter = dataclasses.replace(base, method=LoRA())
    assert seconds(LARGE, adapter, SLOW) / seconds(LARGE, base, SLOW) == pytest.approx(4 / 6, rel=1e-2)
    again = seconds(LARGE, base, SLOW, checkpointing=True)
    assert again / seconds(LARGE, base, SLOW) == pytest.approx(8 / 6, rel=1e-2)
    tf32 = dataclasses.replace(base, dtype="tf32")
    assert seconds(LARGE, tf32, SLOW) / seconds(LARGE, base, SLOW) == pytest.approx(1 / 2, rel=1e-2)
    measured = Work(LARGE.batches, 640_000 * STEPS)  # a hundred times as many tokens, forward only
    assert seconds(measured, base, SLOW) / seconds(LARGE, base, SLOW) == pytest.approx(1 + 100 / 3, rel=1e-2)


def test_small_batches_take_the_time_that_weights_and_moments_are_moved_in(base: BaseStage) -> None:
    moved = (8 + 32) * 10**9 / 1e12 / 0.75
    assert seconds(SMALL, base, FAST) == pytest.approx(moved, rel=1e-2)
    for moments, numbers in ((0, 4), (1, 6)):
        moved = (8 + 4 * numbers) * 10**9 / 1e12 / 0.75
        assert seconds(dataclasses.replace(SMALL, moments=moments), base, FAST) == pytest.approx(moved, rel=1e-2)
    adapter, large = dataclasses.replace(base, method=LoRA()), dataclasses.replace(MODEL, parameters=10**10)
    assert seconds(SMALL, adapter, FAST, large) == pytest.approx(8 * 10**10 / 1e12 / 0.75, rel=1e-2)
    away = (40 * 10**9 / 1e12 + 16 * 10**9 / PCIE) / 0.75
    assert seconds(SMALL, base, FAST, offload=True) == pytest.approx(away, rel=1e-2)
    # On four devices, each waits for the weights to be gathered twice and the gradients to be scattered.
    gathered = 12 * 10**9 * 3 / 4
    each = ((8 + 32 / 4) * 10**9 / 1e12 + gathered / 1e11) / 0.75
    assert seconds(SMALL, base, FAST, workers=4) == pytest.approx(4 * each, rel=1e-2)
    apart = ((8 + 32 / 4) * 10**9 / 1e12 + gathered / ETHERNET) / 0.75
    assert seconds(SMALL, base, FAST, workers=4, spread=True) == pytest.approx(4 * apart, rel=1e-2)


def test_a_worker_without_a_text_waits_for_the_others(base: BaseStage) -> None:
    one = seconds(Work({(1, 100.0): STEPS}, 0), base, SLOW)
    assert seconds(Work({(1, 100.0): STEPS}, 0), base, SLOW, workers=4) == pytest.approx(4 * one, rel=1e-2)
    assert seconds(Work({(4, 100.0): STEPS}, 0), base, SLOW, workers=4) == pytest.approx(4 * one, rel=1e-2)


def test_no_step_is_faster_than_the_host(base: BaseStage) -> None:
    tiny = dataclasses.replace(MODEL, parameters=10**6)
    assert seconds(SMALL, base, FAST, tiny) == pytest.approx(20 * LAUNCH["full", 4])
    coarse = dataclasses.replace(base, method=LoRA(), dtype="bfloat16")
    assert seconds(SMALL, coarse, FAST, tiny) == pytest.approx(20 * LAUNCH["lora", 2])


def test_what_was_measured_goes_first(base: BaseStage) -> None:
    found = hours(LARGE, MODEL, base, Resources(gpus=1), FAST, 3600e-6)
    assert found == pytest.approx([6.4 * (1 - SPREAD), 6.4, 6.4 * (1 + SPREAD)])


def test_without_sharing_every_condition_is_trained_by_itself(trajectory: Trajectory) -> None:
    conditions = [*trajectory(1e-3), *trajectory(1e-2)]
    untrained = [
        dataclasses.replace(one, study=dataclasses.replace(one.study, exposures=0))
        for one in (conditions[0], conditions[3])
    ]
    forest = grow([*conditions, *untrained])
    trials = bundle(forest, forest.asks, lambda resources: 1)
    [base] = [stage.id for stage in forest.stages.values() if isinstance(stage, BaseStage)]
    shared, alone = work_of(base, trials), work_alone(base, trials)
    assert sum(shared.batches.values()) == forest.steps
    assert sum(alone.batches.values()) == forest.steps_unshared == 2 * forest.steps
    assert alone.trained == pytest.approx(2 * shared.trained)
    assert shared.measured == alone.measured > 0  # the untrained model once, either way
    assert work_of("another", trials) == work_alone("another", trials) == Work({}, 0)


def test_moments_are_counted_as_the_optimizers_have_them(trajectory: Trajectory) -> None:
    [first, *_] = [one for one in trajectory(1e-3) if one.study.exposures]
    between = Interference(first.study.corpus, 2, lr=1e-3, batch_size=2)
    asked = [(None, 2), (AdamW(), 2), (SGD(), 0), (SGD(0.9), 1)]
    for optimizer, moments in asked:
        study = first.study if optimizer is None else dataclasses.replace(first.study, optimizer=optimizer)
        for how, then in (("carried", moments), ("fresh", 2), (SGD(0.5), max(moments, 1))):
            interference = dataclasses.replace(between, optimizer=how)
            forest = grow([dataclasses.replace(first, study=study, interference=interference)])
            [base] = forest.resources
            assert load_of(forest, base).moments == then
            assert work_of(base, bundle(forest, forest.asks, lambda resources: 1)).moments == then


def test_what_is_measured_of_an_untrained_model_takes_time_too(trajectory: Trajectory) -> None:
    one, *_ = trajectory(1e-3)
    forest = grow([dataclasses.replace(one, study=dataclasses.replace(one.study, exposures=0))])
    trials = bundle(forest, forest.asks, lambda resources: 1)
    [base] = [stage for stage in forest.stages.values() if isinstance(stage, BaseStage)]
    work = work_of(base.id, trials)
    lists = {corpus for ask in forest.asks for corpus in ask.corpora.values()}
    texts = sum(len(forest.texts[corpus].items) for corpus in lists)
    assert not work.batches and work.measured > 2 * texts
    assert min(hours(work, MODEL, base, Resources(gpus=1), SLOW, None)) > 0


def test_restudy_takes_its_steps_and_looks_and_a_copy_of_the_trajectory(trajectory: Trajectory) -> None:
    one, *_ = trajectory(1e-3)
    one = dataclasses.replace(one, study=dataclasses.replace(one.study, optimizer=SGD()))
    found = []
    restudy = Savings(batch_size=64, most=30, every=4, optimizer=AdamW())
    for probe in (Recognition(Pair(one.study.corpus, one.study.corpus)), restudy):
        forest = grow([dataclasses.replace(one, probes=[probe])])
        trials = bundle(forest, forest.asks, lambda resources: 1)
        [base] = forest.resources
        times = Times({base: MODEL, trials[0].base.model.id: MODEL}, lambda _: "h100")
        found.append((load_of(forest, base), work_of(base, trials), times.seconds(trials[0])))
    (plain, before, sooner), (load, work, later) = found
    assert (plain.moments, load.moments, load.forks) == (0, 2, plain.forks + 1) and load.tokens > plain.tokens
    restudied = {batch: steps for batch, steps in work.batches.items() if batch not in before.batches}
    assert [(size, steps) for (size, _), steps in restudied.items()] == [(64, 30)]
    assert work.measured == pytest.approx(9 * before.measured / 2, abs=9), "eight looks and one before, at one list"
    assert later > sooner


def test_what_unlearning_and_ewc_remember_takes_its_passes(trajectory: Trajectory) -> None:
    one, *_ = [one for one in trajectory(1e-3) if one.study.exposures]
    kept = InlineText("kept", ["four words of text"] * 6)

    def planned(*conditions: Condition) -> tuple[Work, float, float]:
        forest = grow(conditions)
        trials = bundle(forest, forest.asks, lambda resources: 1)
        [base] = forest.resources
        times = Times({trials[0].base.model.id: MODEL}, lambda _: "h100")
        alone = work_alone(base, trials)
        return work_of(base, trials), times.seconds(trials[0]), alone.measured

    def unlearning(loss: Any, steps: int) -> Condition:
        return dataclasses.replace(one, unlearn=Unlearn(loss, steps, 1e-3, retain=kept, batch_size=2))

    (plain, sooner, _), (kl, later, _), (npo, _, _) = (
        planned(unlearning(how, 5)) for how in ("difference", "kl", "npo")
    )
    assert plain.batches == kl.batches == npo.batches and later > sooner
    lengths = Lengths(next(iter(grow([one]).stages.values())).model)
    forest = grow([unlearning("kl", 5)])
    [stage] = [stage for stage in forest.stages.values() if stage.kind == "unlearn"]
    assert isinstance(stage, TrainingStage)
    [of_kept] = [text for text in forest.texts.values() if text.items[0] == "four words of text"]
    each = lengths.studied(forest, dataclasses.replace(stage, corpus=of_kept.id))
    assert kl.measured - plain.measured == pytest.approx(5 * 2 * each, abs=1), "in every step"
    known = forest.corpus(stage.corpus).count * lengths.studied(forest, stage)
    assert npo.measured - plain.measured == pytest.approx(known, abs=1), "once"
    both = [planned(unlearning(loss, 2), unlearning(loss, 5)) for loss in ("difference", "npo")]
    (without, _, apart), (together, _, alone) = both
    assert together.measured - without.measured == pytest.approx(known, abs=1), "once for all stops"
    assert alone - apart == pytest.approx(2 * known, abs=1), "once for each by itself"


def test_the_fisher_of_ewc_takes_a_pass_of_each_text_and_draw(trajectory: Trajectory) -> None:
    one, *_ = [one for one in trajectory(1e-3) if one.study.exposures]
    found = []
    for protect in (None, EWC(10.0), EWC(10.0, samples=3)):
        stops = [
            dataclasses.replace(one, interference=Interference(one.study.corpus, steps, 1e-3, 2, protect=protect))
            for steps in (2, 4)
        ]
        forest = grow(stops)
        trials = bundle(forest, forest.asks, lambda resources: 1)
        [base] = forest.resources
        times = Times({trials[0].base.model.id: MODEL}, lambda _: "h100")
        singles = sum(steps for (size, _), steps in work_of(base, trials).batches.items() if size == 1)
        apart = sum(steps for (size, _), steps in work_alone(base, trials).batches.items() if size == 1)
        found.append((singles, apart, times.seconds(trials[0])))
    texts = next(iter(forest.texts.values())).count
    before, after = found[0][:2]
    assert [(singles - before, apart - after) for singles, apart, _ in found] == [
        (0, 0), (texts, 2 * texts), (3 * texts, 6 * texts),
    ]  # fmt: skip
    assert found[0][2] < found[1][2] < found[2][2]


def test_what_a_probe_reads_beside_its_lists_is_counted() -> None:
    canaries = Canaries(length=4, count=16)
    pair = Pair(ShippedText("sentences-targets"), ShippedText("sentences-foils"))
    study = Study(canaries.corpus(), exposures=1, lr=1e-3, batch_size=4)
    condition = Condition(Model("tiny-s"), study, probes=[Recall()])

    def read(probe: Probe) -> float:
        asked = dataclasses.replace(condition, probes=[probe])
        forest = grow([asked])
        trials = bundle(forest, forest.asks, lambda _: 1)
        return work_of(trials[0].base.id, trials).measured

    plain = read(Recall(canaries.corpus()))
    assert read(Exposure(canaries, candidates="all")) == pytest.approx(plain * 10_000 / 16, rel=1e-3)
    assert read(Exposure(canaries, candidates=160)) == pytest.approx(plain * 11, rel=1e-2)
    assert read(Exposure(canaries, pair=canaries.pair())) == pytest.approx(2 * plain, rel=0.1)
    assert read(Capacity(canaries)) == pytest.approx(2 * read(Capacity(canaries, reference=False)), rel=1e-2)
    once = read(Membership(pair, reference=False))
    assert read(Membership(pair)) == read(Quantized(Recognition(pair))) == pytest.approx(2 * once, rel=1e-4)


def test_completions_and_few_bits_take_memory_also_within_a_probe() -> None:
    study = Study(ShippedText("sentences-targets"), exposures=1, lr=1e-3, batch_size=4)
    pair = Pair(ShippedText("sentences-targets"), ShippedText("sentences-foils"))
    items = InlineItems("q", [{"question": "Why?", "answer": "So."}])

    def load(probe: Probe) -> tuple[bool, bool, bool]:
        forest = grow([Condition(Model("tiny-s"), study, probes=[probe])])
        found = load_of(forest, next(iter(forest.resources)))
        return found.cue_tokens > 0, found.rounding, found.ablating

    assert load(Recognition(pair)) == (False, False, False)
    assert load(Recall()) == (True, False, False)
    assert load(LayerAblation(QA(items))) == (True, False, True)
    assert load(Quantized(Recognition(pair))) == (False, True, False)
    assert load(Membership(pair)) == (False, False, True)
    assert load(Quantized(Recall())) == (True, True, False)


def test_probes_that_ask_without_what_was_learned_are_known() -> None:
    """By what their modules call, which a new probe would not tell a plan."""
    classes = [one for one in vars(probes).values() if isinstance(one, type) and issubclass(one, Probe)]
    calls = {
        one.kind: re.search(r"session\.(ablated|divergences)\(", inspect.getsource(inspect.getmodule(one) or one))
        for one in classes
        if hasattr(one, "kind")
    }
    assert {kind for kind, found in calls.items() if found} == set(ABLATING) and len(calls) > len(ABLATING)


def test_states_that_lanes_keep_are_as_many_as_there_are_forks(trajectory: Trajectory) -> None:
    """Three rates, each of which forks on its own way."""
    studied = [next(one for one in trajectory(lr) if one.study.exposures) for lr in (1e-3, 1e-2, 1e-1)]
    after = [Interference(studied[0].study.corpus, 2, lr=lr, batch_size=2) for lr in (1e-3, 1e-2)]
    many = [dataclasses.replace(one, interference=between) for one in studied for between in after]
    forest = grow(many)
    [base] = forest.resources
    load = load_of(forest, base)
    assert (load.forks, load.most_forks) == (1, 3)
    restudy = grow([dataclasses.replace(one, probes=[Savings(batch_size=4)]) for one in many])
    assert load_of(restudy, base).most_forks is None

    def copies(lanes: int, **changes: Any) -> int:
        one = dataclasses.replace(load, ablating=False, **changes)
        return needed(MODEL, Full(), "float32", Resources(gpus=1, lanes=lanes), one).copies

    state = (1 + load.moments) * 4 * MODEL.parameters
    assert copies(4, forks=2, most_forks=5) - copies(1, forks=2, most_forks=5) == 3 * state
    assert copies(2, forks=2, most_forks=5) - copies(1, forks=2, most_forks=5) == 2 * state
    assert copies(4, forks=2, most_forks=None) - copies(1, forks=2, most_forks=None) == 6 * state
    assert copies(4, rounding=True) - copies(4) == 4 * 4 * MODEL.parameters
