"""Two gloo ranks round the matrices that one process rounds, GPT-2's kind too, whose rows are a model's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import PEAKED, TARGETS, language_model
from dist.ranks import on_ranks
from torch.distributed.tensor import DTensor

from memexp.core.model import local
from memexp.core.session import Session
from memexp.spec import Full, LoRA

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:torch.distributed is disabled")


def found(architecture: str, method: Full | LoRA) -> dict[str, Any]:
    """Likelihoods by weights of three bits, with groups that no rank has whole; and whether all is back."""
    lm = language_model(architecture, method, initializer_range=PEAKED)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if ".lora_B" in name:  # nothing is added at first
                local(parameter).fill_(0.05)
    session = Session(lm)
    rows = session.encode(TARGETS[:7], 24)
    before = {name: local(parameter).detach().clone() for name, parameter in lm.named_parameters()}
    with session.rounded(3, 24):
        rounded = session.token_nlls(rows)
    same = all(torch.equal(local(parameter), before[name]) for name, parameter in lm.named_parameters())
    sharded = any(isinstance(parameter, DTensor) for parameter in lm.parameters())
    return {"sharded": sharded, "rounded": rounded, "plain": session.token_nlls(rows), "same": same}


@pytest.mark.parametrize("method", [Full(), LoRA(r=3)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_two_ranks_round_as_one(architecture: str, method: Full | LoRA, tmp_path: Path) -> None:
    one, two = found(architecture, method), on_ranks(2, tmp_path, found, architecture, method)
    assert not one["sharded"] and one["same"]
    for rank in two:
        assert rank["sharded"] and rank["same"]
        for kind in ("rounded", "plain"):
            for mine, its in zip(one[kind], rank[kind], strict=True):
                np.testing.assert_allclose(its, mine, rtol=1e-4, atol=2e-5, err_msg=kind)
    assert max(np.abs(a - b).max() for a, b in zip(one["rounded"], one["plain"], strict=True)) > 0.01
