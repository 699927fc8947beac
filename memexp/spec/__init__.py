"""What to do, as frozen and validated data: models, methods, corpora, study, conditions, resources.

A sweep script builds these objects; nothing here reads a file, knows torch or knows Ray. Every field
is checked when the object is made, so a wrong value fails on the line that holds it:

    Condition(model=Model("gpt2"), study=Study(TextFile("seen.jsonl"), exposures=3, lr=3e-5),
              probes=[Recall()])

Imports nothing of memexp but errors, so that everybody may import it.
"""

from memexp.spec.condition import Condition, Probe, counterbalanced, field_names, probes_within, runs_users_code
from memexp.spec.corpora import (
    Corpus,
    HubItems,
    HubStream,
    HubText,
    InlineItems,
    InlineText,
    ItemFile,
    Items,
    Pair,
    PerturbedItems,
    ShippedText,
    StreamedCorpus,
    TextFile,
    TextStream,
)
from memexp.spec.fields import Count, Name, PathText, Positive, SomeText, Text, spec
from memexp.spec.headline import Headline
from memexp.spec.located import located, written_by_user
from memexp.spec.models import Full, LoRA, Model, RandomInit, TrainedTokenizer
from memexp.spec.optimizers import SGD, AdamW
from memexp.spec.presentations import Cyclic, Passes, Spaced
from memexp.spec.protection import EWC
from memexp.spec.resources import Resources, ResourcesFor, Snapshots
from memexp.spec.search import ASHA, Choices, Integers, MedianStopping, Point, Search, Uniform
from memexp.spec.token_asks import Passed, TokenAsk
from memexp.spec.training import Forget, Interference, Pretrain, Study, Training, retention_steps
from memexp.spec.unlearning import Unlearn

__all__ = [
    "ASHA",
    "EWC",
    "SGD",
    "AdamW",
    "Choices",
    "Condition",
    "Corpus",
    "Count",
    "Cyclic",
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
    "Items",
    "LoRA",
    "MedianStopping",
    "Model",
    "Name",
    "Pair",
    "Passed",
    "Passes",
    "PathText",
    "PerturbedItems",
    "Point",
    "Positive",
    "Pretrain",
    "Probe",
    "RandomInit",
    "Resources",
    "ResourcesFor",
    "Search",
    "ShippedText",
    "Snapshots",
    "SomeText",
    "Spaced",
    "StreamedCorpus",
    "Study",
    "Text",
    "TextFile",
    "TextStream",
    "TokenAsk",
    "TrainedTokenizer",
    "Training",
    "Uniform",
    "Unlearn",
    "counterbalanced",
    "field_names",
    "located",
    "probes_within",
    "retention_steps",
    "runs_users_code",
    "spec",
    "written_by_user",
]
