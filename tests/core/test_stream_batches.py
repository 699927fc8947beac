"""Batches from a stream: every text once a pass, in an order that depends on keys and the step's number alone."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from memexp.core.batches import Batch, PassingBatches, RowWindows, StreamBatches
from memexp.core.data import Row
from memexp.core.schedule import learning_rate
from memexp.errors import DataError
from memexp.sources import WINDOW, Stream, resolve_stream
from memexp.spec import HubStream, InlineText, Interference, Pretrain, Study, TextStream

UNREAD = InlineText("unread", ["The settings' own corpus is not looked at."])


def encode(texts: Sequence[str]) -> list[list[int]]:
    """The number that each text is."""
    return [[int(text)] for text in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbers")


def stream(folder: Path, count: int, known: bool = True) -> Stream:
    """The numbers below `count` as texts, in two files or in a dataset that does not say how many there are."""
    home = folder / f"{count}-{known}"
    home.mkdir(exist_ok=True)
    names = ("a.txt", "b.txt") if known else ("train.txt",)
    cuts = (0, count // 3, count) if known else (0, count)
    for name, first, last in zip(names, cuts, cuts[1:], strict=False):
        (home / name).write_text("".join(f"{i}\n" for i in range(first, last)))
    found = resolve_stream(TextStream(home / "*.txt") if known else HubStream(str(home)))
    assert found.count == (count if known or count < WINDOW else None)
    return found


def interference(size: int) -> Interference:
    return Interference(UNREAD, steps=1, lr=1e-3, batch_size=size)


def batches(found: Stream, size: int, seed: int = 0) -> StreamBatches:
    return StreamBatches(interference(size), RowWindows(found, encode), seed)


def numbers(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows]


def told(batch: Batch) -> tuple[list[int], int, float, object]:
    return numbers(batch.rows), batch.exposure, batch.lr, batch.draws


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("count", "size"), [(2 * WINDOW + 100, 1_000), (WINDOW + 1, 1_365), (2 * WINDOW, 6_000)])
def test_no_text_comes_twice_before_all_have_come_once(count: int, size: int, known: bool, folder: Path) -> None:
    per_pass = -(-count // size)
    take = batches(stream(folder, count, known), size)
    steps = [take(step) for step in range(1, 3 * per_pass + 1)]
    passes = [steps[at : at + per_pass] for at in range(0, len(steps), per_pass)]
    for turn, found in enumerate(passes, start=1):
        assert {batch.exposure for batch in found} == {turn}
        assert [len(batch.rows) for batch in found] == [size] * (count // size) + [count % size] * (count % size > 0)
        assert Counter(itertools.chain.from_iterable(numbers(batch.rows) for batch in found)) == Counter(range(count))
    first, second, _ = ([n for batch in found for n in numbers(batch.rows)] for found in passes)
    assert first != second and first != sorted(first)
    # Windows come in order, each shuffled in a way of its own.
    assert sorted(first[:WINDOW]) == list(range(WINDOW))
    assert [n - WINDOW for n in first[WINDOW : 2 * WINDOW]] != first[:WINDOW]


@pytest.mark.parametrize("known", [True, False])
def test_what_a_step_takes_depends_on_its_number_alone(known: bool, folder: Path) -> None:
    found = stream(folder, 2 * WINDOW + 100, known)
    take = batches(found, 1_000)
    steps = {step: told(take(step)) for step in range(1, 25)}
    for step in (24, 9, 1, 10, 5, 18):
        assert told(batches(found, 1_000)(step)) == steps[step], step  # resumed there
        assert told(take(step)) == steps[step], step


def test_a_step_behind_the_end_of_a_stream_of_full_windows(folder: Path) -> None:
    found = stream(folder, 2 * WINDOW, known=False)
    assert batches(found, 1_000)(10).exposure == 2
    assert batches(found, WINDOW)(3).exposure == 2  # the first window behind the end


def test_a_stream_of_one_window_comes_as_the_same_texts_in_memory(folder: Path) -> None:
    count, size = 100, 16
    rows = [[i] for i in range(count)]
    for settings in (interference(size), Pretrain(UNREAD, steps=20, lr=1e-3, batch_size=size, schedule="linear")):
        for seed in (0, 3):
            taken = StreamBatches(settings, RowWindows(stream(folder, count), encode), seed)
            plain = PassingBatches(settings, rows, seed)
            assert [told(taken(step)) for step in range(1, 21)] == [told(plain(step)) for step in range(1, 21)]


def test_seed_and_stage_key_the_order(folder: Path) -> None:
    windows = RowWindows(stream(folder, 100), encode)
    pretrain = Pretrain(UNREAD, steps=1, lr=1e-3)
    made = [StreamBatches(settings, windows, seed)(1) for settings in (interference(16), pretrain) for seed in (0, 1)]
    assert len({tuple(numbers(batch.rows)) for batch in made}) == 4
    assert [batch.draws for batch in made] == [
        *((0, "interference", 1, "dropout"), (1, "interference", 1, "dropout")),
        *((0, "pretrain", 1, "dropout"), (1, "pretrain", 1, "dropout")),
    ]


def test_it_is_known_when_texts_are_read(folder: Path) -> None:
    said: list[str] = []

    @contextlib.contextmanager
    def reading() -> Iterator[None]:
        said.append("begun")
        yield
        said.append("over")

    windows = RowWindows(stream(folder, 100), lambda texts: (said.append("encoded"), encode(texts))[1], reading)
    assert windows(0) == windows(0) and said == ["begun", "over", "encoded"]


def test_learning_rates_of_pretraining() -> None:
    settings = Pretrain(UNREAD, steps=8, lr=1.0, schedule="linear", warmup_steps=2)
    study = Study(UNREAD, exposures=8, lr=1.0, schedule="linear", warmup_steps=2)
    rates = [learning_rate(settings, step, settings.steps) for step in range(1, 9)]
    assert rates == [0.0, 0.5, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == [learning_rate(study, step, 8) for step in range(1, 9)]
    constant = Pretrain(UNREAD, steps=8, lr=1.0, warmup_steps=2)
    assert [learning_rate(constant, step, 8) for step in range(1, 5)] == [0.0, 0.5, 1.0, 1.0]


def test_a_stream_that_has_become_shorter_is_not_taken_for_the_same(folder: Path) -> None:
    found = stream(folder, 2 * WINDOW + 7)
    path = Path(found.parts[1].path)  # type: ignore[attr-defined] # a stream of files
    data, begun = path.read_bytes(), batches(found, 1_000)
    path.write_bytes(b" " * len(data))  # of the same size
    try:
        with pytest.raises(DataError, match=rf"has \d+ texts where {2 * WINDOW + 7} were expected; was it changed"):
            begun(5)
    finally:
        path.write_bytes(data)
