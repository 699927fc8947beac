"""The tiny pretrained models that ship with memexp: `Model("tiny-s")`, `Model("tiny-m")`, `Model("tiny-l")`.

Made by sweeps/pretrain_tiny.py; the card beside each one's weights says what it was trained on and what it can do.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["SHIPPED_MODELS", "model_folder"]

SHIPPED_MODELS = ("tiny-s", "tiny-m", "tiny-l")
"""From small to large. All have the same tokenizer."""


def model_folder(name: str) -> Path:
    """Where the files of a shipped model lie on this machine; transformers loads it like any other folder."""
    return Path(str(files("memexp.stimuli"))) / "weights" / name
