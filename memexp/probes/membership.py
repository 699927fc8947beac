"""Membership: can it be told from a model's likelihoods which texts it has studied?

The measures of mimir and of the code for Min-K%++ (Zhang et al. 2024, arXiv 2404.02936; zjysteven/mink-plus-plus,
run.py), of each text by itself: who has one text has no foil to compare it with. How well each of them tells members
from others, and whether the lists give themselves away without any model, is asked of the rows:

    memexp.stats.membership(rows, by=["model", "exposures"])
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.errors import SpecError
from memexp.spec import Condition, Forget, Pair, Passed, Positive, Probe, TokenAsk, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.core.token_stats import TokenStats

__all__ = ["Membership"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("member", pa.bool_()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("loss", pa.float64()),
        ("zlib", pa.float64()),
        ("min_k", pa.float64()),
        ("min_k_plus", pa.float64()),
        ("reference", pa.float64()),
    ]
)
"""One row per text, targets first. ``item``: its number in its list; ``member``: whether it is a target; ``tokens``: of
the truncated text, the first (never predicted) included; ``loss``: mean NLL per predicted token, in nats; ``zlib``:
mean log p over the bytes of the whole text as zlib compresses it; ``min_k``: mean of the lowest k percent of the
tokens' log p; ``min_k_plus``: the same of (log p - mu) / sigma, where mu = sum p log p over the vocabulary, and
sigma^2 = sum p log^2 p - mu^2, at least 1e-6; ``reference``: the loss of the model before study, less ``loss``, NULL
where it was not asked for. A member is expected to have a low ``loss``, and all else high. NULL: texts of one token,
outputs that are no numbers."""

LEAST_VARIANCE = 1e-6
"""Of log p, in nats squared: where the model is certain sigma would be 0, and the published code divides by it."""


@spec
class Membership(Probe):
    """Loss, zlib ratio, Min-K%, Min-K%++ and difference to the model before study, of every target and foil by itself.

    No mean over the rows says how well members are told apart, so there is no headline: `memexp.stats.membership` does.
    """

    kind: ClassVar[str] = "membership"

    pair: Pair
    """Members, which are studied, and texts that are not; they need not match, nor be as many."""
    k: Positive = 20
    """Percent of a text's tokens that ``min_k`` and ``min_k_plus`` are means over, rounded down, at least one."""
    reference: bool = True
    """Whether the texts are also given to the model as it was before study, which takes as long again."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    def __post_init__(self) -> None:
        if self.k > 100:
            raise SpecError(f"Membership.k: is a percentage, from 1 to 100, got {self.k}")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Membership:
        """With the study's block size where none is given."""
        return dataclasses.replace(self, block_size=self.block_size or condition.study.block_size)

    def passed(self, texts: Mapping[str, Sequence[str]]) -> Passed:
        """All texts."""
        assert self.block_size is not None  # bound
        return Passed([*texts["targets"], *texts["foils"]], self.block_size, TokenAsk())

    def texts_of(self, items: pa.Table, texts: Mapping[str, Sequence[str]]) -> Sequence[str | None]:
        """Foils too."""
        return [str(text) for text in items.column("text").to_pylist()]

    def readings(self) -> float:
        """By the model before study as well, where that is the reference."""
        return 1.0 + self.reference

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text: the targets in order, then the foils."""
        assert self.block_size is not None  # bound
        listed = [*texts["targets"], *texts["foils"]]
        rows = session.encode(listed, self.block_size)
        stats = session.token_stats(rows)
        before = self._before(session, rows)
        found = []
        for at, (text, row, each) in enumerate(zip(listed, rows, stats, strict=True)):
            member = at < len(texts["targets"])
            found.append(
                {
                    "item": at if member else at - len(texts["targets"]),
                    "member": member,
                    "text": text,
                    "tokens": len(row),
                    **scores(each, text, self.k),
                    "reference": _minus(_mean(before[at]), _mean(each.nll)),
                }
            )
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _before(self, session: Session, rows: Sequence[Sequence[int]]) -> Sequence[NDArray[np.float32]]:
        """Each token's NLL by the model before study, whose every block and all outside of them is brought back."""
        if not self.reference:
            return [np.empty(0, np.float32)] * len(rows)
        with session.ablated(Forget(below_layer=session.depth)):
            return session.token_nlls(rows)


def scores(each: TokenStats, text: str, k: int) -> dict[str, Any]:
    """The measures of one text that need one model; None where nothing is predicted or something is no number.

    Args:
        each: of its tokens.
        text: the whole text.
        k: percent of the tokens.
    """
    loss = _mean(each.nll)
    if loss is None:
        return {}
    logs = -each.nll.astype(np.float64)
    normed = (logs - each.mean_log) / np.sqrt(np.maximum(each.variance_log, LEAST_VARIANCE))
    return {
        "loss": loss,
        "zlib": -loss / len(zlib.compress(text.encode())),
        "min_k": _lowest(logs, k),
        "min_k_plus": _lowest(normed, k),
    }


def _lowest(values: NDArray[np.float64], k: int) -> float | None:
    """Mean of the lowest k percent."""
    found = float(np.sort(values)[: max(1, len(values) * k // 100)].mean())
    return None if np.isnan(values).any() else found


def _mean(nll: NDArray[np.float32]) -> float | None:
    """In float64 over float32, as of `Recognition`; None of nothing and of no numbers."""
    found = float(nll.astype(np.float64).mean()) if nll.size else None
    return None if found is None or np.isnan(found) else found


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
