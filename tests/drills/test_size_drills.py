"""Models too large for the other tests: what ranks take to load one, and what trials take beside what a plan says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from core.fake_ranks import BY_CHOICE, FREE, counted
from core.process_memory import resident, watched
from dist.ranks import on_ranks
from transformers import AutoConfig, AutoModelForCausalLM

import memexp
import memexp.core.matmul
from memexp import plan as planning
from memexp.core.batch_sizes import GPU_RESERVE
from memexp.core.data import encode
from memexp.core.load import load
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.plan.attempts import Attempt
from memexp.plan.inspection import sizes
from memexp.plan.memory import needed
from memexp.plan.outlay import load_of
from memexp.plan.trials import Trial
from memexp.probes import Recall, Recognition
from memexp.sources import Sources
from memexp.spec import Condition, Full, LoRA, Model, Pair, Resources, ShippedText, Study
from memexp.stimuli import load_list
from memexp.store import Store
from memexp.trial.execute import execute

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),  # transformers on itself
]
LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "tie_word_embeddings": False,
}
WEIGHTS = 4 * 296_784_896
"""Bytes of all of them in float32."""
ROOM = 100_000_000
"""Bytes that loading takes beside what a rank holds."""
NEAR = 0.15
"""Share of its peak by which a plan may be off."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 300 million random numbers, stored in bfloat16."""
    made = tmp_path_factory.mktemp("300m")
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA), dtype=torch.bfloat16)
    lm.save_pretrained(made)
    for file in (Path(memexp.__file__).parent / "stimuli/weights/tiny-m").glob("tokenizer*"):
        shutil.copy(file, made)
    return made


# Loading


def loaded(folder: Path) -> tuple[int, float, list[np.ndarray]]:
    """Bytes that this rank has more while it loads, at most; CPU seconds; likelihoods."""
    memexp.core.matmul._exact()  # asked once a process, of products that take some
    load(Sources().model(Model("tiny-s")), Full(), "float32", World.current())
    model = Sources().model(Model(str(folder)))
    before, began = resident(), time.process_time()
    with watched() as most:
        lm = load(model, Full(), "float32", World.current())
    took = time.process_time() - began
    return most[0] - before, took, token_nlls(lm, encode(lm.tokenizer, load_list("sentences-targets")[:4], 64))


def test_ranks_load_300_million_parameters_each_its_part(folder: Path, tmp_path: Path) -> None:
    found = {size: on_ranks(size, tmp_path / str(size), loaded, folder) for size in (1, 2, 4)}
    for size, ranks in found.items():
        taken, seconds = ([rank[at] for rank in ranks] for at in (0, 1))
        print(f"{size} ranks: {[round(one / 1e9, 2) for one in taken]} GB, {max(seconds):.1f} CPU s")
        assert 0.97 * WEIGHTS / size < max(taken) < WEIGHTS / size + ROOM  # some of it may have been the process's
        for rank in ranks:
            for one, alone in zip(rank[2], found[1][0][2], strict=True):
                np.testing.assert_allclose(one, alone, atol=1e-6)
    assert max(rank[0] for rank in found[2]) < 0.7e9


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on ranks that are not there
@pytest.mark.parametrize(
    ("shape", "parameters", "took", "takes"),
    [("llama3-8b", 8.03e9, 35.27e9, 41e9), ("opt-13b", 12.85e9, 56.61e9, 64e9)],
)
def test_recall_keeps_weights_gathered_in_what_is_free_of_a_card(
    shape: str, parameters: float, took: float, takes: float
) -> None:
    """13B on four cards of 80 GB, too; and that it does so is no part of what these need."""
    found = counted(shape, 4, Full(), "bfloat16", memory=FREE)
    assert found["gathered"].now > takes
    assert found["gathered"].now < found["full recall"].peak <= FREE - GPU_RESERVE
    peaks = {name: phase.peak for name, phase in found.items() if name not in BY_CHOICE}
    assert max(peaks.values()) == peaks["training"] == pytest.approx(took, rel=0.005)
    assert peaks["restore"] <= peaks["training"]
    assert peaks["load"] <= 1.02 * 4 * parameters / 4, "no rank ever holds the model"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_of_8b_has_room_on_one_small_card() -> None:
    found = counted("llama3-8b", 1, LoRA(r=8), "bfloat16")
    assert found["training"].peak == pytest.approx(24.81e9, rel=0.005)
    assert max(phase.peak for phase in found.values()) == found["training"].peak


# Plans


def most_of_process(trial: Trial, location: str) -> int:
    """Bytes that this rank has had in use at a time, when all is done."""
    assert execute(trial, Store(location), World.current(), Attempt("drill", "both")) == []
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def test_a_plan_tells_what_two_ranks_take(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist.ranks.DEADLINE", 800.0)
    pair = Pair(*(ShippedText(f"sentences-{name}", first=16) for name in ("targets", "foils")))
    study = [Study(pair.targets, exposures, lr=1e-4, batch_size=16) for exposures in (0, 1)]
    conditions = [Condition(Model(str(folder)), one, probes=[Recognition(pair), Recall()]) for one in study]
    forest = planning.grow(conditions, Resources(workers=2))
    trial = planning.whole(forest, forest.asks)
    base = trial.base
    need = needed(sizes([base.model])[base.model.id], Full(), "float32", trial.resources, load_of(forest, base.id))
    taken = on_ranks(2, tmp_path / "ranks", most_of_process, trial, str(tmp_path / "store"))
    told = max(need.worker, need.together)  # a machine of drills has the room to gather all weights for recall
    print(f"taken {[round(one / 1e9, 2) for one in taken]} GB, planned {told / 1e9:.2f}: {need}")
    for one in taken:
        assert told == pytest.approx(one, rel=NEAR)


SMALL = """
from memexp import *
pair = Pair(ShippedText("sentences-targets", first=32), ShippedText("sentences-foils", first=32))
sweep = Sweep("memory", [
    Condition(Model("tiny-l"), Study(pair.targets, n, lr=1e-3, batch_size=16), method={method}, probes=[
        Recognition(pair), Recall()
    ])
    for n in (0, 1, 2)
])
"""
MEASURED = """
import resource, subprocess, sys
print("PEAK", subprocess.run(sys.argv[1:]).returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
"""Executes a command, and says what its process took of the memory at most."""


@pytest.mark.parametrize("method", ["Full()", "LoRA(r=8)"])
def test_a_plan_tells_what_a_process_takes_that_trains_tiny_l(method: str, tmp_path: Path) -> None:
    def said(*command: object) -> str:
        return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True).stdout

    script, command = tmp_path / "memory.py", ("-m", "memexp.cli")
    script.write_text(SMALL.format(method=method))
    run = (sys.executable, *command, "run", "--local", "--store", tmp_path / "store", script)
    status, peak = said("-c", MEASURED, *run).split("PEAK ")[1].split()
    assert status == "0"
    [planned] = json.loads(said(*command, "plan", "--json", "--store", tmp_path / "other", script))["models"]
    told = planned["peak_bytes_per_worker"]
    print(f"{method}: peak {int(peak) / 1e9:.3f} GB, planned {told / 1e9:.3f}: {planned['peak_parts']}")
    assert told == pytest.approx(int(peak), rel=NEAR)
