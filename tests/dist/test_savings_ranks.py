"""Two gloo ranks learn a list again as one process does, and are brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import NO_DROPOUT, TARGETS, language_model
from dist.ranks import on_ranks

from memexp.core.model import local
from memexp.core.session import Session
from memexp.probes import Savings
from memexp.spec import AdamW, Full, LoRA, ShippedText

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def found(method: Full | LoRA, criterion: float) -> dict[str, Any]:
    lm = language_model("llama", method, initializer_range=0.1, hidden_size=64, **NO_DROPOUT["llama"])
    before = {name: local(parameter).detach().clone() for name, parameter in lm.named_parameters()}
    probe = Savings(
        ShippedText("sentences-targets", first=7), criterion, 12, 2, lr=1e-2, batch_size=3, block_size=24,
        optimizer=AdamW(),
    )  # fmt: skip
    rows = probe.measure(Session(lm), {"corpus": TARGETS[:7]}).to_pylist()
    same = all(torch.equal(local(parameter), before[name]) for name, parameter in lm.named_parameters())
    return {"rows": rows, "same": same}


@pytest.mark.parametrize(("method", "criterion"), [(Full(), 3.0), (LoRA(r=4), 5.3)], ids=["full", "lora"])
def test_two_ranks_take_the_steps_of_one(method: Full | LoRA, criterion: float, tmp_path: Path) -> None:
    one, two = found(method, criterion), on_ranks(2, tmp_path, found, method, criterion)
    assert one["same"] and len({row["steps"] for row in one["rows"]}) > 1
    for rank in two:
        assert rank["same"]
        assert [row["steps"] for row in rank["rows"]] == [row["steps"] for row in one["rows"]]
        for mine, its in zip(one["rows"], rank["rows"], strict=True):
            np.testing.assert_allclose(its["nll_before"], mine["nll_before"], rtol=1e-5)
