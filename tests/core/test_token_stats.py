"""What is said of every token equals the plain way: all logits of one text at a time, and a softmax in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from core.small import PEAKED, TARGETS, language_model, varied
from numpy.typing import NDArray

import memexp.core.head
from memexp.core import token_stats as module
from memexp.core.data import encode
from memexp.core.generate import complete_greedily
from memexp.core.head import float32_logits
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel
from memexp.core.precision import arithmetic
from memexp.core.scoring import token_nlls
from memexp.core.session import Session
from memexp.core.token_stats import TokenStats, token_stats
from memexp.errors import SpecError
from memexp.trial.lockstep import Lockstep

TEMPERATURES, TOP, WITHIN = (0.5, 1.0, 2.0), 7, 20
NEAR = {"float32": 1e-5, "bfloat16": 1e-5}
"""Nats within which numbers agree with those of a batch of another size, as token_nlls' do."""


@torch.no_grad()
def plain_logits(lm: LanguageModel, row: Sequence[int]) -> NDArray[np.float64]:
    """Of one unpadded text all logits that predict a token, (tokens, vocabulary)."""
    lm.lm.eval()
    with arithmetic(lm.dtype, lm.world.device), float32_logits(lm.lm):
        found: NDArray[np.float64] = lm.lm(input_ids=torch.tensor([row])).logits[0, :-1].double().numpy()
    return found


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def plain(logits: NDArray[np.float64], row: Sequence[int]) -> dict[str, Any]:
    """Every number of `TokenStats`, as it is defined, with its top-k sampler's log-probabilities."""
    logs, at, own = log_softmax(logits), np.arange(len(row) - 1), np.array(row[1:])
    p = np.exp(logs)
    mine = logits[at, own]
    order = np.argsort(-logits, axis=-1)
    kept = np.where(logits >= -np.sort(-logits, axis=-1)[:, WITHIN - 1 : WITHIN], logits, -np.inf)
    return {
        "nll": -logs[at, own],
        "rank": (logits > mine[:, None]).sum(-1) + 1,
        "greedy": logits.argmax(-1) == own,
        "mean_log": (p * logs).sum(-1),
        "variance_log": (p * logs**2).sum(-1) - (p * logs).sum(-1) ** 2,
        "tempered": np.stack([log_softmax(logits / t)[at, own] for t in TEMPERATURES], -1),
        "within": np.stack([log_softmax(kept / t)[at, own] for t in TEMPERATURES], -1),
        "top_tokens": order[:, :TOP],
        "top_logs": np.take_along_axis(logs, order[:, :TOP], -1),
    }


def rows_of(lm: LanguageModel) -> list[list[int]]:
    """Texts of all lengths, and what the model itself makes of the beginning of one."""
    rows = [row for row in encode(lm.tokenizer, [*varied(24), *TARGETS[:6]], 64) if len(row) > 1]
    cue = rows[1][:4]
    return [[*cue, *(complete_greedily(lm, [cue], [8])[0] or [])], *rows]


def assert_plain(lm: LanguageModel, rows: Sequence[Sequence[int]], found: Sequence[TokenStats], near: float) -> None:
    among = token_stats(lm, rows, TEMPERATURES, within=WITHIN)
    ranks = set()
    for row, each, other in zip(rows, found, among, strict=True):
        expected = plain(plain_logits(lm, row), row)
        for name in ("nll", "mean_log", "tempered", "top_logs"):
            np.testing.assert_allclose(getattr(each, name), expected[name], rtol=0, atol=near, err_msg=name)
        np.testing.assert_allclose(each.variance_log, expected["variance_log"], rtol=1e-5, atol=10 * near)
        np.testing.assert_array_equal(np.isinf(other.tempered), np.isinf(expected["within"]))
        np.testing.assert_allclose(other.tempered, expected["within"], rtol=0, atol=near)
        for name in ("rank", "greedy", "top_tokens"):
            np.testing.assert_array_equal(getattr(each, name), expected[name], err_msg=name)
        ranks |= set(each.rank.tolist())
    assert 1 in ranks and max(ranks) > WITHIN


# One text at a time


def test_every_number_is_that_of_one_text_at_a_time(lm: LanguageModel) -> None:
    rows = rows_of(lm)
    assert_plain(lm, rows, token_stats(lm, rows, TEMPERATURES, TOP), NEAR["float32"])


def test_every_number_is_that_of_one_text_at_a_time_in_bfloat16(lm: LanguageModel) -> None:
    """Whose states depend on the size of a batch: each text alone, then, and the softmax in float64 all the same."""
    lm.dtype = "bfloat16"
    try:
        rows = rows_of(lm)[:12]
        found = [token_stats(lm, [row], TEMPERATURES, TOP)[0] for row in rows]
        for row, each in zip(rows, found, strict=True):
            expected = plain(plain_logits(lm, row), row)
            for name in ("nll", "mean_log", "tempered"):
                np.testing.assert_allclose(getattr(each, name), expected[name], rtol=0, atol=NEAR["bfloat16"])
            np.testing.assert_array_equal(each.rank, expected["rank"])
    finally:
        lm.dtype = "float32"


def test_nll_is_that_of_token_nlls_to_the_last_bit(lm: LanguageModel) -> None:
    rows = rows_of(lm)
    for each, nll in zip(token_stats(lm, rows), token_nlls(lm, rows), strict=True):
        assert each.nll.dtype == np.float32
        np.testing.assert_array_equal(each.nll, nll)


def test_greedy_is_what_completion_takes(lm: LanguageModel) -> None:
    """Of a text that a model wrote itself every token that it wrote is, wherever it may not end."""
    session = Session(lm)
    cues = [row[:4] for row in rows_of(lm) if len(row) > 4][:8]
    made = [[*cue, *(new or [])] for cue, new in zip(cues, session.complete(cues, [8] * len(cues)), strict=True)]
    for each in session.token_stats(made, top=2):
        free = ~np.isin(each.top_tokens[3:, 0], session.end_tokens)
        assert free.sum() > 4 and each.greedy[3:][free].all() and (each.rank[3:][free] == 1).all()


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Logits of three positions at a time; the pieces there were."""
    pieces, real = [], module._Stats._of

    def counted(self: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        pieces.append(len(logits))
        return real(self, logits, targets)

    monkeypatch.setattr(memexp.core.head, "LOGIT_BYTES", 3 * 4 * 600)
    monkeypatch.setattr(module._Stats, "_of", counted)
    yield pieces


def test_a_vocabulary_that_comes_in_pieces_says_the_same(cut: list[int]) -> None:
    lm = language_model("llama", initializer_range=PEAKED)
    rows = rows_of(lm)[:10]
    found = token_stats(lm, rows, TEMPERATURES, TOP)
    assert len(cut) > 20 and max(cut) <= 3
    assert_plain(lm, rows, found, NEAR["float32"])


def test_a_head_with_a_soft_cap_takes_the_whole_path() -> None:
    lm = language_model("gemma2", initializer_range=PEAKED)
    assert not lm._plain_head
    rows = rows_of(lm)[:10]
    assert_plain(lm, rows, token_stats(lm, rows, TEMPERATURES, TOP), NEAR["float32"])


# Given logits


def asked(logits: list[list[float]], tokens: list[int], *given: Any) -> TokenStats:
    stats = module._Stats(*given)
    return stats.read(stats(torch.tensor(tokens))(torch.tensor(logits), slice(0, len(tokens))).numpy())


def test_by_hand() -> None:
    """p = 1/2, 1/4, 1/8, 1/8: the third is as likely as the fourth, and both are third."""
    logits = [float(np.log(p)) for p in (1 / 8, 1 / 2, 1 / 8, 1 / 4)]
    found = asked([logits] * 4, [0, 1, 2, 3], (1.0, 0.5), 2, 2)
    ln2 = np.log(2)
    np.testing.assert_allclose(found.nll, [3 * ln2, ln2, 3 * ln2, 2 * ln2], rtol=1e-6)
    assert found.rank.tolist() == [3, 1, 3, 2] and found.greedy.tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.mean_log, [-1.75 * ln2] * 4, rtol=1e-6)
    np.testing.assert_allclose(found.variance_log, [(1 / 2 + 4 / 4 + 9 / 4 - 1.75**2) * ln2**2] * 4, rtol=1e-6)
    assert found.top_tokens.tolist() == [[1, 3]] * 4
    # Of two that are kept, 2/3 and 1/3; at half the temperature 4/5 and 1/5.
    np.testing.assert_allclose(np.exp(found.tempered[[1, 3]]), [[2 / 3, 4 / 5], [1 / 3, 1 / 5]], rtol=1e-6)
    assert np.isneginf(found.tempered[[0, 2]]).all()


def test_a_variance_that_is_all_but_nothing_is_one() -> None:
    """An even distribution over 50,000 with a hint of one token: the plain difference in float32 would be noise."""
    logits = torch.zeros(1, 50_000).tolist()
    logits[0][7] = 0.5
    exact = plain(np.array(logits), [0, 7])
    found = asked(logits, [7], (), 0, 0)
    assert 0 < exact["variance_log"][0] < 1e-5
    np.testing.assert_allclose(found.variance_log, exact["variance_log"], rtol=1e-2)


def test_of_equal_logits_the_first_is_greedy_and_all_are_first() -> None:
    found = asked([[2.0, 5.0, 5.0, 1.0]] * 2, [1, 2], (), 0, 0)
    assert found.rank.tolist() == [1, 1] and found.greedy.tolist() == [True, False]


def test_what_is_impossible_counts_nothing_and_what_is_no_number_shows() -> None:
    found = asked([[0.0, 0.0, -np.inf], [0.0, np.nan, 0.0]], [0, 1], (1.0,), 1, 0)
    np.testing.assert_allclose([found.mean_log[0], found.variance_log[0]], [-np.log(2), 0], atol=1e-6)
    assert np.isnan(found.nll[1]) and np.isnan(found.mean_log[1])


def test_rows_too_short_and_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, passed = language_model("gpt2"), []
    real = LanguageModel.nll
    monkeypatch.setattr(
        LanguageModel, "nll", lambda self, ids, *more: passed.append(len(ids)) or real(self, ids, *more)
    )
    found = token_stats(lm, [[5], [5, 6, 7], [], [5, 6, 7]], (1.0,), 3)
    assert passed == [1]
    assert [each.tempered.shape for each in found] == [(0, 1), (2, 1), (0, 1), (2, 1)]
    assert [each.top_tokens.shape for each in found] == [(0, 3), (2, 3), (0, 3), (2, 3)]
    assert token_stats(lm, []) == []
    assert token_stats(lm, [[5, 6]], (), 10_000)[0].top_logs.shape == (1, lm.lm.config.vocab_size)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperatures": [0.0]}, "temperatures must be finite numbers above 0, got [0.0]"),
        ({"temperatures": [float("nan")]}, "above 0"),
        ({"top": -1}, "top and within must be 0 or more, got -1 and 0"),
        ({"within": -2}, "got 0 and -2"),
    ],
)
def test_what_is_no_sampler_is_a_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        token_stats(language_model("gpt2"), [[1, 2]], **given)
    assert says in str(error.value) and "\n" not in str(error.value)


# Lanes


def test_lanes_are_asked_together_and_say_what_each_says_by_itself() -> None:
    singles = [language_model("llama", initializer_range=PEAKED, seed=seed) for seed in range(3)]
    lanes = Lanes(language_model("llama", initializer_range=PEAKED), 3)
    for single, lane in zip(singles, lanes.models, strict=True):
        with torch.no_grad():
            for name, parameter in lane.named_parameters():
                parameter.copy_(single.get_parameter(name))
    rows, given = (
        rows_of(singles[0]),
        [
            {"temperatures": (0.5,), "within": 9},
            {"temperatures": (0.5,), "within": 9},
            {"temperatures": (2.0,), "within": 5},
        ],
    )
    found: dict[int, list[TokenStats]] = {}
    lockstep, before = Lockstep(lanes), lanes.joint.passes

    def ask(lane: int) -> None:
        found[lane] = token_stats(lanes.models[lane], rows[2 * lane :], **given[lane])

    lockstep.run(lambda lane: lockstep.each(lane, [ask] * 3))
    assert found.keys() == {0, 1, 2} and lanes.joint.passes > before
    for lane, single in enumerate(singles):
        for one, other in zip(token_stats(single, rows[2 * lane :], **given[lane]), found[lane], strict=True):
            np.testing.assert_allclose(one.nll, other.nll, rtol=0, atol=1e-4)
            np.testing.assert_allclose(one.mean_log, other.mean_log, rtol=0, atol=1e-4)
            np.testing.assert_allclose(one.tempered, other.tempered, rtol=0, atol=2e-4)
            np.testing.assert_array_equal(one.rank, other.rank)
