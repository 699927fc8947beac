"""Weights as folders: transformers and PEFT load them, and they give what the rows of the condition say."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from memexp import (
    Condition,
    Forget,
    Full,
    Interference,
    LoRA,
    Model,
    Pair,
    RandomInit,
    Recognition,
    Resources,
    ShippedText,
    Snapshots,
    Store,
    Study,
    Sweep,
)
from memexp.cli import main
from memexp.errors import MemexpError, SpecError
from memexp.trial import walk

PAIR = Pair(ShippedText("sentences-targets", first=8), ShippedText("sentences-foils", first=8))
STUDY = Study(PAIR.targets, exposures=2, lr=1e-3, batch_size=4)
LEFT = Interference(PAIR.foils, steps=3, lr=1e-3, batch_size=4)
CASES: dict[str, dict[str, Any]] = {
    "untrained": {"study": dataclasses.replace(STUDY, exposures=0)},
    "studied": {},
    "forgotten": {"forget": Forget(from_layer=1), "interference": LEFT},
    "adapter": {"method": LoRA(r=4, rslora=True), "interference": LEFT},
}


def sweep_of(case: str, **more: Any) -> Sweep:
    settings = {"study": STUDY, "method": Full(), **CASES[case]}
    condition = Condition(Model("tiny-s"), probes=[Recognition(PAIR)], seed=3, **settings)
    return Sweep(name="weights", conditions=[condition], **more)


def measured(sweep: Sweep, store: Path) -> list[dict[str, Any]]:
    assert sweep.run(store, local=True, console=Console(file=io.StringIO()))
    return sweep.results("recognition", store).to_arrow().to_pylist()


def mean_nlls(lm: Any, folder: Path, texts: list[str]) -> list[float]:
    """By transformers alone."""
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            found.append(float(lm(ids, labels=ids).loss))
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_folder_gives_what_the_rows_say(case: str, tmp_path: Path) -> None:
    sweep, folder = sweep_of(case), tmp_path / "weights"
    rows = measured(sweep, tmp_path / "results")
    before = sorted(path for path in (tmp_path / "results").rglob("*"))
    sweep.weights(rows[0]["condition_id"][:8], folder, tmp_path / "results")
    assert sorted(path for path in (tmp_path / "results").rglob("*")) == before
    if case == "adapter":
        said = json.loads((folder / "adapter_config.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(said["base_model_name_or_path"], dtype=torch.float32)
        plain = mean_nlls(base, folder, [row["target"] for row in rows])
        lm = PeftModel.from_pretrained(base, str(folder))
        assert said["r"] == 4 and said["use_rslora"]
        assert not np.allclose(plain, [row["target_nll"] for row in rows], atol=1e-3), "the adapter is of account"
    else:
        lm = AutoModelForCausalLM.from_pretrained(folder)
        assert lm.config.use_cache
    found = mean_nlls(lm.eval(), folder, [row["target"] for row in rows])
    assert found == pytest.approx([row["target_nll"] for row in rows], abs=2e-5)
    about = json.loads((folder / "memexp.json").read_text())
    assert about["condition_id"] == rows[0]["condition_id"] and about["seed"] == 3


def test_training_goes_on_from_a_snapshot_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of("studied", snapshots=Snapshots(steps=3, keep=True))
    (row, *_) = measured(sweep, tmp_path / "results")
    made: list[tuple[int, int]] = []
    train = walk.train

    def counted(*args: Any) -> Any:
        made.append((args[4], args[5]))
        return train(*args)

    monkeypatch.setattr(walk, "train", counted)
    for store, spans in ((tmp_path / "results", [(4, 4)]), (tmp_path / "other", [(1, 2), (3, 4)])):
        made.clear()
        sweep.weights(row["condition_id"], tmp_path / f"from-{store.name}", store)
        assert made == spans
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / f"from-{name}") for name in ("results", "other"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert Store(tmp_path / "results").list_text(".snapshots/")


def test_what_cannot_be_written_is_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    sweep, store = sweep_of("studied"), tmp_path / "results"
    (condition,) = {ask.condition_id for ask in sweep.grow().asks}
    with pytest.raises(SpecError, match=f"condition zzz: the sweep has none; .*, such as {condition}"):
        sweep.weights("zzz", tmp_path / "weights", store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for taken in ("full", "full/file"):
        with pytest.raises(SpecError, match="is there already"):
            sweep.weights(condition, tmp_path / taken, store)
    init = RandomInit({"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2})
    model = Model("mine", init=init, tokenizer="tiny-s")
    drawn = Condition(model, STUDY, method=LoRA(r=2), probes=[Recognition(PAIR)])
    of_drawn = Sweep(name="drawn", conditions=[drawn])
    with pytest.raises(SpecError, match="weights that were drawn, which are in no file"):
        of_drawn.weights(of_drawn.grow().asks[0].condition_id, tmp_path / "weights", store)
    several = sweep_of("studied", resources=Resources(workers=2))
    with pytest.raises(SpecError, match="shared by 2 workers"):
        several.weights(condition, tmp_path / "weights", store)
    bad = Sweep(
        name="bad",
        conditions=[Condition(Model("tiny-s"), dataclasses.replace(STUDY, lr=1e30), probes=[Recognition(PAIR)])],
    )
    (other,) = {ask.condition_id for ask in bad.grow().asks}
    with pytest.raises(MemexpError, match="diverged"):
        bad.weights(other, tmp_path / "weights", store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_the_command_writes_them_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(
        "from memexp import Condition, Model, Pair, Recognition, ShippedText, Study, Sweep\n"
        "pair = Pair(ShippedText('sentences-targets', first=8), ShippedText('sentences-foils', first=8))\n"
        "sweep = Sweep(name='weights', conditions=[Condition(Model('tiny-s'), Study(pair.targets, 1, 1e-3, 4),\n"
        "    probes=[Recognition(pair)])])\n"
    )
    store = str(tmp_path / "results")
    assert main(["weights", str(script), "nothing", str(tmp_path / "out"), "--store", store]) == 2
    condition = capsys.readouterr().err.split()[-1]
    monkeypatch.chdir(tmp_path)
    assert main(["weights", str(script), condition, "out", "--store", store]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "model.safetensors").exists()
