"""The larger tiny models do what their cards say; the script that makes them writes none that does not."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from core.few_shot import assert_remembered, few_shot

from memexp.spec import Model
from memexp.stimuli import load_list

pytestmark = pytest.mark.drill
SCRIPT = Path(__file__).parents[2] / "sweeps" / "pretrain_tiny.py"


@pytest.mark.parametrize("name", ["tiny-m", "tiny-l"])
def test_it_remembers_sentences(name: str, tmp_path: Path) -> None:
    assert_remembered(few_shot(Model(name), tmp_path))


def test_an_untrained_model_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="pretrain_tiny"))
    script.SIZES["tiny-s"] = script.Size(1, 32, 1, 32, 1e-3, world_steps=2, mixed_steps=2)
    text, out = tmp_path / "wikitext", tmp_path / "out"
    text.mkdir()
    for part in ("valid", "test"):
        (text / f"{part}.txt").write_text(" " + " ".join(load_list("sentences-interference")) + "\n")
    assert script.main(["--text", str(text), "--out", str(out), "--models", "tiny-s"]) == 1
    assert "tiny-s is not written: questions about known countries: 0.00, not .8" in capsys.readouterr().err
    assert list(out.iterdir()) == []
