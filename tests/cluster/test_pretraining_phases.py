"""Sweeps with pretraining: one trial leaves it in the store, others begin there; what failed is not trained again."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from memexp import Condition, Model, Pair, Pretrain, Recognition, Resources, Snapshots, Store, Study, Sweep, TextStream

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_cluster")]


def conditions(model: Model, pair: Pair, training: Pretrain, lrs: Sequence[float]) -> list[Condition]:
    return [
        Condition(
            model, Study(pair.targets, exposures=1, lr=lr, batch_size=4), probes=[Recognition(pair)], pretrain=training
        )
        for lr in lrs
    ]


@pytest.fixture
def stream(tmp_path: Path) -> TextStream:
    (tmp_path / "stream.txt").write_text("".join(f"Number {i} is {i * 7 % 11}.\n" for i in range(20)))
    return TextStream(tmp_path / "stream.txt")


def told(store: Path) -> Counter[tuple[str, str]]:
    """How often stages of each kind ended how."""
    stages = Store(store).scan("stages")
    assert stages is not None
    return Counter(zip(stages.column("kind").to_pylist(), stages.column("status").to_pylist(), strict=True))


def test_failed_pretraining_skips_what_hangs_below_it(
    tmp_path: Path, pair: Pair, tiny_model: Model, stream: TextStream
) -> None:
    good = Pretrain(stream, steps=4, lr=1e-3, batch_size=4)
    bad = Pretrain(stream, steps=4, lr=1e30, batch_size=4)
    lrs = (1e-3, 2e-3, 3e-3)
    sweep = Sweep(
        name="phases",
        conditions=[c for training in (good, bad) for c in conditions(tiny_model, pair, training, lrs)],
        snapshots=Snapshots(keep=True),
    )
    page, store = io.StringIO(), tmp_path / "results"
    assert not sweep.run(store, console=Console(file=page, width=200))
    assert page.getvalue().count("diverged: ") == 1 and "3 of 6 conditions complete, 3 diverged" in page.getvalue()
    ends = told(store)
    assert ends["pretrain", "diverged"] == 1 and ends["study", "skipped"] == ends["study", "complete"] == 3
    training = Store(store).scan("training")
    assert training is not None
    steps = Counter(training.column("kind").to_pylist())
    assert steps == {"pretrain": 4, "study": 3 * 3}
    stages = Store(store).scan("stages")
    assert stages is not None
    made = [row["steps"] for row in stages.to_pylist() if row["kind"] == "pretrain" and row["status"] == "complete"]
    assert sorted(made)[-2:] == [0, 4] and sum(made) == 4  # the others began with what the first had left
    assert Store(store).list_text(".snapshots/")  # kept, as was asked


def test_workers_begin_where_workers_left_pretraining(
    tmp_path: Path, pair: Pair, tiny_model: Model, stream: TextStream
) -> None:
    sweep = Sweep(
        name="sharded",
        conditions=conditions(tiny_model, pair, Pretrain(stream, steps=4, lr=1e-3, batch_size=3), (1e-3, 2e-3)),
        resources=Resources(workers=2),
    )
    page, store = io.StringIO(), tmp_path / "results"
    assert sweep.run(store, console=Console(file=page, width=200)), page.getvalue()
    assert told(store)["pretrain", "complete"] == 2  # the one that left it, and the one trial of both studies
    assert Store(store).list_text(".snapshots/") == []
