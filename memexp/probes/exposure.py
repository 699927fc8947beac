"""Exposure: how far ahead of all secrets that it could have been is the one that was studied?

Carlini et al. 2019 (arXiv 1802.08232), section 4: a canary has the rank r among candidates, ordered by how likely the
model finds them, and the exposure log2 |R| - log2 r, in bits: of R candidates guessed in this order r are to be tried.
As in the published code (tensorflow/privacy, secret_sharer/exposures.py) candidates are secrets that nothing was
trained on, and r is 1 and the number of those that are likelier. From a sample no exposure beyond log2 |R| shows; for
what lies beyond, a skew normal distribution is fitted to the candidates' log-perplexities, and the exposure is -log2 of
the share that it has below the canary's. With a `Pair` the candidates are its foils, and all that passes through the
model are its texts: recognition, membership and extraction of the same pair go along.

    SELECT exposures, avg(exposure), avg(fitted) FROM exposure GROUP BY ALL
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.errors import DataError, SpecError
from memexp.spec import Condition, Corpus, Count, Headline, Pair, Passed, Positive, Probe, spec
from memexp.stimuli.canaries import MOST, Canaries

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["Exposure"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("canary", pa.int64()),
        ("copies", pa.int64()),
        ("secret", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("nll", pa.float64()),
        ("rank", pa.int64()),
        ("candidates", pa.int64()),
        ("exposure", pa.float64()),
        ("fitted", pa.float64()),
    ]
)
"""One row per canary. ``item``: its place in the list it stands in, the first of several; ``canary``: its number;
``copies``: how often the list has it; ``tokens``: of the text, the first (never predicted) included; ``nll``: NLL of
the text, summed over its tokens, in nats (log-perplexity); ``rank``: 1 and the number of candidates with a lower one;
``candidates``: their number |R|, without the canaries; ``exposure``: log2 |R| - log2 rank, in bits, at most log2 |R|
and a little below 0 for the last; ``fitted``: -log2 of what a skew normal distribution fitted to the candidates has
below ``nll``, in bits, NULL where the candidates are too few or too alike for a fit. All that is measured is NULL where
the model's outputs are no numbers."""

SAMPLE = 1000
"""Candidates that are drawn unless another number is given."""
FEWEST = 10
"""Candidates that three parameters are fitted to."""
FAR = 1e-3
"""A share below which the skew normal's cdf, a difference of two numbers, is integrated instead."""
NEAR = 1e-10
"""A share down to which that difference has some digits."""


@spec
class Exposure(Probe):
    """The rank of every canary among secrets that were not studied, and its exposure in bits.

    Compare with conditions of 0 exposures: of ranks that are chance the mean is not 0 but 1 / ln 2 = 1.44 bits.
    """

    kind: ClassVar[str] = "exposure"
    headline: ClassVar[Headline] = Headline(
        "exposure of canaries (bits)", "exposure", why_null="a model whose outputs are no numbers ranks nothing"
    )

    canaries: Canaries
    """What was studied, and what else it could have been."""
    corpus: Corpus | None = None
    """The list that the canaries stand in, maybe among other texts; by default the study list."""
    candidates: Positive | Literal["all"] = SAMPLE
    """How many other secrets a canary is ranked among: so many drawn ones, or all there are."""
    seed: Count = 0
    """Of the draw of candidates, which all canaries, models and stages share."""
    block_size: Positive | None = None
    """Tokens that a text may have; by default as many as in study."""
    pair: Pair | None = None
    """Instead of `corpus`, `candidates` and `seed`: the list that the canaries stand in, and other secrets in the same
    sentence as its foils, among which they are ranked; such as ``canaries.pair()``."""

    def __post_init__(self) -> None:
        if self.pair is not None:
            if (self.corpus, self.candidates, self.seed) != (None, SAMPLE, 0):
                raise SpecError(
                    "Exposure.pair: has the list and what canaries are ranked among; leave corpus, candidates and seed "
                    "away, or pair"
                )
            return
        others = self.canaries.space - self.canaries.count
        wanted = 1 if self.candidates == "all" else self.candidates
        if others < wanted:
            raise SpecError(
                f"Exposure.candidates: {others} of {self.canaries.space} secrets are no canary's, fewer than {wanted}; "
                "give Canaries a larger length or alphabet, or candidates='all'"
            )
        if self.candidates == "all" and others > MOST:
            raise SpecError(f"Exposure.candidates: 'all' are {others}, at most {MOST} are asked; give a number to draw")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Exposure:
        """With the study list and its block size where none are given."""
        return dataclasses.replace(
            self,
            corpus=None if self.pair is not None else self.corpus or condition.study.corpus,
            block_size=self.block_size or condition.study.block_size,
        )

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Every canary is in the list, and every foil has a secret of its own."""
        where = "corpus" if self.pair is None else "targets"
        listed = set(texts[where])
        for number, text in enumerate(map(self.canaries.text, self.canaries.secrets)):
            if text not in listed:
                raise DataError(
                    f"Exposure.canaries: canary {number}, {text!r}, is not in {names[where]}; study "
                    "canaries.corpus() or a list with its texts, or name one with corpus=... or pair=..."
                )
        taken = set(self.canaries.secrets)
        for line, text in enumerate(texts.get("foils", ()), 1):
            secret = self.canaries.secret(text)
            if secret is None or secret in taken:
                wrong = "has no secret that a canary could have" if secret is None else "has a secret that another has"
                raise DataError(
                    f"Exposure.pair: text {line} of {names['foils']}, {text!r}, {wrong}; canaries.pair() makes foils"
                )
            taken.add(secret)

    def readings(self) -> float:
        """Candidates are about as long as canaries."""
        if self.pair is not None:
            return 1.0
        others = self.canaries.space - self.canaries.count if self.candidates == "all" else self.candidates
        return 1 + others / self.canaries.count

    def uncut(self, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """The canaries, and the foils of a pair."""
        return [*map(self.canaries.text, self.canaries.secrets), *texts.get("foils", ())]

    def passed(self, texts: Mapping[str, Sequence[str]]) -> Passed | None:
        """The texts of the pair, where there is one."""
        assert self.block_size is not None  # bound
        if self.pair is None:
            return None
        return Passed([*texts["targets"], *texts["foils"]], self.block_size, None)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per canary, in order.

        Raises DataError where a text does not fit the block size: of a secret that is cut off there is no rank.
        """
        if self.pair is None:
            listed = list(texts["corpus"])
            asked = [*self.canaries.secrets, *self.canaries.candidates(self.candidates, self.seed)]
            passing, others = list(map(self.canaries.text, asked)), self.canaries.count
        else:
            listed, others = list(texts["targets"]), len(texts["targets"])
            passing = [*listed, *texts["foils"]]
        rows = self._encoded(session, passing)
        nlls = np.array([each.sum(dtype=np.float64) for each in session.token_nlls(rows)])
        among = nlls[others:]
        fit = fitted_tail(among)
        found: list[dict[str, Any]] = []
        first = {text: at for at, text in reversed([*enumerate(passing)])}
        items, copies = {text: at for at, text in reversed([*enumerate(listed)])}, Counter(listed)
        for number, secret in enumerate(self.canaries.secrets):
            text = self.canaries.text(secret)
            at = first[text]
            place = {"item": items[text], "canary": number, "copies": copies[text], "secret": secret}
            measured = {} if np.isnan(among).any() or np.isnan(nlls[at]) else ranked(float(nlls[at]), among, fit)
            found.append({**place, "text": text, "tokens": len(rows[at]), "candidates": len(among), **measured})
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _encoded(self, session: Session, texts: Sequence[str]) -> list[list[int]]:
        assert self.block_size is not None  # bound
        rows = session.encode(texts, self.block_size)
        full = [text for text, row in zip(texts, rows, strict=True) if len(row) == self.block_size]
        secrets = [text for text in full if self.canaries.secret(text) is not None]  # others may be cut off
        for text in secrets:
            if len(session.encode([text], self.block_size + 1)[0]) > self.block_size:
                raise DataError(
                    f"Exposure.block_size: {text!r} has more than {self.block_size} tokens; give a larger one"
                )
        return rows


SkewNormal = tuple[float, float, float]
"""Shape, location and scale."""


def ranked(nll: float, among: NDArray[np.float64], fit: SkewNormal | None) -> dict[str, Any]:
    """The columns that are measured.

    Args:
        nll: of the canary.
        among: those of the candidates.
        fit: what was fitted to them.
    """
    rank = 1 + int((among < nll).sum())
    return {
        "nll": nll,
        "rank": rank,
        "exposure": math.log2(len(among)) - math.log2(rank),
        "fitted": None if fit is None else -log_share_below(nll, fit) / math.log(2),
    }


def fitted_tail(among: NDArray[np.float64]) -> SkewNormal | None:
    """The skew normal distribution of greatest likelihood; None where there is none to fit."""
    from scipy.stats import skewnorm

    if len(among) < FEWEST or not np.isfinite(among).all() or among.std() <= 1e-9 * abs(among.mean()):
        return None
    # About 0 and of spread 1, where the search begins and its steps are meant for.
    middle, spread = float(among.mean()), float(among.std())
    shape, location, scale = map(float, skewnorm.fit((among - middle) / spread))
    return shape, middle + spread * location, spread * scale


def log_share_below(value: float, fit: SkewNormal) -> float:
    """Logarithm of the cdf, exact where the cdf itself is no number of float64 any more."""
    from scipy.integrate import quad
    from scipy.special import log_ndtr, ndtr, owens_t

    shape, location, scale = fit
    z = (value - location) / scale
    share = float(ndtr(z) - 2 * owens_t(z, shape))
    if share > FAR:
        return math.log(min(share, 1.0))

    def log_density(at: float) -> float:
        return float(math.log(2) - at**2 / 2 - math.log(2 * math.pi) / 2 + log_ndtr(shape * at))

    # It falls ever faster from z downwards: at first at its slope there, and soon at that of its curvature.
    top, below = log_density(z), shape * z
    slope = -z + shape * math.exp(-(below**2) / 2 - math.log(2 * math.pi) / 2 - float(log_ndtr(below)))
    rate = max(slope, math.sqrt(1 + shape**2))
    rest, *said = quad(lambda u: math.exp(min(log_density(z - u / rate) - top, 0.0)), 0, math.inf, full_output=1)
    if share > NEAR and (len(said) > 2 or rest <= 0):  # a shape so extreme that the density ends like a wall
        return math.log(share)
    return top + math.log((rest if rest > 0 else 1.0) / rate)
