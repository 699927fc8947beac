"""Two gloo ranks that share one model unlearn and protect as one process does, and go back to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from core.small import FOILS, NO_DROPOUT, TARGETS, language_model
from dist.ranks import on_ranks
from torch.distributed.tensor import DTensor

from memexp.core.batches import PassingBatches, Retaining
from memexp.core.consolidation import Consolidation
from memexp.core.data import encode
from memexp.core.objectives import Unlearning, as_before, kept, remembered
from memexp.core.optimizer import fresh_optimizer
from memexp.core.train import train
from memexp.spec import EWC, SGD, Interference, ShippedText, Unlearn

LIST = ShippedText("sentences-foils")
WAYS = {
    "difference": Unlearn("difference", 6, 0.1, retain=LIST, batch_size=3, optimizer=SGD(), clip_norm=1.0),
    "npo": Unlearn("npo", 6, 0.01, retain=LIST, batch_size=3, optimizer=SGD()),
    "kl": Unlearn("kl", 6, 0.1, retain=LIST, batch_size=3, optimizer=SGD(), weight=3.0),
    "ewc": Interference(LIST, 6, 0.1, 3, optimizer=SGD(), protect=EWC(3.0)),
    "plain": Interference(LIST, 6, 0.1, 3, optimizer=SGD()),
}


def learned() -> dict[str, Any]:
    """Losses of six steps of each, in batches of three texts: one of the ranks has none of the last."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, settings in WAYS.items():
        lm = language_model("llama", initializer_range=0.1, **NO_DROPOUT["llama"])
        mine, other = encode(lm.tokenizer, TARGETS[:5], 64), encode(lm.tokenizer, FOILS[:7], 64)
        objective: Any = None
        if isinstance(settings, Unlearn):
            passes = PassingBatches(settings, mine, 0), PassingBatches(settings, other, 0, "retain")
            batches: Any = Retaining(*passes)
            objective = Unlearning(settings, remembered(lm, settings, mine))
        else:
            batches = PassingBatches(settings, other, 0)
            if settings.protect is not None:
                objective = Consolidation(lm, settings.protect, mine, 0)
        made = train(lm, fresh_optimizer(lm, settings), settings, batches, 1, 6, objective=objective)
        found[name] = [step.loss for step in made]
    held, row = kept(lm), torch.tensor([mine[0]])
    lengths = torch.tensor([row.shape[1]])
    with torch.no_grad():
        for parameter in lm.learning().values():
            parameter.mul_(1.1)
        before = lm.nll(row, lengths).clone()
        with as_before(lm, held):
            found["as before"] = lm.nll(row, lengths).numpy()
        found["back"] = torch.equal(before, lm.nll(row, lengths))
    found["sharded"] = any(isinstance(parameter, DTensor) for parameter in lm.parameters())
    return found


def test_two_ranks_unlearn_and_protect_as_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        one = learned()
    finally:
        torch.set_num_threads(threads)
    for rank in on_ranks(2, tmp_path, learned):
        assert rank["sharded"] and not one["sharded"] and rank["back"] and one["back"]
        for name in WAYS:
            np.testing.assert_allclose(rank[name], one[name], rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(rank["as before"], one["as before"], rtol=1e-4, atol=1e-4)
    assert abs(one["ewc"][-1] / one["plain"][-1] - 1) > 1e-4, "EWC is told from none"
    assert all(one[name][-1] > one[name][0] for name in ("difference", "npo", "kl"))
