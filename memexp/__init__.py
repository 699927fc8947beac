"""memexp: sweeps over memory in causal language models.

    from memexp import Condition, Model, Pair, Recall, Recognition, Study, Sweep

A sweep script builds a `Sweep`; ``memexp run`` executes what of it is missing and leaves one row per item in Parquet.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from memexp import stats as stats
    from memexp.errors import ClusterError, DataError, MemexpError, ModelError, SpecError, StoreError
    from memexp.plan.inspection import depth
    from memexp.probes import (
        QA,
        BaseForgetting,
        Capacity,
        Choice,
        Continuation,
        Exposure,
        Extraction,
        FactRatios,
        LayerAblation,
        LmEval,
        Membership,
        PrefixOffset,
        Priming,
        Quantized,
        Recall,
        Recognition,
        Savings,
        Spans,
        TruthRatio,
    )
    from memexp.results import open_store as open  # noqa: F401 - public, if not for `import *`
    from memexp.script import run_options
    from memexp.spec import (
        ASHA,
        EWC,
        SGD,
        AdamW,
        Choices,
        Condition,
        Cyclic,
        Forget,
        Full,
        Headline,
        HubItems,
        HubStream,
        HubText,
        InlineItems,
        InlineText,
        Integers,
        Interference,
        ItemFile,
        LoRA,
        MedianStopping,
        Model,
        Pair,
        Pretrain,
        Probe,
        RandomInit,
        Resources,
        Search,
        ShippedText,
        Snapshots,
        Spaced,
        Study,
        TextFile,
        TextStream,
        TrainedTokenizer,
        Uniform,
        Unlearn,
        counterbalanced,
        retention_steps,
    )
    from memexp.stimuli.biographies import Biographies
    from memexp.stimuli.canaries import Canaries
    from memexp.stimuli.facts import FactDataset, FactWorld
    from memexp.store import Store
    from memexp.sweep import Sweep

__all__ = [
    "ASHA",
    "EWC",
    "QA",
    "SGD",
    "AdamW",
    "BaseForgetting",
    "Biographies",
    "Canaries",
    "Capacity",
    "Choice",
    "Choices",
    "ClusterError",
    "Condition",
    "Continuation",
    "Cyclic",
    "DataError",
    "Exposure",
    "Extraction",
    "FactDataset",
    "FactRatios",
    "FactWorld",
    "Forget",
    "Full",
    "Headline",
    "HubItems",
    "HubStream",
    "HubText",
    "InlineItems",
    "InlineText",
    "Integers",
    "Interference",
    "ItemFile",
    "LayerAblation",
    "LmEval",
    "LoRA",
    "MedianStopping",
    "Membership",
    "MemexpError",
    "Model",
    "ModelError",
    "Pair",
    "PrefixOffset",
    "Pretrain",
    "Priming",
    "Probe",
    "Quantized",
    "RandomInit",
    "Recall",
    "Recognition",
    "Resources",
    "Savings",
    "Search",
    "ShippedText",
    "Snapshots",
    "Spaced",
    "Spans",
    "SpecError",
    "Store",
    "StoreError",
    "Study",
    "Sweep",
    "TextFile",
    "TextStream",
    "TrainedTokenizer",
    "TruthRatio",
    "Uniform",
    "Unlearn",
    "__version__",
    "counterbalanced",
    "depth",
    "retention_steps",
    "run_options",
]

_HOMES = {
    **dict.fromkeys(("FactDataset", "FactWorld"), "stimuli.facts"),
    "Biographies": "stimuli.biographies",
    "Canaries": "stimuli.canaries",
    "Store": "store",
    "depth": "plan.inspection",
    "open": "results",
    "Sweep": "sweep",
    "run_options": "script",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``memexp --help`` waits for none of them."""
    import importlib

    if name == "stats":  # a package; not in __all__, so that `from memexp import *` does not wait for scipy
        return importlib.import_module("memexp.stats")
    if name not in __all__ and name != "open":  # which is not in it: `import *` would hide Python's own
        raise AttributeError(f"module 'memexp' has no attribute {name!r}")
    home = _HOMES.get(name, "errors" if name.endswith("Error") else "spec")
    module = importlib.import_module(f"memexp.{home}")
    if name == "open":
        return module.open_store
    if not hasattr(module, name):
        module = importlib.import_module("memexp.probes")
    return getattr(module, name)
