"""Measurements made after a stage, one file each. Importing them needs no torch.

Write your own with `@memexp.spec` on a subclass of `memexp.Probe`: its fields are its identity, `kind` its table.
"""

from memexp.probes.ablation import LayerAblation
from memexp.probes.choice import Choice
from memexp.probes.lm_eval import LmEval
from memexp.probes.qa import QA
from memexp.probes.ratios import FactRatios
from memexp.probes.recall import Recall
from memexp.probes.recognition import Recognition

__all__ = ["QA", "Choice", "FactRatios", "LayerAblation", "LmEval", "Recall", "Recognition"]
