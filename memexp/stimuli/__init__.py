"""Study lists that ship with memexp: `ShippedText("sentences-targets")` in a sweep, `load_list(...)` for the texts.

Five lists of 240 English sentences of 12 to 30 words, written for this project; item i of each belongs to target i:

- ``sentences-targets`` and ``sentences-foils``: on other subjects, of like length and register. A coin decided which of
  a pair became the target, so what an untrained model prefers about one of the lists is chance.
- ``sentences-paraphrases``: the targets in other words.
- ``sentences-synonyms``: the targets with one word replaced by a synonym.
- ``sentences-interference``: unrelated sentences, for training after study.

Two functions make the published controls (Orhan 2023), for `InlineText`: `random_words` draws texts of random words,
`scrambled` shuffles the letters and words of given texts. `facts` writes worlds of facts, from the countries of
`world`; `weights` are the tiny models.

Files, and texts drawn from a seed: reads no network and knows no model. `memexp.sources` imports it, and scripts do.
"""

from __future__ import annotations

from memexp.stimuli.lists import load_list, random_words, scrambled, shipped_lists
from memexp.stimuli.tiny import model_folder

__all__ = ["load_list", "model_folder", "random_words", "scrambled", "shipped_lists"]
