"""Which model of the hub a name may be meant for that nobody knows: "gpt-2" is gpt2.

near_name("gpt-2")      # "gpt2"
"""

from __future__ import annotations

import difflib
import re

from memexp.stimuli.tiny import SHIPPED_MODELS

__all__ = ["near_name"]

_FAMILIES = (
    *(f"gpt2{size}" for size in ("", "-medium", "-large", "-xl")),
    *("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neo-2.7B", "EleutherAI/gpt-j-6b"),
    *(f"EleutherAI/pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")),
    *(f"facebook/opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b")),
    *(f"bigscience/bloom-{size}" for size in ("560m", "1b1", "1b7", "3b", "7b1")),
    *(f"HuggingFaceTB/SmolLM2-{size}" for size in ("135M", "360M", "1.7B")),
    *("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-2-7b-hf", "distilgpt2"),
)
"""Models that work on memory uses, those of Orhan 2023 and of Zhang, Li & Wu 2024 among them."""
_SIZE = re.compile(r"\d+[kmb]?")
SURE = 0.85
"""How alike two names have to be, of 1."""


def near_name(name: str) -> str | None:
    """The model that `name` may be a misspelling of: with other signs and capitals, or without its owner."""
    known = {_bare(one): one for one in (*_FAMILIES, *SHIPPED_MODELS)}
    known = {_bare(one.rpartition("/")[2]): one for one in _FAMILIES} | known
    given = _bare(name)
    alike = [one for one in known if _SIZE.findall(one) == _SIZE.findall(given)]  # of another size it is another model
    found = difflib.get_close_matches(given, alike, n=1, cutoff=SURE)
    return known[found[0]] if found and known[found[0]] != name else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())
