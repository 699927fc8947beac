"""The sweeps that pretrain and stream are the grids that they say they are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from memexp import HubStream, RandomInit, ShippedText, Sweep, TextFile, TextStream, loading
from memexp.plan import bundle

SWEEPS = Path(__file__).parents[2] / "sweeps"
GPTJ = "EleutherAI/gpt-j-6b"
Load = Callable[..., Sweep]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A sweep as ``memexp plan sweeps/NAME.py -- ARGS`` gets it."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name, *arguments: loading.load(str(SWEEPS / f"{name}.py"), arguments)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("seen", "unseen"):
        (tmp_path / "expt1").mkdir(exist_ok=True)
        (tmp_path / "expt1" / f"{name}_data_0.json").write_text('{"sent": "One."}\n{"sent": "Two."}\n')
    return tmp_path


def test_from_scratch_is_one_pretraining_and_one_architecture(load: Load) -> None:
    sweep = load("from_scratch")
    cells = Counter(
        (c.labels["arm"], c.pretrain and c.pretrain.steps, c.study.exposures, c.study.corpus) for c in sweep.conditions
    )
    assert set(cells.values()) == {1} and len(cells) == 4 * 4 * 2
    assert {arm for arm, *_ in cells} == {"from scratch", "pretrained"}
    forest = sweep.grow()
    drawn, shipped = (stage.model for stage in forest.stages.values() if stage.parent is None)
    assert drawn.config is not None and drawn.blocks == shipped.blocks
    assert [(stage.last, stage.steps) for stage in forest.stages.values() if stage.kind == "pretrain"] == [
        (300, 300),
        (1000, 700),
    ]
    first, *_ = bundle(forest, forest.asks, lambda _: 2)
    assert first.steps == 1000 and len(first.leaves) == 2
    assert not any("as well" in line for line in forest.remarks)  # nothing that is studied is known beforehand


def test_text_of_ones_own_is_a_stream(load: Load, tmp_path: Path) -> None:
    text = str(tmp_path / "*.jsonl.gz")
    (found,) = {c.pretrain.corpus for c in load("from_scratch", "--text", text).conditions if c.pretrain}
    assert found == TextStream(text)
    (found,) = {
        c.pretrain.corpus for c in load("from_scratch", "--text", "a/b", "--subset", "c").conditions if c.pretrain
    }
    assert found == HubStream("a/b", "c")


def test_the_published_architecture_is_drawn_and_not_loaded(load: Load, data: Path) -> None:
    options = ("--published", "--data", str(data), "--experiments", "1", "--replications", "0", "--finetuned")
    arms = {c.labels["arm"]: c for c in load("from_scratch", *options).conditions}
    scratch, finetuned, pretrained = arms["from scratch"], arms["finetuned"], arms["pretrained"]
    assert scratch.model.init == RandomInit(GPTJ) and scratch.model.tokenizer == GPTJ
    assert pretrained.model.init is finetuned.model.init is pretrained.pretrain is None
    assert scratch.pretrain == finetuned.pretrain and scratch.pretrain is not None
    assert scratch.pretrain.corpus == HubStream("Salesforce/wikitext", "wikitext-103-raw-v1")
    assert (scratch.study.lr, scratch.study.batch_size) == (1e-5, 16)


def test_published_lists_are_needed_for_the_published_grid(load: Load) -> None:
    with pytest.raises(SystemExit):
        load("from_scratch", "--published")


@pytest.mark.parametrize(
    ("options", "corpus"),
    [
        ((), ShippedText("sentences-interference")),
        (("--interference", "cnn/*.parquet", "--field", "article"), TextStream("cnn/*.parquet", "article")),
        (("--interference", "cnn.txt"), TextStream("cnn.txt")),
        (("--interference", "cnn.csv"), TextFile("cnn.csv")),
        (
            ("--interference", "abisee/cnn_dailymail", "--subset", "3.0.0", "--field", "article"),
            HubStream("abisee/cnn_dailymail", "3.0.0", field="article"),
        ),
    ],
)
def test_unrelated_text_of_retention(load: Load, options: tuple[str, ...], corpus: object) -> None:
    (found,) = {c.interference.corpus for c in load("retention", *options).conditions if c.interference}
    assert found == corpus
