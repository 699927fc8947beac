"""Unlearning: training that is to take back what study of certain texts has done, and nothing else.

Unlearn("npo", steps=20, lr=1e-4, retain=TextFile("kept.jsonl"))
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from memexp.errors import SpecError
from memexp.spec.corpora import Corpus
from memexp.spec.fields import Count, NonNegative, Positive, Probability, Rate, spec
from memexp.spec.optimizers import SGD, AdamW

__all__ = ["Unlearn"]

BETA = 0.1
"""Of NPO, as published."""


@spec
class Unlearn:
    """Training against the texts of a forget list, after study and before interference.

    Gradient ascent, gradient difference and KL are those of TOFU (Maini et al. 2024, arXiv 2401.06121, section 4), NPO
    is that of Zhang et al. 2024 (arXiv 2404.05868). Every step takes texts of the forget list and, where there is a
    retain list, of that one too, pass after pass over each in orders of their own. Losses are means over all tokens
    of a list in the global batch, NPO's over its texts. What is recorded as the loss of a step is the mean NLL of the
    texts to be forgotten, which is to rise. All numbers of steps lie on one trajectory.
    """

    loss: Literal["ascent", "difference", "npo", "kl"]
    """What is minimised. ``ascent``: -NLL of the forget list; ``difference``: the same + ``weight`` x NLL of the retain
    list; ``kl``: -NLL of the forget list + ``weight`` x KL(before || now), of every next token of the retain list, in
    which before is the model as it was when unlearning began; ``npo``: the mean over texts of
    -2 / ``beta`` x log sigmoid(``beta`` x (NLL - NLL before)), a text's NLL being the sum over its tokens, and with a
    retain list + ``weight`` x its NLL."""
    steps: Count
    """Optimizer steps; 0 is right before unlearning."""
    lr: Rate
    """Learning rate, constant."""
    forget: Corpus | None = None
    """The texts to be forgotten; by default the study list."""
    retain: Corpus | None = None
    """Texts to be kept: ``difference`` and ``kl`` need them, ``npo`` may have them, ``ascent`` has none."""
    batch_size: Positive = 16
    """Texts of each list per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    beta: Annotated[float, Field(ge=1e-6, le=1e6)] = BETA
    """Of ``npo``: the smaller it is, the more like ascent; the larger, the sooner a text counts as forgotten."""
    weight: Rate = 1.0
    """Of the retain list's term."""
    optimizer: AdamW | SGD = AdamW()
    """What makes steps of gradients, new as unlearning begins."""
    dropout: Probability | None = None
    """As in `Study`; what is compared with the model as it was is that without dropout."""
    weight_decay: NonNegative = 0.0
    """As in `Study`."""
    clip_norm: Rate | None = None
    """As in `Study`."""

    def __post_init__(self) -> None:
        if self.retain is None and self.loss in ("difference", "kl"):
            raise SpecError(f"Unlearn.retain: loss={self.loss!r} needs a list of texts to be kept")
        if self.retain is not None and self.loss == "ascent":
            raise SpecError("Unlearn.retain: loss='ascent' has none; give loss='difference', or leave it out")
        if self.retain is not None and self.retain == self.forget:
            raise SpecError(f"Unlearn.retain: {self.retain.name} is to be forgotten; give the texts to be kept")
        if self.beta != BETA and self.loss != "npo":
            raise SpecError(f"Unlearn.beta: is of loss='npo', got loss={self.loss!r}")
        if self.weight != 1.0 and self.retain is None:
            raise SpecError("Unlearn.weight: is of the retain list, and there is none")
