"""Batches: every item once, nothing but keys decides the order, and little of what is computed is padding."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from core.small import TARGETS, language_model, varied

from memexp.core.batch_sizes import largest
from memexp.core.data import batches_of, encode, groups, key_seed, left_padded, order, right_padded
from memexp.core.tokenizer import load_tokenizer
from memexp.sources import ResolvedTokenizer, Sources
from memexp.sources import tokens as counting
from memexp.spec import InlineText, Model, RandomInit, TrainedTokenizer

REAL = Path(__file__).parents[3] / "shared" / "data" / "llm-memory" / "expt1"


def sentence_lengths(count: int, seed: int = 0) -> list[int]:
    """Lengths in tokens as expt 1 has them: about 26 in the mean, at least 5, a long tail."""
    drawn = np.random.default_rng(seed).lognormal(np.log(23), 0.5, count)
    return [int(length) for length in np.clip(drawn.round(), 5, 128)]


def efficiency(batches: Iterable[Sequence[int]], lengths: Sequence[int]) -> float:
    """Real tokens in all batches over padded ones."""
    batches = [batch for batch in batches if batch]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return sum(lengths[i] for batch in batches for i in batch) / padded


def study_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The micro-groups of one exposure at batch size `size` on a CPU."""
    shuffled = order(len(lengths), 0, "study", 1)
    found = []
    for start in range(0, len(lengths), size):
        chosen = shuffled[start : start + size]
        split = groups([lengths[i] for i in chosen], largest("cpu").group_overhead, largest("cpu").group_tokens)
        found += [[chosen[i] for i in group[0]] for group in split]
    return found


# Micro-groups of a training batch

SETTINGS = [
    (ranks, overhead, tokens) for ranks in (1, 2, 3, 5) for overhead, tokens in ((0, 64), (16, 4096), (4096, 300))
]


@pytest.mark.parametrize(("ranks", "overhead", "tokens"), SETTINGS)
def test_groups_hold_every_item_once(ranks: int, overhead: int, tokens: int) -> None:
    for count in (1, 2, 3, 7, 16, 33):
        split = groups(sentence_lengths(count, seed=count), overhead, tokens, ranks)
        assert sorted(i for group in split for rank in group for i in rank) == list(range(count))


@pytest.mark.parametrize(("ranks", "overhead", "tokens"), SETTINGS)
def test_every_rank_has_a_part_of_every_group_of_about_its_width(ranks: int, overhead: int, tokens: int) -> None:
    lengths = sentence_lengths(33)
    ordered = sorted(lengths)
    steepest = max(b - a for a, b in zip(ordered, ordered[ranks - 1 :], strict=False))
    for group in groups(lengths, overhead, tokens, ranks):
        assert len(group) == ranks
        assert group[0], "the first rank is never without an item: the others borrow from it"
        sizes = [len(rank) for rank in group]
        assert max(sizes) - min(sizes) <= 1
        widths = [max(lengths[i] for i in rank) for rank in group if len(rank) == max(sizes)]
        assert max(widths) - min(widths) <= steepest


@pytest.mark.parametrize(("ranks", "overhead", "tokens"), SETTINGS)
def test_groups_keep_to_the_token_budget(ranks: int, overhead: int, tokens: int) -> None:
    lengths = sentence_lengths(40)
    for rank in itertools.chain.from_iterable(groups(lengths, overhead, tokens, ranks)):
        assert len(rank) <= 1 or len(rank) * max(lengths[i] for i in rank) <= tokens


def test_groups_are_the_cheapest_split_there_is() -> None:
    overhead, tokens = 16, 120

    def cost(parts: list[list[int]]) -> int:
        return sum(overhead + len(part) * max(part) for part in parts)

    for seed in range(20):
        lengths = sorted(sentence_lengths(9, seed))
        every = []
        for cuts in itertools.product((False, True), repeat=8):
            parts = [[lengths[0]]]
            for length, cut in zip(lengths[1:], cuts, strict=True):
                if cut:
                    parts.append([length])
                else:
                    parts[-1].append(length)
            if all(len(part) == 1 or len(part) * max(part) <= tokens for part in parts):
                every.append(cost(parts))
        found = [[lengths[i] for i in group[0]] for group in groups(lengths, overhead, tokens)]
        assert cost(found) == min(every)


def test_the_gradient_does_not_depend_on_the_split() -> None:
    lm = language_model("llama", initializer_range=0.1)
    rows = encode(lm.tokenizer, TARGETS[:16], 128)
    gradients = []
    for overhead, tokens in ((16, 4096), (0, 64), (10**6, 10**6)):
        lm.zero_grad()
        split = groups([len(row) for row in rows], overhead, tokens)
        for group in split:
            chosen = [rows[i] for i in group[0]]
            ids, counts = torch.from_numpy(right_padded(chosen)), torch.tensor([len(row) for row in chosen])
            (lm.nll(ids, counts).sum() / sum(len(row) - 1 for row in rows)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None]))
    assert len(split) == 1
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-6)


# Padding


@pytest.mark.parametrize("seed", range(3))
def test_little_of_a_study_batch_is_padding(seed: int) -> None:
    lengths = sentence_lengths(600, seed)
    assert efficiency(study_batches(lengths, 16), lengths) >= 0.8


@pytest.mark.parametrize("seed", range(3))
def test_hardly_anything_of_a_scoring_batch_is_padding(seed: int) -> None:
    lengths = sentence_lengths(1200, seed)  # recognition scores targets and foils together
    assert efficiency(batches_of(lengths, largest("cpu").scoring_tokens, len(lengths)), lengths) >= 0.95


@pytest.mark.skipif(not REAL.is_dir(), reason="the published lists are not beside the repository")
def test_little_is_padding_on_the_published_lists() -> None:
    texts = [
        [json.loads(line)["sent"] for line in (REAL / f"{name}_data_0.json").open(encoding="utf-8")]
        for name in ("seen", "unseen")
    ]
    tokenizer = load_tokenizer(ResolvedTokenizer(None, None, (*texts[0], *texts[1]), 8192), "bpe")
    targets, foils = ([len(row) for row in encode(tokenizer, side, 128)] for side in texts)
    assert efficiency(study_batches(targets, 16), targets) >= 0.85
    both = targets + foils
    assert efficiency(batches_of(both, largest("cpu").scoring_tokens, len(both)), both) >= 0.95


def test_batches_hold_every_item_once_within_their_bounds() -> None:
    lengths = [*sentence_lengths(200), 500]
    batches = batches_of(lengths, tokens=300, rows=4)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(201))
    assert batches[-1] == [200], "longer than the budget: by itself"
    for batch in batches[:-1]:
        assert len(batch) <= 4
        assert len(batch) * max(lengths[i] for i in batch) <= 300


def test_nothing_makes_no_batch() -> None:
    assert batches_of([], 100, 10) == []


# Order


def test_the_order_depends_on_its_keys_only() -> None:
    torch.manual_seed(1)
    first = order(50, 0, "study", 1)
    torch.manual_seed(2)
    assert order(50, 0, "study", 1) == first
    assert sorted(first) == list(range(50))
    others = [order(50, 1, "study", 1), order(50, 0, "study", 2), order(50, 0, "restudy", 1)]
    assert all(other != first for other in others)


def test_drawing_an_order_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    order(50, 0, "study", 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_and_orders_are_those_of_the_first_version() -> None:
    """Others would give other results under the same identity: bump `memexp.identity.NUMERICS` with them."""
    assert key_seed(0, "study", 1) == 3620163600254021824
    assert key_seed(1, "study", 1, "dropout", 0) == 2397249906312982620
    assert order(8, 0, "study", 1) == [5, 6, 7, 4, 3, 1, 0, 2]
    assert order(8, 1, "study", 1) == [2, 6, 7, 4, 0, 1, 3, 5]


# Rows


def test_encoding_many_texts_equals_encoding_each_and_truncating() -> None:
    tokenizer = language_model("gpt2").tokenizer
    texts = varied(30)
    rows = encode(tokenizer, texts, 20)
    assert rows == [tokenizer(text)["input_ids"][:20] for text in texts]
    assert {len(row) for row in rows} >= {2, 20}


def test_padding_goes_to_the_named_side() -> None:
    rows = [[1, 2, 3], [4]]
    assert right_padded(rows).tolist() == [[1, 2, 3], [4, 0, 0]]
    ids, real = left_padded(rows)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert real.tolist() == [[1, 1, 1], [0, 0, 1]]


def trained_model() -> Model:
    texts = InlineText("trained on", TARGETS)
    return Model("new", tokenizer=TrainedTokenizer([texts], 300), init=RandomInit({"model_type": "gpt2"}))


@pytest.mark.parametrize("model", [Model("tiny-s"), trained_model()], ids=["shipped", "trained"])
def test_planning_counts_the_tokens_that_training_will_have(model: Model) -> None:
    """Special tokens included, whatever the file says of truncation and padding."""
    sources = Sources()
    resolved = sources.model(model)
    texts = sources.texts(InlineText("mixed", [*TARGETS, "a b", "Grüße aus Köln. " * 9, "word " * 40]))
    whole = [len(row) for row in encode(load_tokenizer(resolved.tokenizer, "new"), texts.items, 10_000)]
    for size in sorted({*whole, 2, 128}):
        assert counting.cut(resolved, texts, size) == sum(length > size for length in whole)
