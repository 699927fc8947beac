"""What a user's own probe does costs its own rows: its neighbours are measured and trained as if it were not there."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from core.small import language_model

import memexp.trial.base
from memexp import signals
from memexp.core.inert import Inert
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.plan import BaseStage, Trial, grow
from memexp.plan.attempts import Attempt, Log
from memexp.probes import Recall, Recognition
from memexp.spec import Condition, Forget, Model, Pair, Probe, Resources, Study, spec
from memexp.store import Store
from memexp.trial.execute import execute
from memexp.trial.measuring import Quit


class Escape(BaseException):
    """Nothing that `except Exception` catches."""


def _raise(error: BaseException) -> None:
    raise error


def _permute(lm: LanguageModel) -> None:
    weights = lm.lm.transformer.h[0].mlp.c_fc.weight
    weights.data = weights.data[:, torch.randperm(weights.shape[1])]


EXITS: dict[str, tuple[Callable[[LanguageModel], object], str]] = {
    "sys.exit": (lambda lm: sys.exit(3), "SystemExit: 3"),
    "exit without a word": (lambda lm: sys.exit(), "SystemExit: "),
    "Ctrl-C of its own": (lambda lm: _raise(KeyboardInterrupt()), "KeyboardInterrupt: "),
    "a generator's": (lambda lm: _raise(GeneratorExit("closed")), "GeneratorExit: closed"),
    "asyncio's": (lambda lm: _raise(asyncio.CancelledError("away")), "CancelledError: away"),
    "one of its own": (lambda lm: _raise(Escape("free")), "Escape: free"),
}
"""What ends a probe, and the reason that is recorded."""

STATES: dict[str, Callable[[LanguageModel], object]] = {
    "gradients off": lambda lm: torch.set_grad_enabled(False),
    "default dtype": lambda lm: torch.set_default_dtype(torch.float64),
    "default device": lambda lm: torch.set_default_device("meta"),
    "deterministic": lambda lm: torch.use_deterministic_algorithms(True),
    "threads": lambda lm: torch.set_num_threads(2),
    "precision": lambda lm: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda lm: torch.set_autocast_enabled("cpu", True),
    "anomalies": lambda lm: torch.set_anomaly_enabled(True),
    "seeds": lambda lm: (torch.manual_seed(1), random.seed(1), np.random.seed(1)),
    "random numbers": lambda lm: (torch.rand(3), random.random(), np.random.rand()),
    "training mode": lambda lm: lm.train(),
    "training mode of a part": lambda lm: lm.lm.transformer.h[0].train(),
    "frozen": lambda lm: lm.requires_grad_(False),
    "gradients": lambda lm: sum(p.sum() for p in lm.parameters()).backward(),  # type: ignore[union-attr] # no number
    "a hook": lambda lm: lm.lm.transformer.h[0].ln_1.register_forward_hook(lambda *given: given[2] * 2),
    "a hook before": lambda lm: lm.lm.lm_head.register_forward_pre_hook(lambda *given: (given[1][0] * 2,)),
}
"""What a probe may leave behind, and does not."""

WEIGHTS: dict[str, Callable[[LanguageModel], object]] = {
    "in place": lambda lm: lm.lm.transformer.wte.weight.data.mul_(2),
    "one number, by hand": lambda lm: lm.lm.transformer.h[1].ln_1.bias.data[0].add_(1e-3),
    "another order": _permute,
    "another parameter": lambda lm: setattr(lm.lm.transformer.ln_f, "weight", torch.nn.Parameter(torch.ones(32) * 2)),
    "one more": lambda lm: setattr(lm.lm.transformer.ln_f, "more", torch.nn.Parameter(torch.ones(1))),
    "another size": lambda lm: lm.lm.resize_token_embeddings(401),
}
"""What a probe may do to the model, after which it is of no more use."""


@spec
class Vandal(Probe):
    """Does something to its surroundings, raises where it is to."""

    kind: ClassVar[str] = "vandal"

    does: str
    raises: bool = False

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        done = STATES.get(self.does) or WEIGHTS.get(self.does) or EXITS[self.does][0]
        done(session.lm)
        if self.raises:
            raise RuntimeError("afterwards")
        return pa.table({"item": [0]})


def conditions(model: Model, pair: Pair, *more: Probe) -> list[Condition]:
    """A line of two stops that forks after the first."""
    probes = [*more, Recognition(pair), Recall()]
    study = [Study(pair.targets, exposures=n, lr=3e-3, batch_size=4, dropout=0.2) for n in (0, 2, 3)]
    forgets = [Condition(model, study[1], forget=Forget(1), probes=probes)]
    return [*(Condition(model, one, probes=probes) for one in study), *forgets]


def executed(of: Sequence[Condition], store: Store, world: World | None = None) -> list[str]:
    forest = grow(of)
    start, *stages = forest.stages.values()
    assert isinstance(start, BaseStage)
    trial = Trial(start, [*stages], forest.asks, Resources(), forest.texts, forest.streams)  # type: ignore[list-item] # one base
    return execute(trial, store, world or World.current(), Attempt("test", "first"))


def numbers(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Every number of every row, without what names the conditions."""
    found = {}
    for kind in ("recognition", "recall", "training"):
        table = store.scan(kind)
        assert table is not None
        found[kind] = sorted(
            table.drop_columns(["seconds"] if "seconds" in table.column_names else []).to_pylist(), key=str
        )
    return found


@pytest.fixture(scope="module")
def alone(tiny_model: Model, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What is measured and trained where no vandal has been."""
    store = Store(tmp_path_factory.mktemp("alone"))
    assert executed(conditions(tiny_model, pair), store) == []
    return numbers(store)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models loaded."""
    found: list[str] = []
    monkeypatch.setattr(memexp.trial.base, "load", lambda *args: (found.append(args[0].name), load(*args))[1])
    return found


def errors(store: Store) -> dict[str, set[str]]:
    """The first line of what is recorded for each vandal."""
    found: dict[str, set[str]] = {}
    for row in Log.read(store).rows(status="failed"):
        found.setdefault(row["probe_id"], set()).add(row["error"].splitlines()[0])
    return found


def test_what_a_probe_changes_around_it_is_as_before(
    tiny_model: Model, pair: Pair, tmp_path: Path, alone: Any, loads: list[str]
) -> None:
    store, vandals = Store(tmp_path), [Vandal(what, raises) for what in STATES for raises in (False, True)]
    failures = executed(conditions(tiny_model, pair, *vandals), store)
    assert len(failures) == len(store.names("vandal")) == 4 * len(STATES)
    assert numbers(store) == alone
    assert len(loads) == 1


@pytest.fixture(scope="module")
def tiny_lm() -> LanguageModel:
    return language_model("gpt2")


@pytest.mark.parametrize("what", STATES)
def test_each_of_it_by_itself(what: str, tiny_lm: LanguageModel) -> None:
    ids = torch.arange(12)[None]

    def seen() -> list[Any]:
        """What a neighbour would see."""
        before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()
        drawn = [torch.rand(1).item(), random.random(), np.random.rand()]
        torch.random.set_rng_state(before[0]), random.setstate(before[1]), np.random.set_state(before[2])
        nll = tiny_lm.nll(ids.to(tiny_lm.world.device), torch.tensor([12]))
        training = [module.training for module in tiny_lm.modules()]
        grads = [(p.requires_grad, p.grad is None) for p in tiny_lm.parameters()]
        switches = [torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(), torch.get_num_threads()]
        switches.append(torch.is_autocast_enabled("cpu"))
        precision = torch.get_float32_matmul_precision(), nll.dtype, torch.empty(0).dtype, torch.empty(0).device
        return [drawn, nll.tolist(), nll.requires_grad, training, grads, switches, precision]

    before = seen()
    guard = Inert(tiny_lm, weights=True)
    with guard:
        STATES[what](tiny_lm)
        assert str(torch.get_default_device()) == "meta" or seen() != before, "the negative control"
    assert seen() == before
    assert guard.changed is None


def test_what_would_end_the_process_costs_its_own_rows(
    tiny_model: Model, pair: Pair, tmp_path: Path, alone: Any, loads: list[str]
) -> None:
    store = Store(tmp_path)
    failures = executed(conditions(tiny_model, pair, *map(Vandal, EXITS)), store)
    assert len(failures) == 4 * len(EXITS)
    assert numbers(store) == alone and len(loads) == 1
    said = sorted(line.partition(" (")[0] for lines in errors(store).values() for line in lines)
    assert said == sorted(f"vandal: {reason}" for _, reason in EXITS.values())
    assert all(f"(Vandal, {Path(__file__).name}, line " in line for lines in errors(store).values() for line in lines)
    assert "Traceback" in Log.read(store).rows(status="failed")[0]["error"]


def test_a_changed_model_is_loaded_again(
    tiny_model: Model, pair: Pair, tmp_path: Path, alone: Any, loads: list[str]
) -> None:
    store, vandals = Store(tmp_path), [Vandal(what, bool(at % 2)) for at, what in enumerate(WEIGHTS)]
    failures = executed(conditions(tiny_model, pair, *vandals), store)
    assert len(failures) == 4 * len(WEIGHTS)
    assert numbers(store) == alone
    assert len(loads) == 1 + 4 * len(WEIGHTS)
    assert Log.read(store).rows(status="differs") == []
    said = [line for lines in errors(store).values() for line in lines]
    assert sum("RuntimeError: afterwards" in line for line in said) == len(WEIGHTS) // 2
    for line in said:
        assert "RuntimeError: afterwards" in line or re.fullmatch(
            r"vandal: Vandal \(.*, line \d+\): measure\(\) changed .* of the model, .*", line
        )


class Deaf(World):
    """Two ranks of which the other never speaks."""

    def broadcast(self, value: Any) -> Any:
        return value

    def sum(self, value: Any) -> Any:
        """Its own."""
        return value


def test_on_several_ranks_it_ends_the_group_as_any_error_does(
    tiny_model: Model, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plain, one = Store(tmp_path), load, World.current()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(memexp.trial.base, "load", lambda *args: plain(*args[:3], one))
    with pytest.raises(Quit, match="SystemExit"):
        executed(conditions(tiny_model, pair, Vandal("sys.exit"))[:1], store, Deaf(0, 2, torch.device("cpu")))
    assert len(errors(store)) == 1 and not store.names("recognition")


@pytest.mark.parametrize("what", WEIGHTS)
def test_each_change_of_the_model_is_seen(what: str) -> None:
    lm = language_model("gpt2")
    guard = Inert(lm, weights=True)
    with guard:
        lm.nll(torch.arange(12)[None], torch.tensor([12])).sum().backward()
    assert guard.changed is None, "a pass forward and one back change nothing"
    with guard:
        WEIGHTS[what](lm)
    assert guard.changed is not None


# Who asks from outside


def test_a_real_ctrl_c_stops_though_a_probe_catches_it(tiny_model: Model, pair: Pair, tmp_path: Path) -> None:
    for does in ("lets it pass", "raises its own", "fails", "swallows it", "a thread of ours"):
        store = Store(tmp_path / does)
        with signals.heeded(), pytest.raises(KeyboardInterrupt):
            executed(conditions(tiny_model, pair, Struck(does)), store)
        assert Log.read(store).rows(status="failed") == []


@spec
class Struck(Probe):
    """Is interrupted from outside."""

    kind: ClassVar[str] = "struck"

    does: str

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        if self.does == "a thread of ours":
            signals.interrupt_main()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            if self.does == "lets it pass":
                raise
            if self.does == "raises its own":
                sys.exit(1)
            if self.does == "fails":
                raise RuntimeError("broken off") from None
        return pa.table({"item": [0]})
