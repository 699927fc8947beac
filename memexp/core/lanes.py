"""Lanes: several trajectories of one base model, trained and measured in one pass.

lanes = Lanes(lm, 8)                        # lanes.models[k] is lane k, a model of its own in all that it learns
lanes.do("update", [(k, (optimizer, rows, lr, clip_norm)) for k in ...])
lanes.do("nll", [(k, (ids, lengths)) for k in ...])

Lanes share the frozen weights and nothing else. What a lane learns lies in its row of one array, of which the lane's
own parameters and those of the joint model, (lanes, *shape), are views: whatever changes a lane by itself (a reset, a
fork, a snapshot) changes the joint model too. A pass has the rows of all lanes, as many of each; losses, clipping,
learning rates, dropout and moments are each lane's own. Equal to the lane by itself up to the last digits, as with any
other size of a batch.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memexp.core.batch_sizes import Budget
from memexp.core.company import Ends
from memexp.core.data import Row, right_padded
from memexp.core.faults import ends_process
from memexp.core.generate import answer_batch, greedy_batch
from memexp.core.head import OfTargets, losses
from memexp.core.lane_draws import generator_state, set_generator_state
from memexp.core.lane_layers import Seats, by_lane
from memexp.core.lane_steps import NOTHING, Generators, Update, updates
from memexp.core.lane_weights import LaneWeights
from memexp.core.model import LanguageModel, blocks, drops, set_dropout
from memexp.core.train import update
from memexp.errors import ModelError
from memexp.spec import AdamW

__all__ = ["JointModel", "Lanes"]

CLOSE = {"bfloat16": 0.1}
"""Nats by which a lane may differ from itself in company, on a few tokens; other dtypes: .001."""


class JointModel(LanguageModel):
    """All lanes at once. Rows of a pass are those of ``seats.lanes``, as many of each, lane after lane."""

    seats: Seats
    drops_rows = False

    def forward(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """As any model's."""
        self.seats.rows = len(args[0])
        if operation in ("next", "choose"):
            self.seats.asked = [self.seats.rows // len(self.seats.lanes)] * len(self.seats.lanes)
        return super().forward(operation, *args, **kwargs)

    def nll(self, ids: Tensor, lengths: Tensor, of: OfTargets = losses) -> Tensor:
        """As any model's."""
        self.seats.asked = (lengths.numpy() - 1).reshape(len(self.seats.lanes), -1).sum(1).tolist()
        return super().nll(ids, lengths, of)

    def ends(self, rows: Sequence[Row], asked: Sequence[tuple[int, Row]], past: Any = None) -> Ends:
        """As any model's."""
        counts = np.ones(len(rows), np.int64)
        for row, tokens in asked:
            counts[row] = max(counts[row], len(tokens))
        self.seats.asked = counts.reshape(len(self.seats.lanes), -1).sum(1).tolist()
        return super().ends(rows, asked, past)


class Lanes:
    """A model as several lanes."""

    def __init__(self, lm: LanguageModel, count: int, moments: int = AdamW().moments) -> None:
        """`lm` becomes lane 0; the others are as it is now. `moments`: as for `LaneWeights`.

        Raises, with `lm` as it was, ModelError where the architecture, or what of it learns, has no lanes.
        """
        if lm.world.size > 1:
            raise ModelError("a model on several workers has no lanes")
        self.seats = Seats()
        self.generators = Generators(count, lm.world.device)
        self.checkpointing = any(isinstance(vars(block).get("forward"), functools.partial) for block in blocks(lm.lm))
        self._drawing: dict[float | None, bool] = {}
        self._dropout: tuple[float | None, ...] = ()  # what the joint model has, once something was asked for
        self.weights = LaneWeights(lm, count, moments)
        try:
            self.joint = self._joined(lm)
            copies = [copy.deepcopy(lm, _memo(lm, self.weights.of_lane(lane))) for lane in range(1, count)]
            self.models = [lm, *copies]
            self._check()
        except BaseException:
            self.weights.leave(lm)
            raise
        self.weights.seat(self.models)
        for model in self.models:
            model.budget = _shared(model.budget, count)

    def _joined(self, lm: LanguageModel) -> JointModel:
        joint: Any = copy.deepcopy(lm, _memo(lm, self.weights.stacked))
        joint.__class__ = JointModel
        joint.seats = self.seats
        head = joint.lm.get_output_embeddings()
        stacked = {id(parameter) for parameter in self.weights.stacked.values()}
        if head is not None and any(id(one) in stacked for part in head.children() for one in part.parameters()):
            raise ModelError("an adapter of the output embedding has no lanes")
        by_lane(joint, head, self.seats, stacked)
        found: JointModel = joint
        return found

    def do(self, what: str, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        """What lanes ask for: in one pass, as far as it fits together.

        Args:
            what: ``update`` (see `Update`), ``nll`` and ``ends`` (see `LanguageModel`), ``greedy`` and ``answers``
                (see `memexp.core.generate`).
            asked: lanes, each once, with what they give beside the model.

        Returns:
            The answer of each of `asked`, or the exception that it ended with.
        """
        together: dict[Hashable, list[int]] = {}
        for at, (lane, given) in enumerate(asked):
            kind = self._kind(what, given)
            together.setdefault(("alone", lane) if kind is None else kind, []).append(at)
        found: list[Any] = [None] * len(asked)
        for places in together.values():
            for at, answer in zip(places, self._some(what, [asked[at] for at in places]), strict=True):
                found[at] = answer
        return found

    def _kind(self, what: str, given: tuple[Any, ...]) -> Hashable:
        """Lanes whose requests are of the same kind may be answered together; None may not."""
        if what == "update":
            dropout = given[4]
            # Computed anew for the backward pass, dropout would have to be drawn again by each lane.
            return None if self._draws(dropout) and self.checkpointing else ("dropout", dropout)
        if what in ("greedy", "answers") and not self.joint.pads_left:
            widths = {len(cue) for cue in given[0]}
            return widths.pop() if len(widths) == 1 else None
        return (what, given[2:]) if what == "nll" else what  # of one pass the same is asked

    def _some(self, what: str, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        """The answers of lanes that may be answered together."""
        if len(asked) > 1 and self._fits(what, [given for _, given in asked]):
            try:
                answers: list[Any] = getattr(self, f"_{what}")(asked)
                return answers
            except Exception as error:  # whose it is shows when each tries by itself, which also needs less memory
                if ends_process(error):
                    return [error] * len(asked)
        return [self._alone(what, lane, given) for lane, given in asked]

    def _fits(self, what: str, given: Sequence[tuple[Any, ...]]) -> bool:
        """Whether rows that each lane has room for have room together, padded to the longest of any."""
        room = self.joint.context
        if what not in ("greedy", "answers") or room is None:
            return True
        more = [max(one[1]) for one in given]
        return int(max(len(cue) for one in given for cue in one[0]) + max(more)) <= room

    def _alone(self, what: str, lane: int, given: tuple[Any, ...]) -> Any:
        """A lane's answer by itself, or its exception."""
        model = self.models[lane]
        company, model.company = model.company, None
        try:
            if what == "update":
                return self._update_alone(lane, Update(*given))
            return _ALONE[what](model, *given)
        except Exception as error:  # whatever it is, it is this lane's
            return error
        finally:
            model.company = company

    def _update_alone(self, lane: int, one: Update) -> Any:
        self.generators.seed(lane, one.seed)
        drawing = self._draws(one.dropout)
        if drawing:
            set_generator_state(self.generators.device, self.generators[lane])
        made = update(self.models[lane], one.optimizer, one.rows, one.lr, one.clip_norm)
        if drawing:
            self.generators[lane] = generator_state(self.generators.device)
        return made

    def _draws(self, dropout: float | None) -> bool:
        """Whether training draws with so much dropout, which the joint model has from now on."""
        if self._dropout != (dropout,):
            set_dropout(self.joint.lm, dropout)
            self._dropout = (dropout,)
        if dropout not in self._drawing:
            self._drawing[dropout] = drops(self.joint)
        return self._drawing[dropout]

    def _update(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        given = [(lane, Update(*one)) for lane, one in asked]
        drawing = self._draws(given[0][1].dropout)
        for lane, one in given:
            self.generators.seed(lane, one.seed)
        self.joint.train()
        return list(updates(self.joint, self.weights, self.generators if drawing else None, given))

    def _nll(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Tensor]:
        most, widest = max(len(ids) for _, (ids, *_) in asked), max(ids.shape[1] for _, (ids, *_) in asked)
        ids = np.zeros((len(asked), most, widest), np.int64)
        lengths = np.ones((len(asked), most), np.int64)
        for at, (_, (own, real, *_)) in enumerate(asked):
            ids[at, : len(own), : own.shape[1]] = own.numpy()
            lengths[at, : len(own)] = real.numpy()
        flat = torch.from_numpy(ids.reshape(-1, widest)), torch.from_numpy(lengths.reshape(-1))
        with self._measuring(asked):
            found = self.joint.nll(*flat, *asked[0][1][2:])
        return list(found.split((lengths - 1).sum(1).tolist()))

    def _ends(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        rows: list[Row] = []
        wanted: list[tuple[int, Row]] = []
        most = max(len(own) for _, (own, _) in asked)
        for _, (own, pairs) in asked:
            wanted += [(len(rows) + row, tokens) for row, tokens in pairs]
            rows += [*own, *[NOTHING] * (most - len(own))]
        with self._measuring(asked):
            found = iter(self.joint.ends(rows, wanted))
        return [list(itertools.islice(found, len(pairs))) for _, (_, pairs) in asked]

    def _greedy(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        most = max(len(cues) for _, (cues, _) in asked)
        rows = [cue for _, (cues, _) in asked for cue in (*cues, *[cues[0]] * (most - len(cues)))]
        counts = [count for _, (cues, own) in asked for count in (*own, *[1] * (most - len(cues)))]
        with self._measuring(asked):
            found = greedy_batch(self.joint, rows, counts)
        return [found[at * most : at * most + len(cues)] for at, (_, (cues, _)) in enumerate(asked)]

    def _answers(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        most = max(len(cues) for _, (cues, _, _) in asked)
        cues: list[Row] = []
        limits: list[int] = []
        stops: list[Sequence[str]] = []
        for _, (own, most_new, ends) in asked:
            missing = most - len(own)
            cues += [*own, *[own[0]] * missing]
            limits += [*most_new, *[1] * missing]
            stops += [*ends, *[()] * missing]
        with self._measuring(asked):
            found = answer_batch(self.joint, cues, limits, stops)
        return [found[at * most : at * most + len(own)] for at, (_, (own, _, _)) in enumerate(asked)]

    @contextlib.contextmanager
    def _measuring(self, asked: Sequence[tuple[int, tuple[Any, ...]]]) -> Iterator[None]:
        with self.joint.evaluating(), self.seats.taken([lane for lane, _ in asked]):
            yield

    def _check(self) -> None:
        """Raise ModelError where lanes that differ are not computed as each by itself."""
        unused = self.weights.unused(lambda: self._pass_of_all().sum().backward())
        if unused is not None:
            raise ModelError(f"{unused} takes no part in every pass")
        close = CLOSE.get(self.joint.dtype, 1e-3)
        with self.weights.stirred(100 * close), torch.no_grad():
            found = self._pass_of_all().split(len(FEW[0]) + len(FEW[1]) - 2)
            for model, answer in zip(self.models, found, strict=True):
                model.eval()
                alone = model.nll(torch.from_numpy(right_padded(FEW)), torch.tensor([len(row) for row in FEW]))
                if bool((~((answer - alone).abs() <= close)).any()):  # NaN is not close either
                    raise ModelError(f"{type(self.joint.lm).__name__} does not compute several lanes as each by itself")

    def _pass_of_all(self) -> Tensor:
        self.joint.eval()
        rows = FEW * len(self.models)
        with self.seats.taken(range(len(self.models))):
            return self.joint.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows]))


FEW: list[Row] = [(0, 1, 0, 1, 1), (1, 0, 1)]
"""Tokens that any vocabulary has, for a look."""

_ALONE: dict[str, Callable[..., Any]] = {
    "nll": lambda model, *given: model.nll(*given),
    "ends": lambda model, rows, asked: model.ends(rows, asked),
    "greedy": greedy_batch,
    "answers": answer_batch,
}


def _memo(lm: LanguageModel, learning: Mapping[str, nn.Parameter]) -> dict[int, Any]:
    """For a deep copy: what is shared with `lm`, and what it learns with instead."""
    kept: list[Any] = [lm.tokenizer, lm.world, lm.traits, lm.stored, lm.together]
    kept += [parameter for parameter in lm.parameters() if not parameter.requires_grad]
    kept += list(lm.buffers())
    memo = {id(one): one for one in kept if one is not None}
    return memo | {id(parameter): learning[name] for name, parameter in lm.learning().items()}


def _shared(budget: Budget, count: int) -> Budget:
    """What a lane's batch may have where as many are measured together; training cuts its batches itself."""
    return replace(
        budget,
        scoring_tokens=max(1, budget.scoring_tokens // count),
        recall_tokens=max(1, budget.recall_tokens // count),
        recall_rows=max(1, budget.recall_rows // count),
        answer_rows=max(1, budget.answer_rows // count),
    )
