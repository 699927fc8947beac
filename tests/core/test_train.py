"""A stage of training equals the plain loop that a reader would write, step for step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from core.small import NO_DROPOUT, TARGETS, language_model, study_exposures, varied, weights
from transformers import get_scheduler

from memexp.core.data import Row, encode, order
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.schedule import learning_rate
from memexp.core.train import Diverged, Step
from memexp.spec import LoRA, ShippedText, Study

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # transformers on itself

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=1, lr=1e-3, batch_size=8)


def subject(architecture: str = "gpt2", seed: int = 0) -> LanguageModel:
    return language_model(architecture, seed=seed, initializer_range=0.1, **NO_DROPOUT[architecture])


def trained(lm: LanguageModel, study: Study, rows: Sequence[Row], seed: int = 0) -> list[Step]:
    return study_exposures(lm, fresh_optimizer(lm, study), study, rows, seed, 1, study.exposures)


class Plain:
    """The same model, trained the way `transformers` shows it: padded batches, masked labels, the model's own loss."""

    def __init__(self, architecture: str, study: Study, decay: float = 0.0) -> None:
        self.lm = subject(architecture).lm
        self.study = study
        self.optimizer = torch.optim.AdamW(self.lm.parameters(), lr=study.lr, weight_decay=decay)
        self.smallest: dict[str, torch.Tensor] = {}

    def step(self, batch: Sequence[Row]) -> tuple[float, int]:
        shape = (len(batch), max(map(len, batch)))
        ids, mask, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.full(shape, -100)
        for i, row in enumerate(batch):
            ids[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        self.lm.train()
        self.optimizer.zero_grad()
        loss = self.lm(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        if self.study.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.lm.parameters(), self.study.clip_norm)
        for name, parameter in self.lm.named_parameters():
            size = parameter.grad.abs()
            least = self.smallest.setdefault(name, torch.full_like(size, torch.inf))
            self.smallest[name] = torch.where(size > 0, torch.minimum(least, size), least)
        self.optimizer.step()
        return float(loss.detach()), int((labels[:, 1:] >= 0).sum())

    def train(self, rows: Sequence[Row], seed: int = 0) -> list[tuple[float, int]]:
        size, shuffled = self.study.batch_size, order(len(rows), seed, "study", 1)
        return [self.step([rows[i] for i in shuffled[at : at + size]]) for at in range(0, len(rows), size)]

    def assert_learned_by(self, lm: LanguageModel) -> None:
        for name, parameter in self.lm.named_parameters():
            # Adam follows the sign of a gradient however small: where it is nothing but rounding (the bias of attention
            # keys has none in exact arithmetic), so is the step.
            firm = self.smallest[name] > 1e-7
            assert firm.float().mean() > 0.6
            found = lm.lm.get_parameter(name)
            torch.testing.assert_close(found[firm], parameter[firm], rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_steps_equal_the_plain_ones(architecture: str) -> None:
    lm, plain = subject(architecture), Plain(architecture, STUDY)
    rows = encode(lm.tokenizer, TARGETS[:40], 64)
    before = weights(lm)
    steps, expected = trained(lm, STUDY, rows), plain.train(rows)
    assert len(steps) == 5
    assert [step.tokens for step in steps] == [tokens for _, tokens in expected]
    assert [step.loss for step in steps] == pytest.approx([loss for loss, _ in expected], rel=1e-6)
    plain.assert_learned_by(lm)
    assert max(float((lm.get_parameter(name) - old).detach().abs().max()) for name, old in before.items()) > 1e-3


def test_texts_of_one_token_and_a_short_last_batch_equal_the_plain_way() -> None:
    study = dataclasses.replace(STUDY, batch_size=4)
    lm, plain = subject(), Plain("gpt2", study)
    rows = [[7], *encode(lm.tokenizer, varied(12), 64), [9], [3, 5]]
    rows[order(len(rows), 0, "study", 1)[-1]] = [4, 4, 8]  # the last batch is of three rows
    steps, expected = trained(lm, study, rows), plain.train(rows)
    assert [step.tokens for step in steps] == [tokens for _, tokens in expected]
    assert [step.loss for step in steps] == pytest.approx([loss for loss, _ in expected], rel=1e-6)
    plain.assert_learned_by(lm)


def test_a_batch_that_predicts_nothing_changes_nothing_and_has_no_loss() -> None:
    study = dataclasses.replace(STUDY, batch_size=1, weight_decay=0.1)
    lm, without = subject(), subject()
    rows = encode(lm.tokenizer, TARGETS[:3], 64)
    numbers = order(4, 0, "study", 1)
    padded: list[Row] = [[5]] * 4
    for row, place in zip(rows, numbers[1:], strict=True):  # the first step gets the text of one token
        padded[place] = row
    optimizer = fresh_optimizer(lm, study)
    first, *rest = study_exposures(lm, optimizer, study, padded, 0, 1, 1)
    assert (first.loss, first.tokens, first.step) == (None, 0, 1)
    alone = [row for row in padded if len(row) > 1]
    seed = next(s for s in range(99) if [alone[i] for i in order(3, s, "study", 1)] == rows)
    assert [step.loss for step in rest] == [step.loss for step in trained(without, study, alone, seed)]
    assert all(torch.equal(w, without.get_parameter(name)) for name, w in weights(lm).items())


def test_steps_are_counted_through_all_exposures() -> None:
    study = dataclasses.replace(STUDY, exposures=3)
    lm = subject()
    steps = trained(lm, study, encode(lm.tokenizer, TARGETS[:20], 64))
    assert [(step.exposure, step.step) for step in steps] == [(1 + i // 3, 1 + i) for i in range(9)]
    assert sum(step.tokens for step in steps[:3]) == sum(step.tokens for step in steps[3:6])
    assert [s.tokens for s in steps[:3]] != [s.tokens for s in steps[3:6]], "another order in another exposure"


def test_a_model_is_in_evaluation_mode_after_study() -> None:
    lm = subject()
    trained(lm, STUDY, encode(lm.tokenizer, TARGETS[:4], 64))
    assert not any(module.training for module in lm.modules())


# Weight decay, clipping, learning rates


def test_weight_decay_shrinks_matrices_only() -> None:
    decayed, free = subject(), subject()
    rows = encode(free.tokenizer, TARGETS[:8], 64)
    before = weights(free)
    trained(free, STUDY, rows)
    trained(decayed, dataclasses.replace(STUDY, weight_decay=0.5), rows)
    for name, weight in weights(decayed).items():
        shrunk = before[name] * STUDY.lr * 0.5 if weight.ndim > 1 else torch.zeros_like(weight)
        torch.testing.assert_close(free.get_parameter(name).detach() - weight, shrunk, rtol=0, atol=2e-7)


def test_clipping_equals_the_plain_way_and_is_seen() -> None:
    study = dataclasses.replace(STUDY, clip_norm=0.05)
    lm, plain, free = subject("llama"), Plain("llama", study), subject("llama")
    rows = encode(lm.tokenizer, varied(40), 64)
    steps, expected, unclipped = trained(lm, study, rows), plain.train(rows), trained(free, STUDY, rows)
    assert [step.loss for step in steps] == pytest.approx([loss for loss, _ in expected], rel=1e-6)
    plain.assert_learned_by(lm)
    assert abs(steps[-1].loss - unclipped[-1].loss) > 1e-4


def test_clipping_is_over_the_whole_gradient() -> None:
    """At a large epsilon Adam's first step is proportional to the gradient, so its norm shows the clip."""
    lm = subject()
    rows = encode(lm.tokenizer, TARGETS[:8], 64)
    before = weights(lm)
    study = dataclasses.replace(STUDY, clip_norm=1e-3)
    optimizer = fresh_optimizer(lm, study)
    for settings in optimizer.param_groups:
        settings["eps"] = 1e3
    study_exposures(lm, optimizer, study, rows, 0, 1, 1)
    moved = torch.cat([(w.double() - before[name].double()).flatten() for name, w in weights(lm).items()])
    state = [optimizer.state[parameter]["exp_avg"] for parameter in lm.parameters()]
    assert float(torch.cat([s.flatten() for s in state]).norm()) / (1 - 0.9) == pytest.approx(1e-3, rel=1e-4)
    assert float(moved.norm()) < 1e-8


@pytest.mark.parametrize(
    ("schedule", "name", "settings", "warmup"),
    [
        ("constant", "constant", {}, 0),
        ("constant", "constant_with_warmup", {"warmup_steps": 4}, 4),
        ("linear", "linear", {}, 0),
        ("linear", "linear", {"warmup_steps": 5}, 5),
        ("linear", "linear", {"warmup_ratio": 0.1}, math.ceil(0.1 * 21)),
    ],
)
def test_learning_rates_are_those_of_transformers(
    schedule: str, name: str, settings: dict[str, float], warmup: int
) -> None:
    study = Study(STUDY.corpus, exposures=3, lr=3e-3, schedule=schedule, **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=study.lr)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=21)
    expected = []
    for _ in range(21):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [learning_rate(study, step, 21) for step in range(1, 22)] == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_the_rate_of_a_step_is_the_one_it_records() -> None:
    study = dataclasses.replace(STUDY, schedule="linear", exposures=2, warmup_steps=2)
    lm = subject()
    rows = encode(lm.tokenizer, TARGETS[:20], 64)
    before, optimizer = weights(lm), fresh_optimizer(lm, study)
    steps = study_exposures(lm, optimizer, study, rows, 0, 1, 2)
    assert [step.lr for step in steps] == pytest.approx([0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert {settings["lr"] for settings in optimizer.param_groups} == {steps[-1].lr}
    first = subject()
    one = dataclasses.replace(study, exposures=1, batch_size=20, warmup_steps=1)
    assert trained(first, one, rows)[0].lr == 0
    assert all(torch.equal(w, before[name]) for name, w in weights(first).items()), "at a rate of 0 nothing moves"


# What draws and failures depend on


def test_dropout_is_drawn_from_the_seed_alone() -> None:
    study = dataclasses.replace(STUDY, dropout=0.3)

    def losses(global_seed: int, seed: int) -> list[float | None]:
        lm = subject()
        torch.manual_seed(global_seed)
        return [step.loss for step in trained(lm, study, rows, seed)]

    rows = encode(subject().tokenizer, TARGETS[:16], 64)
    assert losses(1, 0) == losses(2, 0)
    assert losses(1, 0) != losses(1, 1)
    lm = subject()
    assert losses(1, 0) != [step.loss for step in trained(lm, STUDY, rows)]


def test_conditions_of_other_learning_rates_stay_paired() -> None:
    rows = encode(subject().tokenizer, varied(40), 64)
    slow, fast = (
        [step.tokens for step in trained(subject(seed=seed), dataclasses.replace(STUDY, lr=lr), rows)]
        for lr, seed in ((1e-4, 0), (1e-2, 5))
    )
    assert slow == fast
    assert slow != [step.tokens for step in trained(subject(), STUDY, rows, seed=1)]


def test_a_loss_that_is_no_number_ends_the_stage() -> None:
    lm = subject("llama")
    rows = encode(lm.tokenizer, TARGETS[:40], 64)
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step [2-5] \(exposure 1, lr 1e\+30\)"):
        trained(lm, dataclasses.replace(STUDY, lr=1e30), rows)


@pytest.mark.parametrize("method", [None, LoRA()], ids=["full", "lora"])
def test_gradients_left_by_a_stage_that_failed_do_not_matter(method: LoRA | None) -> None:
    clean, left = (
        language_model("llama", *(() if method is None else (method,)), initializer_range=0.1) for _ in range(2)
    )
    rows = encode(clean.tokenizer, TARGETS[:8], 64)
    for parameter in left.learning().values():
        parameter.grad = torch.ones_like(parameter)
    trained(clean, STUDY, rows)
    trained(left, STUDY, rows)
    assert all(torch.equal(w, clean.get_parameter(name)) for name, w in weights(left).items())


def test_bfloat16_trains_and_is_used() -> None:
    coarse = language_model("llama", dtype="bfloat16", initializer_range=0.1)
    rows = encode(coarse.tokenizer, TARGETS[:40], 64)
    found = [step.loss for step in trained(coarse, STUDY, rows)]
    exact = [step.loss for step in trained(subject("llama"), STUDY, rows)]
    assert all(parameter.dtype == torch.float32 for parameter in coarse.parameters())
    assert found == pytest.approx(exact, rel=1e-2)
    assert found != pytest.approx(exact, rel=1e-6)


def test_weights_that_the_last_update_broke_are_no_result() -> None:
    lm = language_model("gpt2")
    study = dataclasses.replace(STUDY, lr=1e38, batch_size=1000)
    rows = encode(lm.tokenizer, TARGETS[:8], 64)
    with pytest.raises(Diverged, match="weights are not finite after step 1"):
        study_exposures(lm, fresh_optimizer(lm, study), study, rows, seed=0, first=1, last=1)
