"""Two gloo ranks that share one model say of every token what one process says, and measure what it measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from core.small import FOILS, PEAKED, TARGETS, language_model, varied
from dist.ranks import on_ranks
from torch.distributed.tensor import DTensor

from memexp.core.data import encode
from memexp.core.fork import take
from memexp.core.session import Session
from memexp.probes import BaseForgetting, Extraction, Membership
from memexp.spec import Pair, ShippedText

LISTS = ShippedText("sentences-targets", first=9), ShippedText("sentences-foils", first=6)


def found() -> dict[str, Any]:
    """An odd number of texts, some too short and two equal."""
    lm = language_model("llama", initializer_range=PEAKED)
    session = Session(lm, take(lm, None))
    rows = [[5], *encode(lm.tokenizer, [*varied(20), *TARGETS[:5]], 64), [], [7, 8], [7, 8]]
    texts = {"targets": TARGETS[:9], "foils": FOILS[:6], "corpus": TARGETS[:9]}
    extraction = Extraction(LISTS[0], prefixes=[4, 8], suffix=6, block_size=24)
    return {
        "sharded": any(isinstance(parameter, DTensor) for parameter in lm.parameters()),
        "stats": [vars(each) for each in session.token_stats(rows, [0.7], top=3, within=20)],
        "extraction": extraction.measure(session, texts).to_pylist(),
        "membership": Membership(Pair(*LISTS), block_size=24).measure(session, texts).to_pylist(),
        "base_forgetting": BaseForgetting(LISTS[0], block_size=24).measure(session, texts).to_pylist(),
    }


def test_two_ranks_say_of_every_token_what_one_says(tmp_path: Path) -> None:
    one, two = found(), on_ranks(2, tmp_path, found)
    assert not one["sharded"] and all(rank["sharded"] for rank in two)
    for rank in two:
        assert len(rank["stats"]) == len(one["stats"]) == 29
        for mine, its in zip(one["stats"], rank["stats"], strict=True):
            for name in ("rank", "greedy", "top_tokens"):
                np.testing.assert_array_equal(its[name], mine[name])
            for name in ("nll", "mean_log", "variance_log", "tempered", "top_logs"):
                np.testing.assert_allclose(its[name], mine[name], rtol=1e-5, atol=2e-5, err_msg=name)
        for kind in ("extraction", "membership", "base_forgetting"):
            assert len(rank[kind]) == len(one[kind])
            for mine, its in zip(one[kind], rank[kind], strict=True):
                for name, value in mine.items():
                    if isinstance(value, float):
                        np.testing.assert_allclose(its[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
                    else:
                        assert its[name] == value, name
