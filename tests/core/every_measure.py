"""The probes of the papers of memorisation, each with all it asks for: as sweeps have them, on small models.

    conditions = [dataclasses.replace(one, probes=PROBES) for one in conditions]

Imported as `core.every_measure`, by the tests of several ranks too.
"""

from __future__ import annotations

from core.small import TARGETS

from memexp.probes import Capacity, Exposure, PrefixOffset, Priming, Spans, TruthRatio
from memexp.spec import InlineItems, Probe, ShippedText
from memexp.stimuli.biographies import Biographies
from memexp.stimuli.canaries import Canaries

__all__ = ["LIST", "PROBES"]

WORDS = [text.split() for text in TARGETS[:7]]
LIST = ShippedText("sentences-targets", first=7)
"""What is studied: an odd number of texts."""

QUESTIONS = InlineItems(
    "questions",
    [
        {
            "question": f"{' '.join(words[:3])}?",
            "answer": " ".join(words[3:6]),
            "perturbed_answer": [" ".join(other[3:6]) for other in WORDS if other is not words][: 2 + at % 3],
        }
        | ({"paraphrased_answer": " ".join(words[5:2:-1])} if at % 2 else {})
        for at, words in enumerate(WORDS)
    ],
)
MARKED = InlineItems(
    "spans",
    [
        {
            "train_context": " ".join(words),
            "mem_input": [" ".join(words[:4])],
            "mem_target": [" ".join(words[4:6])],
            "gen_input": [" ".join(reversed(words[:4]))],
            "gen_target": [" ".join(words[4:6])],
        }
        for words in WORDS
    ],
)
KEYWORDS = InlineItems(
    "keywords",
    [
        {"keyword": words[4], "prefixes": [" ".join(words[:4]), "The thing is", "It was so"][: 2 + at % 2]}
        for at, words in enumerate(WORDS)
    ],
)
PEOPLE = Biographies(count=3)
SECRETS = Canaries("The code of the vault is {secret} today.", alphabet=["cat", "dog", "owl", "fox"], length=3, count=3)

PROBES: tuple[Probe, ...] = (
    TruthRatio(QUESTIONS, most_tokens=6),
    Spans(MARKED),
    Capacity(PEOPLE, corpus=PEOPLE.corpus(), block_size=140),
    Exposure(SECRETS, corpus=SECRETS.corpus(), candidates=20, block_size=40),
    PrefixOffset(LIST, prefixes=[3, 8], offsets=[0, 5], suffix=4, block_size=24),
    Priming(KEYWORDS),
)
"""One of each kind; the lists of a probe are its own."""
