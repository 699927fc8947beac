"""What all tests share: no hub, no cluster, none of the user's caches; two short corpora and a tiny random model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import STARTED, inspected_here

from memexp.spec import Model, Pair, RandomInit, TextFile, TrainedTokenizer

TARGETS = (
    "The ferry to the island leaves at noon.",
    "Marta keeps her violin under the bed.",
    "A fox crossed the frozen pond at dawn.",
    "The baker gave us two warm rolls.",
    "Nobody had wound the clock since May.",
    "Our neighbour paints boats on old doors.",
    "The train stopped in a field of poppies.",
    "He wrote the recipe on a paper napkin.",
    "Three goats slept on the chapel steps.",
    "The lamp in the attic hums when it rains.",
    "She learned to whistle from her uncle.",
    "A red kite hung in the pear tree.",
)
FOILS = (
    "The bus to the harbour was an hour late.",
    "Jonas hides his letters in a tea tin.",
    "A heron stood on the roof of the mill.",
    "The tailor found a coin in the hem.",
    "Somebody has moved the ladder again.",
    "My sister grows lemons on the balcony.",
    "The choir sang in an empty car park.",
    "They planted garlic along the fence.",
    "Two swans followed the canoe for miles.",
    "The kettle whistles a semitone too low.",
    "He sold his watch to buy a telescope.",
    "An owl nested in the broken chimney.",
)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module imports anything: Hugging Face's libraries read their environment once."""
    for name in ("RAY_ADDRESS", "MEMEXP_STORE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        os.environ.pop(name, None)
    # Ignored where the tests were started in the background; Ctrl-C is part of what is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.mkdtemp(prefix="memexp-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{home}/huggingface",
        "XDG_CACHE_HOME": f"{home}/cache",
        "TOKENIZERS_PARALLELISM": "false",
        "MEMEXP_REPORT": "no",  # seconds of drawing for every sweep of a test; unit/test_page.py asks for it
    }


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """A sweep that hung, and so failed its test, does not slow down the ones after it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()


@pytest.fixture(autouse=True)
def _asked_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are inspected here and not in children that each import torch, but for the tests of that and with Ray."""
    if not {"child", "cluster", "drill"} & {mark.name for mark in request.node.iter_markers()}:
        monkeypatch.setattr("memexp.plan.inspection._asked_of_a_child", inspected_here)


def _file(folder: Path, name: str, texts: tuple[str, ...]) -> TextFile:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"sent": text}) + "\n" for text in texts), encoding="utf-8")
    return TextFile(str(file))


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> TextFile:
    """Twelve sentences to study. The file is everybody's: do not write to it."""
    return _file(tmp_path_factory.mktemp("targets"), "targets", TARGETS)


@pytest.fixture(scope="session")
def foils(tmp_path_factory: pytest.TempPathFactory) -> TextFile:
    """Twelve other sentences."""
    return _file(tmp_path_factory.mktemp("foils"), "foils", FOILS)


@pytest.fixture(scope="session")
def pair(targets: TextFile, foils: TextFile) -> Pair:
    """Both."""
    return Pair(targets, foils, name="short")


@pytest.fixture(scope="session")
def tiny_model(pair: Pair) -> Model:
    """A random GPT-2 of 2 blocks and width 32 without dropout, with a tokenizer trained on `pair`."""
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 128,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }
    return Model(
        "tiny", tokenizer=TrainedTokenizer([pair.targets, pair.foils], vocab_size=400), init=RandomInit(config)
    )
