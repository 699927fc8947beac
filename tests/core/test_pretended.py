"""Everything a trial does, on a pretended GPU: nothing is on the wrong device, and the numbers are those of the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from core.pretended import CUDA, Mixed, Pretended, pretended
from core.small import NO_DROPOUT, TARGETS, resolved
from core.test_trial import Grid, grid, rows, store, trial_of

import memexp.core.train
import memexp.trial.base
from memexp.core import fork
from memexp.core.batches import StudyBatches
from memexp.core.checkpoint import load_snapshot, save_snapshot
from memexp.core.data import encode, right_padded
from memexp.core.forget import ablated, reset
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import continuations, token_nlls
from memexp.core.session import Session
from memexp.core.train import train
from memexp.plan.attempts import Attempt
from memexp.probes import Recall, Recognition
from memexp.spec import (
    Condition,
    Corpus,
    Forget,
    Full,
    Interference,
    LoRA,
    Probe,
    Resources,
    ShippedText,
    Snapshots,
    Study,
    spec,
)
from memexp.store import Store
from memexp.store.snapshots import Mark
from memexp.trial.execute import execute

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

STUDY = Study(
    ShippedText("sentences-targets", first=64), exposures=2, lr=3e-3, batch_size=8, weight_decay=0.01, clip_norm=1.0
)
METHODS = {"full": Full(), "lora": LoRA(r=4)}
NEAR = {"float32": 2e-5, "bfloat16": 3e-2}
"""How far numbers may be from the CPU's, whose batches are cut otherwise and whose matrix products may be memexp's."""


@pytest.fixture
def on_gpu() -> Any:
    with pretended() as device:
        yield device


# What the pretended device sees

ONE_WAIT: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if x[0] > 0 else 2,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to the CPU": lambda x: x.to("cpu"),
    "to the CPU in a copy": lambda x: x.to("cpu", copy=True),
    "copied over": lambda x: torch.zeros(4).copy_(x),
    "copied to it": lambda x: x.copy_(torch.zeros(4)),
    "moved to it": lambda x: torch.zeros(4).to(x.device),
    "made of a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask": lambda x: x[x > 0],
    "a list as index": lambda x: x[[0, 2]],
    "written by a list": lambda x: x.__setitem__([0, 2], 1.0),
    "equal": lambda x: torch.equal(x, x),
    "found": lambda x: 3.0 in x,
    "not pinned": lambda x: torch.zeros(4).to(x.device, non_blocking=True),
    "synchronized": lambda _: torch.cuda.synchronize(),
}
NO_WAIT: dict[str, Callable[[torch.Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).softmax(0).argmax(),
    "made there": lambda x: torch.arange(4, device=x.device) + torch.zeros(4, device="cuda"),
    "an index there": lambda x: x[torch.arange(2, device=x.device)],
    "a slice": lambda x: x[1:3].clone(),
    "pinned": lambda x: torch.zeros(4).pin_memory().to(x.device, non_blocking=True),
    "later": lambda x: x.to("cpu", non_blocking=True),
    "where, of two": lambda x: torch.where(x > 0, x, 0.0),
    "a number of the host": lambda x: x * torch.tensor(2.0),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("work", ONE_WAIT.values(), ids=ONE_WAIT)
def test_a_wait_is_counted_once(work: Callable[[torch.Tensor], object], inference: bool, on_gpu: Pretended) -> None:
    with torch.inference_mode() if inference else contextlib.nullcontext():
        there = torch.arange(4, device="cuda").float()
        with on_gpu.counted() as waits:
            work(there)
    assert len(waits) == 1, waits
    assert "test_pretended.py:" in waits[0]


@pytest.mark.parametrize("work", NO_WAIT.values(), ids=NO_WAIT)
def test_what_needs_no_wait_is_not_counted(work: Callable[[torch.Tensor], object], on_gpu: Pretended) -> None:
    with on_gpu.counted() as waits:
        work(torch.arange(4, device="cuda").float())
    assert waits == []


def test_two_devices_are_told_apart(on_gpu: Pretended) -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert (here.device, there.device, there.is_cuda, there.is_cpu) == (torch.device("cpu"), CUDA, True, False)
    assert there[1:].device == there.view(3, 1).device == (there + 1).device == torch.zeros_like(there).device == CUDA
    assert torch.zeros_like(there, device="cpu").device == there.cpu().device == here.device
    for mix in (lambda: here + there, lambda: torch.cat([here, there]), lambda: there.add_(here)):
        with pytest.raises(Mixed, match="expected all tensors to be on the same device"):
            mix()
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    assert on_gpu.held() >= there.nbytes


def test_a_copy_is_not_read_before_it_has_arrived(on_gpu: Pretended) -> None:
    there = torch.ones(3, device="cuda")
    coming = there.to("cpu", non_blocking=True)
    for read in (lambda: coming + 1, coming.numpy, coming.tolist):
        with pytest.raises(Mixed, match="before anything has waited"):
            read()
    torch.cuda.synchronize()
    assert (coming + 1).tolist() == [2.0, 2.0, 2.0]


def test_afterwards_there_is_no_device() -> None:
    with pretended():
        there = torch.ones(3, device="cuda")
    assert there.device.type == "cpu" and not torch.cuda.is_available()


# What a trial does


@dataclasses.dataclass
class Work:
    """All that is asked of a model, in order; every part leaves numbers or tokens in `found`."""

    method: Full | LoRA
    dtype: str
    architecture: str
    world: World
    store: Store
    found: dict[str, Any] = dataclasses.field(default_factory=dict)

    def all(self) -> dict[str, Any]:
        self.load()
        self.learn()
        self.measure("after study")
        self.branch()
        self.take_up()
        self.forget()
        return self.found

    def load(self) -> None:
        model = resolved(self.architecture, initializer_range=0.1, **NO_DROPOUT[self.architecture])
        self.lm: LanguageModel = load(model, self.method, self.dtype, self.world)
        held = [*self.lm.parameters(), *self.lm.buffers()]
        assert {tensor.device.type for tensor in held} == {self.world.device.type}
        self.rows = encode(self.lm.tokenizer, TARGETS[:20], 64)
        self.base = fork.take(self.lm, None)
        self.measure("as loaded")

    def learn(self) -> None:
        self.optimizer = fresh_optimizer(self.lm, STUDY)
        self.steps("first", 1, 3)

    def steps(self, name: str, first: int, last: int) -> None:
        batches = StudyBatches(STUDY, self.rows, 0)
        made = train(self.lm, self.optimizer, STUDY, batches, first, last)
        self.found[f"{name}: losses"] = [step.loss for step in made]

    def measure(self, name: str) -> None:
        cues = [row[:4] for row in self.rows]
        with contextlib.ExitStack() as undo:
            undo.callback(self.lm.train, self.lm.training)
            nlls = token_nlls(self.lm, self.rows)
            pairs = continuations(self.lm, [(row[:3], row[3:]) for row in self.rows])
            self.found[f"{name}: completions"] = complete_greedily(self.lm, cues, [6] * len(cues))
            self.found[f"{name}: answers"] = answer_greedily(self.lm, cues, [6] * len(cues), [["."]] * len(cues))
        self.found[f"{name}: nlls"] = np.concatenate(nlls).tolist()
        self.found[f"{name}: continuations"] = [pair.log_likelihood for pair in pairs]

    def branch(self) -> None:
        kept = fork.take(self.lm, self.optimizer)
        self.steps("a branch", 4, 6)
        self.optimizer = fork.restore(self.lm, kept, STUDY)
        self.steps("another branch", 4, 6)

    def take_up(self) -> None:
        mark = Mark("line", 6)
        save_snapshot(self.store, mark, "base", self.lm, self.optimizer, [])
        self.steps("put down", 4, 6)
        taken = load_snapshot(self.store, mark, "base", self.lm, STUDY)
        assert taken is not None
        self.optimizer = taken.optimizer
        self.steps("taken up", 4, 6)

    def forget(self) -> None:
        with ablated(self.lm, Forget(from_layer=1), self.base):
            self.measure("ablated")
        reset(self.lm, Forget(from_layer=1), self.base, 0)
        self.measure("after forgetting")


def near(found: dict[str, Any], expected: dict[str, Any], dtype: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(("completions", "answers")):  # a near tie may turn, in bfloat16
            same = [one == other for one, other in zip(found[name], value, strict=True)]
            assert all(same) if dtype == "float32" else sum(same) >= 0.8 * len(same), name
        else:
            np.testing.assert_allclose(found[name], value, rtol=NEAR[dtype], err_msg=name)


@pytest.mark.parametrize(
    ("method", "dtype", "architecture"),
    [  # each with each of the two others once
        ("full", "float32", "llama"),
        ("full", "bfloat16", "gpt2"),
        ("lora", "float32", "gpt2"),
        ("lora", "bfloat16", "llama"),
    ],
)
def test_all_that_a_trial_asks_for(method: str, dtype: str, architecture: str, tmp_path: Path) -> None:
    expected = Work(METHODS[method], dtype, architecture, World.current(), Store(tmp_path / "cpu")).all()
    with pretended():
        found = Work(METHODS[method], dtype, architecture, World.current(gpus=1), Store(tmp_path / "gpu")).all()
    near(found, expected, dtype)
    for one in ("a branch", "taken up"):
        assert found[f"{one}: losses"] == found[f"{'another branch' if one == 'a branch' else 'put down'}: losses"]


# Whole trials


class Killed(BaseException):
    """As kill -9: nobody catches it."""


class Dying(Store):
    """A store whose writer is killed when it has saved so many snapshots."""

    left = 2

    def put_text(self, path: str, text: str) -> None:
        super().put_text(path, text)
        if path.startswith(".snapshots/"):
            self.left -= 1
            if not self.left:
                raise Killed


@spec
class Asked(Probe):
    """What a user's own probe may ask, without what a block has learned."""

    kind: ClassVar[str] = "asked"

    corpus: Corpus

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64()), ("ablated_nll", pa.float64()), ("cue_nll", pa.float64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        encoded = session.encode(texts["corpus"], 64)
        with session.ablated(Forget(from_layer=1)):
            nlls = [float(nll.sum()) for nll in session.token_nlls(encoded)]
        cues = [-pair.log_likelihood for pair in session.continuations([(row[:3], row[3:]) for row in encoded])]
        return pa.table({"item": range(len(nlls)), "ablated_nll": nlls, "cue_nll": cues}, schema=self.schema())


def conditions(grid: Grid) -> list[Condition]:
    """Study, forgetting with restudy, interference; with all that memexp measures of sentences."""
    probes = [Recognition(grid.pair), Recall(), Asked(grid.pair.targets)]
    studied = grid((0, 1, 2), probes=probes)
    forgotten = dataclasses.replace(studied[-1], forget=Forget(from_layer=1, restudy_exposures=1))
    later = [
        dataclasses.replace(studied[-1], interference=Interference(grid.pair.foils, steps, lr=1e-3, batch_size=4))
        for steps in (2, 5)
    ]
    return [*studied, forgotten, *later]


def executed(asked: list[Condition], store: Store, gpus: float, name: str = "first") -> list[str]:
    trial = dataclasses.replace(
        trial_of(asked), resources=Resources(gpus=gpus), snapshots=Snapshots(minutes=None, steps=2)
    )
    return execute(trial, store, World.current(gpus), Attempt("test", name))


def test_a_trial_that_dies_and_is_taken_up(grid: Grid, tmp_path: Path) -> None:
    asked = conditions(grid)
    cpu, gpu = Store(tmp_path / "cpu"), Store(tmp_path / "gpu")
    assert executed(asked, cpu, 0) == []
    with pretended():
        with pytest.raises(Killed):
            executed(asked, Dying(gpu.location), 1)
        assert executed(asked, gpu, 1, "second") == []
    assert {row["device"] for row in rows(gpu, "recognition")} == {"Pretended GPU"}
    assert {row["precision"] for kind in ("recall", "stages") for row in rows(gpu, kind)} == {"float32"}
    for kind, columns in COLUMNS.items():
        found, expected = rows(gpu, kind), rows(cpu, kind)
        assert len(found) == len(expected) > 0
        for column in columns:
            values = [[row[column] for row in one] for one in (found, expected)]
            np.testing.assert_allclose(*values, rtol=NEAR["float32"], err_msg=f"{kind}.{column}")
    same = [[row["completion"] for row in rows(one, "recall")] for one in (gpu, cpu)]
    assert same[0] == same[1] and len(same[0]) == 12 * 6


COLUMNS = {"recognition": ("target_nll", "foil_nll"), "asked": ("ablated_nll", "cue_nll")}


@pytest.mark.parametrize("share", [0.25, 1])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    share: float, on_gpu: Pretended, grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(memexp.trial.base, "load", lambda *given: (seen.append(on_gpu.fraction), load(*given))[1])
    on_gpu.fraction = 0.125  # as a trial before it left it, in a process that is used again
    assert executed(grid((0,)), store, share) == [] and seen == [share]


# Planted bugs


@pytest.fixture
def lm(on_gpu: Pretended) -> LanguageModel:
    return load(resolved("gpt2"), Full(), "float32", World.current(gpus=1))


def test_a_tensor_that_was_left_on_the_cpu_is_found(lm: LanguageModel) -> None:
    ids, at = torch.from_numpy(right_padded([[1, 2, 3], [4, 5, 6]])), torch.arange(3)[None]
    logits, _ = lm.next(ids.to(CUDA), None, at.to(CUDA))
    assert logits.device == lm.nll(ids, torch.tensor([3, 2])).device == CUDA
    for left in ((ids.to(CUDA), None, at), (ids, None, at.to(CUDA))):
        with pytest.raises(Mixed, match=r"at \w+\.py:\d+: expected all tensors"):
            lm.next(*left)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        logits.detach().numpy()


def test_a_parameter_that_was_left_on_the_cpu_is_found(lm: LanguageModel) -> None:
    head = lm.lm.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().cpu())
    with pytest.raises(Mixed):
        token_nlls(lm, [[1, 2, 3]])


def test_a_wait_in_a_loop_is_found(lm: LanguageModel, on_gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the norm of every gradient is looked at."""
    batches, optimizer = StudyBatches(STUDY, encode(lm.tokenizer, TARGETS[:16], 64), 0), fresh_optimizer(lm, STUDY)

    def waits() -> int:
        with on_gpu.counted() as found:
            train(lm, optimizer, STUDY, batches, 1, 2)
        return len(found)

    clip, before = torch.nn.utils.clip_grad_norm_, waits()

    def looking(parameters: Any, norm: float) -> object:
        held = list(parameters)
        assert all(float(one.grad.norm()) >= 0 for one in held)
        return clip(held, norm)

    monkeypatch.setattr(memexp.core.train.torch.nn.utils, "clip_grad_norm_", looking)
    assert waits() == before + 2 * len(lm.learning())


def test_a_fork_on_the_device_is_found(lm: LanguageModel, on_gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    before = on_gpu.held()
    kept = fork.take(lm, None)
    assert on_gpu.held() == before
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor.clone())
    left = fork.take(lm, None)
    assert on_gpu.held() > before and kept.weights.keys() == left.weights.keys()
