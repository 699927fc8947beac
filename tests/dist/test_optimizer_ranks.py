"""Two gloo ranks train with SGD as one does, go on from a snapshot to the last bit, and look inside alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from core.small import NO_DROPOUT, TARGETS, language_model, study_exposures, varied
from dist.ranks import on_ranks

from memexp.core import fork
from memexp.core.checkpoint import load_snapshot, save_snapshot
from memexp.core.data import encode
from memexp.core.hidden_states import hidden_states
from memexp.core.optimizer import fresh_optimizer
from memexp.spec import SGD, ShippedText, Study
from memexp.store import Store
from memexp.store.snapshots import Mark

STUDY = Study(ShippedText("sentences-targets"), exposures=2, lr=0.3, batch_size=3, optimizer=SGD(0.9), clip_norm=0.3)


def learned(folder: str) -> tuple[list[list[float | None]], float]:
    """Losses of two exposures in one go, the second from a fork, and from a snapshot; and how it differs without."""
    torch.set_num_threads(1)
    lm, again = (language_model("llama", initializer_range=0.1, **NO_DROPOUT["llama"]) for _ in range(2))
    rows, disk, mark = encode(lm.tokenizer, TARGETS[:20], 64), Store(Path(folder)), Mark("line", 7)
    optimizer = fresh_optimizer(lm, STUDY)
    first = study_exposures(lm, optimizer, STUDY, rows, 0, 1, 1)
    save_snapshot(disk, mark, "base", lm, optimizer, first)
    taken = fork.take(lm, optimizer)
    ends = [study_exposures(lm, optimizer, STUDY, rows, 0, 2, 2)]
    ends.append(study_exposures(lm, fork.restore(lm, taken, STUDY), STUDY, rows, 0, 2, 2))
    loaded = load_snapshot(disk, mark, "base", again, STUDY)
    assert loaded is not None
    ends.append(study_exposures(again, loaded.optimizer, STUDY, rows, 0, 2, 2))
    fork.restore(lm, taken, STUDY)
    plain = dataclasses.replace(STUDY, optimizer=SGD())
    without = study_exposures(lm, fresh_optimizer(lm, plain), plain, rows, 0, 2, 2)
    told = [[step.loss for step in [*first, *end]] for end in ends]
    return told, float(without[-1].loss or 0)


def looked() -> list[list[np.ndarray]]:
    """In an odd number of batches, the last of them of one row."""
    lm = language_model("llama", initializer_range=0.3)
    lm.budget = dataclasses.replace(lm.budget, scoring_tokens=600)
    rows = encode(lm.tokenizer, varied(29), 64)
    return [*hidden_states(lm, rows, [2, 0]), *hidden_states(lm, rows[:1], [1]), *hidden_states(lm, [], [1])]


def test_two_ranks_learn_with_momentum_as_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        expected, without = learned(str(tmp_path / "one"))
    finally:
        torch.set_num_threads(threads)
    two = on_ranks(2, tmp_path, learned, str(tmp_path / "two"))
    for told, _ in [(expected, without), *two]:
        assert told[0] == told[1] == told[2], "to the last bit"
        np.testing.assert_allclose(told[0], expected[0], rtol=1e-5)
    assert abs(without / float(expected[0][-1] or 0) - 1) > 1e-3


def test_two_ranks_see_the_states_that_one_sees(tmp_path: Path) -> None:
    expected = looked()
    for found in on_ranks(2, tmp_path, looked):
        for mine, its in zip(found, expected, strict=True):
            for one, other in zip(mine, its, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
