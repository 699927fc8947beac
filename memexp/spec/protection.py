"""Protection of what was studied in training that comes afterwards.

Interference(corpus, steps=300, lr=1e-4, protect=EWC(strength=1e4))
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from memexp.errors import SpecError
from memexp.spec.fields import Positive, spec

__all__ = ["EWC"]


@spec
class EWC:
    """Elastic weight consolidation: what mattered for the studied texts is held where study left it.

    Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3: ``strength`` / 2 x the sum of F (w - w*)^2 is added to what
    is minimised, over all that learns; w* are the weights where interference begins, and F is the diagonal of Fisher's
    information there: the mean over the texts of the study list, as they are truncated in interference, of the square
    of the gradient of the text's log-likelihood.
    """

    strength: Annotated[float, Field(ge=0, le=1e30)]
    """How much it weighs; 0 is interference without it."""
    samples: Positive = 1
    """Draws for each text: at every place a token that the model itself might go on with, after the text's own tokens
    up to there."""
    empirical: bool = False
    """Whether the text's own tokens are taken instead of drawn ones."""

    def __post_init__(self) -> None:
        if self.empirical and self.samples > 1:
            raise SpecError("EWC.samples: nothing is drawn with empirical=True; leave it out")
