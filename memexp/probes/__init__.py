"""Measurements made after a stage, one file each: its fields, its columns, its headline. Importing them needs no torch.

Write your own with `@memexp.spec` on a subclass of `memexp.Probe`: its fields are its identity, `kind` its table.
One that is to come with memexp is a file here and one line of `BY_KIND`; everybody else asks there.

A probe sees a `memexp.core.session.Session` and texts, never a plan, a store or Ray. The plan, trials, reports and the
exchange import from here.
"""

from memexp.probes.ablation import LayerAblation
from memexp.probes.base_forgetting import BaseForgetting
from memexp.probes.capacity import Capacity
from memexp.probes.choice import Choice
from memexp.probes.continuation import Continuation
from memexp.probes.exposure import Exposure
from memexp.probes.extraction import Extraction
from memexp.probes.lm_eval import LmEval
from memexp.probes.membership import Membership
from memexp.probes.prefix_offset import PrefixOffset
from memexp.probes.priming import Priming
from memexp.probes.qa import QA
from memexp.probes.quantized import Quantized
from memexp.probes.ratios import FactRatios
from memexp.probes.recall import Recall
from memexp.probes.recognition import Recognition
from memexp.probes.savings import Savings
from memexp.probes.spans import Spans
from memexp.probes.truth_ratio import TruthRatio
from memexp.spec import Probe

__all__ = [
    "BY_KIND",
    "QA",
    "BaseForgetting",
    "Capacity",
    "Choice",
    "Continuation",
    "Exposure",
    "Extraction",
    "FactRatios",
    "LayerAblation",
    "LmEval",
    "Membership",
    "PrefixOffset",
    "Priming",
    "Quantized",
    "Recall",
    "Recognition",
    "Savings",
    "Spans",
    "TruthRatio",
]

BY_KIND: dict[str, type[Probe]] = {
    probe.kind: probe
    for probe in (
        *(Recognition, Recall, QA, Choice, LmEval, LayerAblation, FactRatios, Extraction, Membership),
        *(Exposure, Spans, Capacity, BaseForgetting, PrefixOffset, Priming, Quantized, Savings, TruthRatio),
        Continuation,
    )
}
"""memexp's own probes by the name of their table, which no other may write to."""
