"""Statistics that hold up, over the rows of any Arrow, pandas or polars table.

    from memexp import stats

    correct = "target_nll < foil_nll"  # or a column, or an array
    stats.summary(rows, correct, by=["model", "exposures"])  # an Arrow table: mean, low, high, n, items, seeds ...
    stats.compare(rows_a, rows_b, correct, by=["model", "lr"])

Every mean has its n beside it, and every interval says what it generalises over. The same items are met under every
seed (crossed), and lists hold items (nested). An interval over items is about other items under these very seeds, one
over both about other items under other seeds, and is the widest. Fewer than three seeds or lists give none over them.
"""

from __future__ import annotations

from memexp.stats.acquisition import effectivity, retainability
from memexp.stats.choosing import best
from memexp.stats.comparison import compare
from memexp.stats.curves import CURVES, Fit, fit_curve
from memexp.stats.detection import TwoAFC, auc, dprime, recognition, two_afc
from memexp.stats.differences import Difference, difference, holm, mcnemar
from memexp.stats.forgotten import ForgetQuality, Utility, forget_quality, model_utility
from memexp.stats.means import OVER, Mean, mean_interval, summary
from memexp.stats.members import blind_auc, membership, tpr_at
from memexp.stats.memorisation import counterfactual, difference_in_differences
from memexp.stats.privacy import privleak
from memexp.stats.recovery import recovery
from memexp.stats.retained import retention
from memexp.stats.saved import savings

__all__ = [
    "CURVES",
    "OVER",
    "Difference",
    "Fit",
    "ForgetQuality",
    "Mean",
    "TwoAFC",
    "Utility",
    "auc",
    "best",
    "blind_auc",
    "compare",
    "counterfactual",
    "difference",
    "difference_in_differences",
    "dprime",
    "effectivity",
    "fit_curve",
    "forget_quality",
    "holm",
    "mcnemar",
    "mean_interval",
    "membership",
    "model_utility",
    "privleak",
    "recognition",
    "recovery",
    "retainability",
    "retention",
    "savings",
    "summary",
    "tpr_at",
    "two_afc",
]
