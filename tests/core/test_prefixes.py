"""Rows that begin alike: what they share is passed through once, and no answer and no likelihood is another for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch
from core.small import ARCHITECTURES, FOILS, PEAKED, TARGETS, language_model
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from memexp.core.data import encode
from memexp.core.generate import answer_greedily
from memexp.core.kv_cache import can_share
from memexp.core.model import LanguageModel
from memexp.core.prefixes import SharedPrefixes, shared_prefixes
from memexp.core.scoring import Likelihood, continuations
from memexp.core.traits import Traits

NEAR = 1e-5
"""Nats."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    name: str = request.param
    return language_model(name, **{"init_std" if name == "opt" else "initializer_range": PEAKED})


@pytest.fixture(autouse=True)
def sharing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is done wherever it can be."""
    monkeypatch.setattr("memexp.core.batch_sizes.Budget.prefix_cost", lambda *_: 0)


def plain(lm: LanguageModel) -> LanguageModel:
    """`lm` as if its cache could not be shared."""
    traits = lm.traits
    lm.adopt(dataclasses.replace(traits, shares=False))
    return lm


@pytest.fixture(autouse=True)
def traits_come_back(request: pytest.FixtureRequest) -> Iterator[None]:
    lm = request.getfixturevalue("lm") if "lm" in request.fixturenames else None
    before = lm.traits if lm else Traits()
    yield
    if lm:
        lm.adopt(before)


def prompts(lm: LanguageModel) -> list[list[int]]:
    """Two prefixes of other lengths with ends of many, a prompt that is all prefix, and some that share nothing."""
    first, second = encode(lm.tokenizer, [" ".join(TARGETS[:3]), " ".join(TARGETS[3:5])], 90)
    ends = [row[: 1 + 5 * i % 23] for i, row in enumerate(encode(lm.tokenizer, FOILS[:24], 40))]
    shared = [(first if i % 3 else second) + end for i, end in enumerate(ends)]
    return [*shared, first[:40], *encode(lm.tokenizer, TARGETS[8:12], 30)]


def passed(monkeypatch: pytest.MonkeyPatch, lm: LanguageModel) -> list[int]:
    """Tokens of every pass from now on."""
    found: list[int] = []
    real = LanguageModel.forward

    def forward(self: LanguageModel, operation: str, ids: torch.Tensor, *rest: object) -> object:
        found.append(ids.numel())
        return real(self, operation, ids, *rest)

    monkeypatch.setattr(LanguageModel, "forward", forward)
    return found


def test_answers_after_a_shared_prefix_are_those_without(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cues = prompts(lm)
    limits, stops = [5 + i % 7 for i in range(len(cues))], [["\n", "e"] if i % 4 else [] for i in range(len(cues))]
    tokens = passed(monkeypatch, lm)
    found = answer_greedily(lm, cues, limits, stops)
    spent = sum(tokens)
    tokens.clear()
    assert found == answer_greedily(plain(lm), cues, limits, stops)
    assert len(set(found)) > len(cues) // 2 and spent < 0.7 * sum(tokens)
    for cue, limit, stop, answer in list(zip(cues, limits, stops, found, strict=True))[::5]:
        assert answer_greedily(lm, [cue], [limit], [stop]) == [answer]


def test_likelihoods_after_a_shared_prefix_are_those_without(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cues, ends = prompts(lm), encode(lm.tokenizer, FOILS[30:34], 6)
    pairs = [(cue, end[: 1 + (i + at) % 6]) for i, cue in enumerate(cues) for at, end in enumerate(ends)]
    tokens = passed(monkeypatch, lm)
    found = continuations(lm, pairs)
    spent = sum(tokens)
    tokens.clear()
    expected = continuations(plain(lm), pairs)
    assert spent < 0.5 * sum(tokens)
    assert [one.greedy for one in found] == [one.greedy for one in expected]
    assert [one.log_likelihood for one in found] == pytest.approx(
        [one.log_likelihood for one in expected], rel=1e-6, abs=NEAR
    )
    assert picks(found) == picks(expected) and len(set(picks(found))) > 1


def picks(found: Sequence[Likelihood]) -> list[int]:
    four = [[one.log_likelihood for one in found[i : i + 4]] for i in range(0, len(found), 4)]
    return [max(range(4), key=logs.__getitem__) for logs in four]


def test_a_wrong_prefix_is_noticed(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    cues = prompts(lm)
    pairs = [(cue, [5, 6]) for cue in cues]
    expected = continuations(lm, pairs)
    real = SharedPrefixes.past

    def other(self: SharedPrefixes, prefix: object) -> object:
        past, made = real(self, prefix)  # type: ignore[arg-type]
        for layer in past.layers if made else ():
            layer.keys[:, :, 0] += 1
        return past, made

    monkeypatch.setattr(SharedPrefixes, "past", other)
    found = continuations(lm, pairs)
    assert max(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(found, expected, strict=True)) > 100 * NEAR


def test_a_cache_that_forgets_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2's sliding windows: asked as before."""
    lm = language_model("gemma2", initializer_range=PEAKED)
    assert not lm.traits.shares and language_model("gpt2").traits.shares
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=4)]
    assert not any(map(can_share, (None, (1, 2), DynamicCache(), sliding)))
    cues = prompts(lm)
    tokens = passed(monkeypatch, lm)
    continuations(lm, [(cue, [5]) for cue in cues])
    assert sum(tokens) >= sum(map(len, cues))


def test_a_head_that_is_not_plain_is_asked_after_a_shared_prefix() -> None:
    """Gemma 2 with full attention only: its capped logits are made by the whole model."""
    lm = language_model("gemma2", initializer_range=PEAKED, layer_types=["full_attention"] * 2)
    assert lm.traits.shares and not lm.traits.plain_head
    pairs = [(cue, [5, 6, 7]) for cue in prompts(lm)]
    found, expected = continuations(lm, pairs), continuations(plain(lm), pairs)
    assert [one.log_likelihood for one in found] == pytest.approx([one.log_likelihood for one in expected], abs=NEAR)


def test_bfloat16_shares_nothing_and_repeats_nothing_less() -> None:
    """Its numbers stay those of the rows that are stored."""
    lm = language_model("gpt2", dtype="bfloat16", initializer_range=PEAKED)
    cues = prompts(lm)
    assert SharedPrefixes(lm, cues, [len(cue) - 1 for cue in cues], 0).prefixes == []
    lm.dtype = "float32"
    assert SharedPrefixes(lm, cues, [len(cue) - 1 for cue in cues], 0).prefixes != []


def test_equal_questions_are_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("gpt2", initializer_range=PEAKED)
    cues = encode(lm.tokenizer, TARGETS[:6], 30)
    tokens = passed(monkeypatch, lm)
    once = answer_greedily(lm, cues, [4] * 6, [[]] * 6)
    spent = sum(tokens)
    tokens.clear()
    assert answer_greedily(lm, [*cues, *cues], [4] * 12, [[]] * 12) == [*once, *once]
    assert sum(tokens) == spent
    assert answer_greedily(lm, [cues[0], cues[0]], [4, 1], [[], []])[1] != once[0], "with another limit it is another"


# Which prefixes


def saved(rows: Sequence[Sequence[int]], most: Sequence[int], cost: int) -> int:
    """What the plan saves, checked to be a plan."""
    plan = shared_prefixes(rows, most, cost)
    used = [i for prefix in plan for i in prefix.rows]
    assert len(used) == len(set(used))
    for prefix in plan:
        for i in prefix.rows:
            assert tuple(rows[i][: len(prefix.tokens)]) == prefix.tokens and 0 < len(prefix.tokens) <= most[i]
    return sum((len(prefix.rows) - 1) * len(prefix.tokens) - cost for prefix in plan)


def best(keys: Sequence[Sequence[int]], cost: int, depth: int = 0) -> int:
    """The most that rows of zeros and ones, alike up to `depth`, can save: all together, or each half by itself."""
    halves = [[key for key in keys if key[depth : depth + 1] == (token,)] for token in (0, 1)]
    apart = sum(best(half, cost, depth + 1) for half in halves) if any(halves) else 0
    return max((len(keys) - 1) * depth - cost, apart, 0)


@pytest.mark.parametrize("cost", [0, 2, 5])
def test_what_is_shared_saves_most(cost: int) -> None:
    draw = torch.Generator().manual_seed(cost)
    found = []
    for _ in range(200):
        lengths = torch.randint(1, 9, (8,), generator=draw).tolist()
        rows = [torch.randint(0, 2, (n,), generator=draw).tolist() for n in lengths]
        most = [int(torch.randint(0, len(row), (1,), generator=draw)) for row in rows]
        found.append(saved(rows, most, cost))
        assert found[-1] == best([tuple(row[:n]) for row, n in zip(rows, most, strict=True)], cost)
    assert max(found) > 0


def test_nothing_is_shared_where_it_costs_more_than_it_saves() -> None:
    rows = [[1, 2, 3, i] for i in range(4)]
    (prefix,) = shared_prefixes(rows, [3] * 4, 8)
    assert (prefix.tokens, prefix.rows) == ((1, 2, 3), (0, 1, 2, 3))
    assert shared_prefixes(rows, [3] * 4, 9) == [] == shared_prefixes([], [], 0)
