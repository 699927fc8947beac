"""Two gloo ranks that share one model measure what one process measures, before study and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from core.every_measure import PROBES
from core.small import TARGETS, language_model
from dist.ranks import on_ranks
from torch.distributed.tensor import DTensor

from memexp.core.data import encode
from memexp.core.fork import take
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.core.train import update
from memexp.plan.asks import probe_corpora
from memexp.sources import read_texts
from memexp.spec import SGD, ShippedText, Study

STUDY = Study(ShippedText("sentences-targets"), exposures=1, lr=0.1, optimizer=SGD())
"""Of this optimizer a gradient's last digits stay the last digits of the weights."""


def found() -> dict[str, Any]:
    """What every probe measures of a model that has taken a few steps."""
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    before, optimizer = take(lm, None), fresh_optimizer(lm, STUDY)
    for _ in range(5):
        update(lm, optimizer, encode(lm.tokenizer, TARGETS[:7], 24), STUDY.lr, 1.0)
    made: dict[str, Any] = {"sharded": any(isinstance(one, DTensor) for one in lm.parameters())}
    for probe in PROBES:
        texts = {name: read_texts(corpus).items for name, corpus in probe_corpora(probe)}
        made[probe.kind] = probe.measure(Session(lm, before), texts).to_pylist()
    return made


def assert_near(its: Any, mine: Any, where: str) -> None:
    """Numbers up to rounding, all else the same."""
    if isinstance(mine, float) or (isinstance(mine, list) and mine and isinstance(mine[0], float)):
        np.testing.assert_allclose(its, mine, rtol=1e-3, atol=1e-5, err_msg=where)
    else:
        assert its == mine, where


def test_two_ranks_measure_what_one_measures(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = found()
    finally:
        torch.set_num_threads(threads)
    for rank in on_ranks(2, tmp_path, found):
        assert rank["sharded"] and not one["sharded"]
        for probe in PROBES:
            assert len(rank[probe.kind]) == len(one[probe.kind]) > 0, probe.kind
            for its, mine in zip(rank[probe.kind], one[probe.kind], strict=True):
                for name, value in mine.items():
                    assert_near(its[name], value, f"{probe.kind}.{name}")
    assert all(row["ratio"] is not None and abs(row["ratio"] - 1) > 1e-4 for row in one["priming"])
    assert any(row["bits"] != row["bits_before"] for row in one["capacity"])
