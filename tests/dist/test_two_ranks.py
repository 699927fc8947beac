"""Two gloo ranks that share one model (FSDP2) find what one process finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import FOILS, NO_DROPOUT, PEAKED, TARGETS, language_model, study_exposures, varied
from dist.ranks import on_ranks
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

import memexp.core.train
import memexp.trial.execute
from memexp.core import fork, kept, tensor_files
from memexp.core.batch_sizes import largest
from memexp.core.checkpoint import load_snapshot, save_snapshot
from memexp.core.data import Row, encode, groups, order, right_padded
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import continuations, token_nlls
from memexp.core.slices import Held, hold
from memexp.core.tensor_files import Box
from memexp.plan import Trial, bundle, grow
from memexp.plan.attempts import Attempt
from memexp.probes import QA, Choice, FactRatios, LayerAblation, Recall, Recognition
from memexp.spec import (
    Condition,
    Cyclic,
    Forget,
    Full,
    InlineItems,
    Interference,
    LoRA,
    Model,
    Pair,
    Pretrain,
    Resources,
    ShippedText,
    Snapshots,
    Spaced,
    Study,
    TextStream,
)
from memexp.store import Store
from memexp.store.snapshots import Mark, Unfit
from memexp.trial.execute import execute

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
    "ignore:torch.distributed is disabled",  # which is what a single process wants
)

CASES: dict[str, tuple[str, Full | LoRA]] = {
    "gpt2-full": ("gpt2", Full()),
    "gpt2-lora": ("gpt2", LoRA(r=4)),
    "llama-full": ("llama", Full()),
    "llama-lora": ("llama", LoRA(r=4)),
}
BATCHES = (8, 3, 1)
CLIP = 0.3
STUDY = Study(ShippedText("sentences-targets", first=64), exposures=2, lr=3e-3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As every rank has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def subject(case: str, spread: float = 0.1) -> LanguageModel:
    architecture, method = CASES[case]
    return language_model(architecture, method, initializer_range=spread, **NO_DROPOUT[architecture])


def scored(lm: LanguageModel) -> list[Row]:
    """An odd number of texts, some too short to be scored."""
    return [[5], *encode(lm.tokenizer, [*varied(30), *TARGETS[:10]], 64), [], [7, 8]]


def cues(lm: LanguageModel) -> tuple[list[Row], list[int]]:
    rows = [row for row in encode(lm.tokenizer, varied(29), 64) if len(row) > 1]
    return [row[: len(row) // 2] for row in rows], [len(row) - len(row) // 2 for row in rows]


def studied(lm: LanguageModel, batch: int) -> list[Row]:
    """Ten batches, with texts of one token among them."""
    rows = encode(lm.tokenizer, [*TARGETS, *FOILS], 64)[: 10 * batch]
    return [[9] if batch > 1 and i % 7 == 6 else row for i, row in enumerate(rows)]


# Scoring and training


@dataclasses.dataclass
class Found:
    """What the ranks of one world find for a case."""

    sharded: bool
    nlls: list[list[float]]
    few: list[list[float]]
    completions: list[list[int]]
    answers: list[str]
    likelihoods: list[tuple[float, bool]]
    losses: dict[int, list[float]]
    tokens: dict[int, list[int]]
    proportional: dict[float | None, list[float]]


def completed(lm: LanguageModel) -> list[list[int] | None]:
    """In an odd number of batches: in the last round one rank is left without."""
    with mock.patch.object(lm, "budget", dataclasses.replace(lm.budget, recall_rows=10)):
        return complete_greedily(lm, *cues(lm))


def answered(lm: LanguageModel) -> list[str]:
    """Up to other lengths and stops: one rank is done long before the other, and cannot stop for itself."""
    rows, _ = cues(lm)
    limits = [3 if i < 10 else 30 + i for i in range(len(rows))]
    with mock.patch.object(lm, "budget", dataclasses.replace(lm.budget, recall_rows=10)):
        return answer_greedily(lm, rows, limits, [["e"] if i % 3 else ["zz", "s t"] for i in range(len(rows))])


def continued(lm: LanguageModel) -> list[tuple[float, bool]]:
    """Some after the same context, some in one batch with longer ones."""
    pairs = [(row[:3], row[3 : 4 + i % 5]) for i, row in enumerate(scored(lm)) if len(row) > 8]
    pairs += [(row[:3], [token]) for row in scored(lm)[:3] if len(row) > 3 for token in (7, 8, 9)]
    return [(likelihood.log_likelihood, likelihood.greedy) for likelihood in continuations(lm, pairs)]


def proportional(case: str, clip_norm: float | None) -> list[float]:
    """Losses where a step is proportional to the gradient: Adam itself forgives a gradient of the wrong length."""
    lm = subject(case)
    study = dataclasses.replace(STUDY, batch_size=3, lr=0.5, clip_norm=clip_norm)
    optimizer = fresh_optimizer(lm, study)
    for settings in optimizer.param_groups:
        settings["eps"] = 1.0
    return [s.loss for s in study_exposures(lm, optimizer, study, studied(lm, 3), 0, 1, 2) if s.loss is not None]


def found(case: str) -> Found:
    lm = subject(case, PEAKED)
    rows = scored(lm)
    losses, tokens = {}, {}
    for batch in BATCHES:
        learner = subject(case)
        study = dataclasses.replace(STUDY, batch_size=batch)
        steps = study_exposures(learner, fresh_optimizer(learner, study), study, studied(learner, batch), 0, 1, 2)
        losses[batch] = [step.loss for step in steps if step.loss is not None]
        tokens[batch] = [step.tokens for step in steps]
    return Found(
        sharded=all(isinstance(parameter, DTensor) for parameter in lm.parameters()),
        nlls=[nll.tolist() for nll in token_nlls(lm, rows)],
        few=[nll.tolist() for nll in [*token_nlls(lm, rows[1:2]), *token_nlls(lm, [])]],
        completions=completed(lm),
        answers=answered(lm),
        likelihoods=continued(lm),
        losses=losses,
        tokens=tokens,
        proportional={clip_norm: proportional(case, clip_norm) for clip_norm in (None, CLIP)},
    )


def found_in_all() -> dict[str, Found]:
    return {case: found(case) for case in CASES}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What each of two ranks finds."""
    return on_ranks(2, tmp_path_factory.mktemp("two"), found_in_all)


@pytest.fixture(scope="module")
def one() -> dict[str, Found]:
    """What one process finds."""
    return found_in_all()


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_sharded(case: str, one: dict[str, Found], two: list[dict[str, Found]]) -> None:
    assert not one[case].sharded
    assert all(rank[case].sharded for rank in two)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_score_every_item_as_one(case: str, one: dict[str, Found], two: list[dict[str, Found]]) -> None:
    assert [len(nll) for nll in one[case].nlls] == [max(0, len(row) - 1) for row in scored(subject(case))]
    assert len(one[case].nlls) % 2 == 1
    for rank in two:
        for a, b in zip(rank[case].nlls + rank[case].few, one[case].nlls + one[case].few, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert two[0][case].nlls == two[1][case].nlls


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_complete_as_one(case: str, one: dict[str, Found], two: list[dict[str, Found]]) -> None:
    assert [len(new) for new in one[case].completions] == cues(subject(case))[1]
    assert len(one[case].completions) % 2 == 1
    for rank in two:
        assert rank[case].completions == one[case].completions


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_answer_as_one(case: str, one: dict[str, Found], two: list[dict[str, Found]]) -> None:
    assert len(set(one[case].answers)) > 5
    for rank in two:
        assert rank[case].answers == one[case].answers


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_find_continuations_as_likely_as_one(
    case: str, one: dict[str, Found], two: list[dict[str, Found]]
) -> None:
    logs, greedy = zip(*one[case].likelihoods, strict=True)
    assert len(set(logs)) > 10
    for rank in two:
        found_logs, found_greedy = zip(*rank[case].likelihoods, strict=True)
        np.testing.assert_allclose(found_logs, logs, rtol=0, atol=1e-4)
        assert found_greedy == greedy


def loss_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative one."""
    return max(abs(a - b) / b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_as_one(case: str, batch: int, one: dict[str, Found], two: list[dict[str, Found]]) -> None:
    expected = one[case].losses[batch]
    assert len(one[case].tokens[batch]) == 20 and len(expected) >= 18
    assert min(expected[10:]) < 0.99 * max(expected[:10]), "something is learned at all"
    for rank in two:
        assert loss_difference(rank[case].losses[batch], expected) < 1e-4
        assert rank[case].tokens[batch] == one[case].tokens[batch]


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_ranks_are_as_long_as_those_of_one_and_clipped_alike(
    case: str, one: dict[str, Found], two: list[dict[str, Found]]
) -> None:
    expected = one[case].proportional
    for rank in two:
        for clip_norm, losses in expected.items():
            assert loss_difference(rank[case].proportional[clip_norm], losses) < 1e-4
    assert loss_difference(expected[CLIP], expected[None]) > 1e-3, "clipping matters"


@pytest.mark.parametrize("batch", [8, 3])
def test_averaging_the_ranks_own_means_would_be_seen(batch: int, one: dict[str, Found]) -> None:
    """The negative control of the test above: each rank the mean over its own tokens, gradients averaged."""
    lm = subject("llama-full")
    rows, losses = studied(lm, batch), []
    optimizer = fresh_optimizer(lm, STUDY)
    for exposure in (1, 2):
        shuffled = order(len(rows), 0, "study", exposure)
        for start in range(0, len(rows), batch):
            chosen = [rows[i] for i in shuffled[start : start + batch] if len(rows[i]) > 1]
            split = groups(
                [len(row) for row in chosen], largest("cpu").group_overhead, largest("cpu").group_tokens, ranks=2
            )
            sums = []
            for rank in range(2):
                mine = [chosen[i] for group in split for i in group[rank]]
                if mine:
                    ids, lengths = torch.from_numpy(right_padded(mine)), torch.tensor([len(row) for row in mine])
                    nll = lm.nll(ids, lengths)
                    (nll.mean() / 2).backward()
                    sums.append((float(nll.detach().sum()), len(nll)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(sum(total for total, _ in sums) / sum(count for _, count in sums))
    expected = one["llama-full"].losses[batch]
    assert losses[0] == pytest.approx(expected[0], rel=1e-6), "the first loss is of the same weights"
    assert loss_difference(losses, expected) > 3e-4


# Snapshots


def whole(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """All weights, unsharded, on every rank."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in lm.named_parameters()
    }


def moments_of(lm: LanguageModel, optimizer: AdamW) -> dict[str, torch.Tensor]:
    """All that the optimizer keeps, unsharded, on every rank."""
    return {
        f"{name} {kind}": (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, parameter in lm.learning().items()
        for kind, tensor in optimizer.state[parameter].items()
    }


def exposure(lm: LanguageModel, optimizer: AdamW, number: int, lr: float = STUDY.lr) -> list[float]:
    study = dataclasses.replace(STUDY, batch_size=3, lr=lr)
    steps = study_exposures(lm, optimizer, study, encode(lm.tokenizer, TARGETS[:13], 64), 0, number, number)
    return [step.loss for step in steps if step.loss is not None]


def taken_up(folder: Path, name: str, lm: LanguageModel) -> AdamW:
    taken = load_snapshot(Store(folder), Mark(name, 1), "base", lm, STUDY)
    assert taken is not None
    return taken.optimizer


@dataclasses.dataclass
class Trajectories:
    """Second exposures after a first one, uninterrupted and taken up again in several ways."""

    first: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    straight: tuple[list[float], dict[str, torch.Tensor]]
    restored: tuple[list[float], dict[str, torch.Tensor]]
    loaded: tuple[list[float], dict[str, torch.Tensor]]
    refused: str
    from_one: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
    loaded_from_one: list[float]


def refusal(folder: Path, lm: LanguageModel, optimizer: AdamW) -> str:
    """Why a snapshot is not taken up of which the slices of the second rank are cut short."""
    save_snapshot(Store(folder), Mark("cut", 1), "base", lm, optimizer, [])
    if lm.world.leads:
        (file,) = folder.glob(".snapshots/cut/*/00001-*.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
    lm.world.sum(0)
    with pytest.raises(Unfit) as error:
        load_snapshot(Store(folder), Mark("cut", 1), "base", lm, STUDY)
    return str(error.value)


def trajectories(case: str, folder: Path) -> Trajectories:
    """Two ranks. `folder` has ``one``, saved by one rank; ``two`` is saved there."""
    lm = subject(case)
    optimizer = fresh_optimizer(lm, STUDY)
    exposure(lm, optimizer, 1)
    first, moments, forked = whole(lm), moments_of(lm, optimizer), fork.take(lm, optimizer)
    save_snapshot(Store(folder), Mark("two", 1), "base", lm, optimizer, [])
    straight = exposure(lm, optimizer, 2), whole(lm)
    exposure(lm, optimizer, 3, lr=0.1)
    again = fork.restore(lm, forked, STUDY)
    assert again is not None
    restored = exposure(lm, again, 2), whole(lm)
    fresh = subject(case)
    loaded = exposure(fresh, taken_up(folder, "two", fresh), 2), whole(fresh)
    other = subject(case)
    refused = refusal(folder, lm, again)
    optimizer = taken_up(folder, "one", other)
    from_one = whole(other), moments_of(other, optimizer)
    return Trajectories(first, moments, straight, restored, loaded, refused, from_one, exposure(other, optimizer, 2))


def all_trajectories(cases: Sequence[str], folder: Path) -> dict[str, Trajectories]:
    return {case: trajectories(case, folder / case) for case in cases}


SAVED = ("gpt2-full", "llama-lora")


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any], list[Any]]:
    """Where snapshots of both worlds lie, what one rank had and its losses afterwards, and what two ranks found."""
    folder, alone = tmp_path_factory.mktemp("saved"), {}
    for case in SAVED:
        lm = subject(case)
        optimizer = fresh_optimizer(lm, STUDY)
        exposure(lm, optimizer, 1)
        save_snapshot(Store(folder / case), Mark("one", 1), "base", lm, optimizer, [])
        first = whole(lm), moments_of(lm, optimizer)
        alone[case] = *first, exposure(lm, optimizer, 2)
    return folder, alone, on_ranks(2, folder / "ranks", all_trajectories, SAVED, folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("case", SAVED)
def test_two_ranks_take_up_a_trajectory_to_the_last_bit(case: str, saved: Any) -> None:
    for rank in saved[2]:
        ways: Trajectories = rank[case]
        assert not same(ways.first, ways.straight[1])
        for losses, weights in (ways.restored, ways.loaded):
            assert losses == ways.straight[0]
            assert same(weights, ways.straight[1])


@pytest.mark.parametrize("case", SAVED)
def test_what_one_rank_finds_broken_no_rank_takes_up(case: str, saved: Any) -> None:
    for rank in saved[2]:
        assert rank[case].refused.startswith("snapshot .snapshots/cut/000000001.json is passed over: 00001-00000.safe")


@pytest.mark.parametrize("case", SAVED)
def test_what_two_ranks_saved_one_rank_loads(case: str, saved: Any) -> None:
    folder, _, ranks = saved
    lm = subject(case)
    optimizer = taken_up(folder / case, "two", lm)
    assert same(whole(lm), ranks[0][case].first)
    assert same(moments_of(lm, optimizer), ranks[0][case].moments)
    assert loss_difference(exposure(lm, optimizer, 2), ranks[0][case].straight[0]) < 1e-4


def _bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclasses.dataclass
class Taken:
    """What one of four ranks takes up, and how much it read for it."""

    holds: dict[str, Held]
    read: int
    """Bytes of tensors."""


def taken_by_each(cases: Sequence[str], folder: Path) -> dict[str, Taken]:
    found = {}
    for case in cases:
        lm, read = subject(case), 0

        def counted(stream: Any, count: int, *room: Any, plain: Any = tensor_files._read) -> Any:
            nonlocal read
            read += count
            return plain(stream, count, *room)

        with mock.patch.object(tensor_files, "_read", counted):
            optimizer = taken_up(folder / case, "two", lm)
        found[case] = Taken(hold(lm.world, kept.tensors(lm, optimizer)), read)
    return found


def test_what_two_ranks_saved_four_ranks_load_each_its_own(saved: Any, tmp_path: Path) -> None:
    folder, _, ranks = saved
    for four in on_ranks(4, tmp_path / "four", taken_by_each, SAVED[:1], folder):
        for case, taken in four.items():
            ways: Trajectories = ranks[0][case]
            expected = {f"weights/{name}": tensor for name, tensor in ways.first.items()}
            for key, tensor in ways.moments.items():
                name, _, moment = key.rpartition(" ")
                expected[f"{moment}/{name}"] = tensor
            for name, held in taken.holds.items():
                assert torch.equal(held.tensor, held.box.of(expected[name], Box((0,) * len(held.shape), held.shape)))
            assert len(taken.holds) == 3 * len(ways.first)
            assert taken.read == sum(held.tensor.nbytes for held in taken.holds.values()) < _bytes(expected) / 3


@pytest.mark.parametrize("case", SAVED)
def test_what_one_rank_saved_two_ranks_load(case: str, saved: Any) -> None:
    _, alone, ranks = saved
    weights, moments, losses = alone[case]
    for rank in ranks:
        assert same(rank[case].from_one[0], weights)
        assert same(rank[case].from_one[1], moments)
        assert loss_difference(rank[case].loaded_from_one, losses) < 1e-4


# Whole trials

QUESTIONS = [
    {"question": " ".join(text.split()[: 2 + i]), "answer": text.split()[-1]} for i, text in enumerate(TARGETS[:5])
]
QUESTION = InlineItems("open", QUESTIONS)
CHOICES = InlineItems(
    "closed",
    [{**row, "choices": [row["answer"], "never", "the dog"], "answer": i % 3} for i, row in enumerate(QUESTIONS)],
)
FACTS = InlineItems("facts", [{"head": r["question"], "relation": "end", "tail": r["answer"]} for r in QUESTIONS])


def executed(trials: Sequence[Trial], location: str) -> list[str]:
    store = Store(location)
    return [
        line
        for trial in trials
        for line in execute(trial, store, World.current(), Attempt("test", f"by{World.current().size}"))
    ]


def trials_of(conditions: Sequence[Condition]) -> list[Trial]:
    """One trial for each base."""
    forest = grow(conditions)
    bases = [stage for stage in forest.stages.values() if stage.parent is None]
    found = []
    for base in bases:
        asks = [ask for ask in forest.asks if forest.path(ask.stage)[0] is base]
        under = [s for s in forest.stages.values() if s.parent is not None and forest.path(s.id)[0] is base]
        found.append(Trial(base, under, asks, Resources(), forest.texts, forest.streams))
    return found


@pytest.fixture(scope="module")
def stores(
    tiny_model: Model, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[list[str]], Store, Store]:
    """The failures and the stores of one rank and of two after the same conditions."""
    probes = [Recognition(pair), Recall()]
    conditions = [
        Condition(tiny_model, Study(pair.targets, n, lr, batch_size=5, block_size=64), method, probes=probes)
        for method in (Full(), LoRA(r=2))
        for lr in (3e-3, 1e30)
        for n in (0, 1, 2)
    ]
    conditions += [
        Condition(tiny_model, Study(pair.targets, 1, 3e-3, 5, block_size=64), method, forget=forget, probes=probes)
        for method in (Full(), LoRA(r=2))
        for forget in (Forget(from_layer=1), Forget(below_layer=1, restudy_exposures=0))
    ]
    conditions += [
        Condition(
            tiny_model,
            Study(pair.targets, 1, 3e-3, 5, block_size=64),
            method,
            probes=probes,
            interference=Interference(pair.foils, steps=n, lr=3e-3, batch_size=5, optimizer=optimizer),
        )
        for method in (Full(), LoRA(r=2))
        for optimizer in ("fresh", "carried")
        for n in (1, 3)
    ]
    asking = [QA(QUESTION, shots=1), Choice(CHOICES), FactRatios(FACTS), LayerAblation(QA(QUESTION))]
    conditions += [
        Condition(
            tiny_model,
            Study(pair.targets, 2, 3e-3, 5, block_size=64, presentation=how),
            probes=probes,
            interference=Interference(pair.foils, steps=3, lr=3e-3, batch_size=5, replay=0.3),
        )
        for how in (Spaced(pair.foils, gap=2, beside=2), Cyclic(steps=2))
    ]
    own = Study(pair.targets, 2, 3e-3, 5, block_size=64, times=(1, 2, 2), variants=[pair.foils], further_batches=1)
    then = Study(pair.foils, 1, 3e-3, 4, block_size=64)
    conditions.append(Condition(tiny_model, own, probes=probes, then=then))
    conditions += [
        Condition(tiny_model, Study(pair.targets, 1, 3e-3, 5, block_size=64), method, probes=asking)
        for method in (Full(), LoRA(r=2))
    ]
    folder = tmp_path_factory.mktemp("stores")
    trials = trials_of(conditions)
    failures = executed(trials, str(folder / "one"))
    ranks = on_ranks(2, folder / "ranks", executed, trials, str(folder / "two"))
    return [failures, *ranks], Store(folder / "one"), Store(folder / "two")


def table(store: Store, kind: str, *keys: str) -> list[dict[str, Any]]:
    found = store.scan(kind)
    assert found is not None
    return found.sort_by([(key, "ascending") for key in keys]).to_pylist()


def test_two_ranks_leave_the_files_that_one_leaves(stores: tuple[list[list[str]], Store, Store]) -> None:
    failures, one, two = stores
    kinds = ["ablation", "choice", "qa", "ratios", "recall", "recognition", "training"]
    assert one.kinds() == two.kinds() == sorted([*kinds, "stages"])
    for kind in kinds:
        assert one.names(kind) == two.names(kind)
    statuses = [sorted((row["stage_id"], row["status"]) for row in table(s, "stages", "stage_id")) for s in (one, two)]
    assert statuses[0] == statuses[1]
    assert [status for _, status in statuses[0]].count("diverged") == 2
    assert len(failures[0]) == 2 and all("diverged" in line for line in failures[0])
    assert failures == [failures[0]] * 3


def test_two_ranks_pretrain_from_a_stream_as_one(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    """And begin where two ranks have left it."""
    (tmp_path / "stream.txt").write_text("".join(f"{text}\n" for text in [*TARGETS[:10], "", "One."]))
    pretrain = Pretrain(TextStream(tmp_path / "stream.txt"), steps=6, lr=3e-3, batch_size=5, block_size=64)
    conditions = [
        Condition(tiny_model, Study(pair.targets, 1, lr, 5), probes=[Recognition(pair)], pretrain=pretrain)
        for lr in (1e-3, 3e-3)
    ]
    forest = grow(conditions)
    trials = bundle(forest, forest.asks, lambda _: 1)
    assert [trial.phase for trial in trials] == [0, 1, 1]
    assert executed(trials, str(tmp_path / "one")) == []
    assert on_ranks(2, tmp_path / "ranks", executed, trials, str(tmp_path / "two")) == [[], []]
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    for kind, keys, names in (
        ("training", ("stage_id", "step"), ("loss",)),
        ("recognition", ("condition_id", "item"), ("target_nll", "foil_nll")),
    ):
        expected, found = table(one, kind, *keys), table(two, kind, *keys)
        assert len(found) == len(expected) > 0
        for name in names:
            assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-4)


class Killed(BaseException):
    """As kill -9: nobody catches it."""


def again_and_again(trial: Trial, location: str) -> list[int]:
    """Steps made by attempts at one trial, each killed in the update after its 13th; the last completes it."""
    made: list[int] = []
    plain = memexp.core.train.update

    def update(*arguments: Any) -> Any:
        if made[-1] == 13:
            raise Killed
        made[-1] += 1
        return plain(*arguments)

    memexp.core.train.update = update
    while True:
        made.append(0)
        try:
            assert executed([trial], location) == []
            return made
        except Killed:
            World.current().sum(0)  # both are here before either begins again


def test_a_trajectory_killed_again_and_again_ends_where_an_undisturbed_one_ends(
    tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    """Two ranks, with dropout, snapshots every five steps: to the last bit, and only the last few steps made twice."""
    conditions = [
        Condition(
            tiny_model,
            Study(pair.targets, 2, 3e-3, 5, block_size=64, dropout=0.1),
            probes=[Recognition(pair)],
            interference=Interference(pair.foils, steps=n, lr=3e-3, batch_size=5, dropout=0.1),
        )
        for n in (1, 10, 30)
    ]
    (trial,) = trials_of(conditions)
    never = dataclasses.replace(trial, snapshots=Snapshots(minutes=None))
    often = dataclasses.replace(trial, snapshots=Snapshots(minutes=None, steps=5))
    assert on_ranks(2, tmp_path / "ranks", executed, [never], str(tmp_path / "once")) == [[], []]
    made = on_ranks(2, tmp_path / "more", again_and_again, often, str(tmp_path / "store"))
    assert made[0] == made[1] == [13, 13, 13, trial.steps - 3 * 10]
    once, store = Store(tmp_path / "once"), Store(tmp_path / "store")
    assert table(store, "recognition", "condition_id", "item") == table(once, "recognition", "condition_id", "item")
    assert table(store, "training", "stage_id", "step") == table(once, "training", "stage_id", "step")
    assert store.list_text(".snapshots/") == []


RATIO_LOGS = (
    *("log_likelihood", "negated_log_likelihood", "wrong_log_likelihoods"),
    *("log_comparison_ratio", "log_negation_ratio"),
)


def test_two_ranks_leave_the_rows_that_one_leaves(stores: tuple[list[list[str]], Store, Store]) -> None:
    _, one, two = stores
    for kind, keys, near in (
        ("recognition", ("condition_id", "item"), {"target_nll": 1e-4, "foil_nll": 1e-4}),
        ("recall", ("condition_id", "item"), {}),
        ("training", ("stage_id", "step"), {"loss": 1e-4}),
        ("qa", ("condition_id", "item"), {}),
        ("choice", ("condition_id", "item"), {"log_likelihoods": 1e-4}),
        ("ablation", ("condition_id", "ablated_side", "ablated_layer", "item"), {}),
        ("ratios", ("condition_id", "item"), dict.fromkeys(RATIO_LOGS, 1e-3)),
    ):
        expected, found = table(one, kind, *keys), table(two, kind, *keys)
        assert len(found) == len(expected) > 0
        for a, b in zip(found, expected, strict=True):
            for name, tolerance in near.items():
                assert a.pop(name) == pytest.approx(b.pop(name), rel=tolerance)
            assert (a.pop("workers", 2), b.pop("workers", 1)) == (2, 1)
            assert a == b
