"""Measurements made after a stage, one file each. Importing them needs no torch.

Write your own with `@memexp.spec` on a subclass of `memexp.Probe`: its fields are its identity, `kind` its table.
"""

from memexp.probes.recall import Recall
from memexp.probes.recognition import Recognition

__all__ = ["Recall", "Recognition"]
