"""How gradients become steps: the optimizers of a study, and of pretraining and interference.

Study(corpus, exposures=3, lr=1e-3, optimizer=SGD(momentum=0.9))
"""

from __future__ import annotations

from memexp.spec.fields import Probability, spec

__all__ = ["SGD", "AdamW"]


@spec
class AdamW:
    """AdamW as torch has it, with its own betas (0.9, 0.999) and epsilon (1e-8); weight decay is decoupled."""

    @property
    def moments(self) -> int:
        """Numbers that are kept of each that learns."""
        return 2


@spec
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` has it, which keeps nothing from step to step, or one momentum.

    Weight decay is coupled, as in torch: ``weight_decay`` times the weight is added to the gradient, after clipping,
    and goes through the momentum. Yang et al. 2024 (arXiv 2403.09613) find anticipatory recovery with plain SGD.
    """

    momentum: Probability = 0.0
    """The share of the last step's direction that is kept; no dampening, not Nesterov's."""

    @property
    def moments(self) -> int:
        """As `AdamW.moments`."""
        return int(self.momentum > 0)
