"""How exposures lie in time, and which texts each of them has."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from memexp.errors import SpecError
from memexp.spec.corpora import StreamedCorpus
from memexp.spec.fields import Count, Positive, spec

if TYPE_CHECKING:
    from memexp.spec.training import Study

__all__ = ["Cyclic", "Passes", "Presentation", "Spaced"]


MOST_FILLER = 1_000_000_000
"""Steps of it in a study."""


@spec
class Spaced:
    """Exposures apart in time: between two of them the model trains on filler text.

    Study's optimizer goes on through it, with study's batch size, block size and peak learning rate. What spacing does
    to people's memory is old (Cepeda et al. 2006); this design is memexp's own. Schedules with a common beginning share
    it: the same gap at first, or one that is longer.
    """

    filler: StreamedCorpus
    """Unrelated texts, pass after pass in orders of their own; none comes twice before all have come once."""
    gap: Count
    """Optimizer steps of filler between the first exposure and the second; 0 has none."""
    factor: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Each gap is so many times the one before, rounded to steps: 1 is evenly spaced, anything above expanding."""
    beside: Count = 0
    """Filler texts in every batch of study, beside those of the list: interleaved. In orders of their own, too."""

    def steps_before(self, exposure: int) -> int:
        """Optimizer steps of filler before an exposure, counting from 1, over all gaps so far.

        Raises SpecError where they are more than anybody trains.
        """
        total = 0
        for number in range(exposure - 1 if self.gap else 0):
            grown = math.exp(min(number * math.log(self.factor), 99))  # which a power of it may be too large to tell
            gap = self.gap * self.factor**number if grown <= MOST_FILLER else math.inf
            if total + gap > MOST_FILLER:
                raise SpecError(
                    f"Spaced: with gap={self.gap} and factor={self.factor:g} more than {MOST_FILLER:,} steps of filler "
                    f"lie before exposure {exposure}; give less of one of them"
                )
            total += round(gap)
        return total


@spec
class Cyclic:
    """Every exposure takes the texts in the order of the list, each batch for some steps in a row.

    Yang et al. 2024 (arXiv 2403.09613), who find that a model recovers from forgetting a document before it meets it
    again: 25 documents, ``batch_size=1``, 5 steps each, five cycles (``exposures=5``).
    """

    steps: Positive = 1
    """Optimizer steps in a row on the same batch."""


Presentation = Spaced | Cyclic


class Passes:
    """The passes of a study over a list: which texts each has, and which steps are its own. Steps count from 1."""

    def __init__(self, study: Study, count: int) -> None:
        """`count`: texts of the list."""
        self.study, self.count = study, count
        self.repeats = study.presentation.steps if isinstance(study.presentation, Cyclic) else 1
        times = study.times or (1,)
        self._times, self._cycle = times, max(times)
        # Of most studies every exposure has all texts, and a large plan has a hundred thousand studies.
        steps = [self.steps(exposure) for exposure in range(1, self._cycle + 1)] if study.times else [self.steps(1)]
        self._ends = [0, *itertools.accumulate(steps)]

    def texts(self, exposure: int) -> Sequence[int]:
        """The places of its texts in the list, in order."""
        if self.study.times is None:
            return range(self.count)
        at = (exposure - 1) % self._cycle
        has = [n * (at + 1) // self._cycle > n * at // self._cycle for n in self._times]
        return [place for place in range(self.count) if has[place % len(has)]]

    def steps(self, exposure: int) -> int:
        """Optimizer steps of an exposure, counting from 1."""
        return math.ceil(len(self.texts(exposure)) / self.study.batch_size) * self.repeats

    def steps_until(self, exposure: int) -> int:
        """The last step of an exposure; of 0, where nothing has begun, 0."""
        cycles, at = divmod(exposure, self._cycle)
        return cycles * self._ends[-1] + self._ends[at]

    def exposure_at(self, step: int) -> int:
        """The exposure that a step belongs to."""
        cycles, at = divmod(step - 1, self._ends[-1])
        return cycles * self._cycle + bisect.bisect_right(self._ends, at)
