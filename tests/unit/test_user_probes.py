"""A probe of a user's own: what planning refuses of it, and what its files say of it to readers without its code."""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from memexp.errors import SpecError, StoreError
from memexp.exchange.compact import compact
from memexp.plan import Ask, Forest, answered, grow
from memexp.plan.attempts import Progress
from memexp.probes import BY_KIND, Recall
from memexp.records import MADE_WITH, measured_by, rows_for, with_source
from memexp.report.progress import Display, SearchDisplay
from memexp.report.terminal import print_summary
from memexp.report.views import views_of
from memexp.spec import Condition, Headline, Model, Pair, Probe, Study, located, spec
from memexp.store import Store
from memexp.store.query import Metric, answer, totals


@spec
class Ease(Probe):
    """How easily each text comes."""

    kind: ClassVar[str] = "ease-of-use"
    headline: ClassVar[Headline | None] = Headline("mean ease", "ease", "1 / ways", why_null="it is too hard")

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64()), ("ease", pa.float64()), ("ways", pa.int64())])

    def measure(self, session: Any, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        raise NotImplementedError


def planned(model: Model, pair: Pair, *probes: Probe) -> Forest:
    return grow(Condition(model, Study(pair.targets, exposures=n, lr=1e-3), probes=probes) for n in (0, 1))


def measured(ask: Ask) -> pa.Table:
    """Three items of which one could not be measured; those of studied models are easier."""
    ease = [0.25, 0.75, None] if ask.settings["exposures"] else [0.25, 0.25, None]
    items = pa.table({"item": range(3), "ease": ease, "ways": [2, 4, 4]}, schema=ask.probe.schema())
    made_with = {field.name: None for field in MADE_WITH}
    return with_source(rows_for(items, ask.settings, ask.labels, made_with), ask.kind, ask.probe.headline)


@pytest.fixture
def forest(tiny_model: Model, pair: Pair) -> Forest:
    return planned(tiny_model, pair, Ease())


@pytest.fixture
def store(forest: Forest, tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for ask in forest.asks:
        store.commit(ask.kind, ask.name, measured(ask))
    return store


def test_it_gets_a_final_table_from_what_its_files_say(
    store: Store, forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ease, "headline", None)  # as if the code were not there
    page = io.StringIO()
    print_summary(store, "mine", forest, Console(file=page, width=80))
    lines = page.getvalue().splitlines()
    assert "ease-of-use: mean ease, by exposures" in lines
    assert [re.findall(r"[\d.]+", line) for line in lines if line.startswith("│")] == [["0.25", "0.50"]]
    assert "Chance is 0.33." in lines
    assert "2 of 6 items are NULL: it is too hard." in lines
    assert lines[-2].endswith("--sweep mine ease-of-use_by_condition")
    names, rows = answer(store, "ease-of-use_by_condition", views=views_of(store))
    told = [dict(zip(names, row, strict=True)) for row in rows]
    means = [(row["model"], row["exposures"], row["ease-of-use"], row["n"]) for row in told]
    assert means == [("tiny", 0, 0.25, 2), ("tiny", 1, 0.5, 2)]


def test_what_a_file_declares_reaches_nothing_beyond_the_store(store: Store, forest: Forest) -> None:
    """The SQL of a headline came with the rows, from whoever wrote them."""
    names = [ask.name for ask in forest.asks]
    assert len(totals(store, "ease-of-use", names, ["ease"]).rows) == 2
    for sql in ("(SELECT size FROM read_text('/etc/passwd'))", "1) FROM files; COPY (SELECT 1) TO '/tmp/x'; SELECT (1"):
        with pytest.raises(StoreError):
            totals(store, "ease-of-use", names, [sql])
        for ask in forest.asks:
            (Path(store.location) / ask.kind / f"{ask.name}.parquet").unlink()
            store.commit(ask.kind, ask.name, with_source(measured(ask), ask.kind, Headline("ease", sql)))
        with pytest.raises(StoreError):
            answer(store, "ease-of-use_by_condition", views=views_of(store))


def test_without_a_headline_its_rows_are_named(tiny_model: Model, pair: Pair, store: Store, forest: Forest) -> None:
    for ask in forest.asks:
        (Path(store.location) / ask.kind / f"{ask.name}.parquet").unlink()
        store.commit(ask.kind, ask.name, with_source(measured(ask), ask.kind, None))
    page = io.StringIO()
    print_summary(store, "mine", forest, Console(file=page, width=80))
    assert page.getvalue().startswith("Rows of ease-of-use are in the store") and page.getvalue().count("\n") == 1


def test_a_file_of_an_older_version_shows_what_memexps_own_probe_declares(
    tiny_model: Model, pair: Pair, tmp_path: Path
) -> None:
    forest, store = planned(tiny_model, pair, Recall()), Store(tmp_path)
    for ask in forest.asks:
        items = pa.Table.from_pylist([{"completion_rouge2": 0.5}], schema=ask.probe.schema())
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, {}))
    page = io.StringIO()
    print_summary(store, "mine", forest, Console(file=page, width=80))
    assert "recall: mean ROUGE-2 of the completion, by exposures" in page.getvalue()


def test_its_files_copies_and_exports_say_what_it_is(store: Store, forest: Forest, tmp_path: Path) -> None:
    first, second = forest.asks
    found = measured_by(store.schema(first.kind, first.name))
    assert found is not None and (found.kind, found.headline) == ("ease-of-use", Ease.headline)
    assert measured_by(answered(second, store.read(first.kind, first.name)).schema) == found
    target = Path(compact(store, str(tmp_path / "export")).target)
    (file,) = (target / "ease-of-use").glob("*.parquet")
    assert measured_by(pq.read_schema(file)) == found
    assert pq.read_table(file).num_rows == 6


def test_what_a_file_says_may_have_grown(store: Store, forest: Forest) -> None:
    """A later version may say more of a headline than this one knows."""
    text = b'{"kind": "k", "more": 1, "headline": {"title": "t", "mean": "x", "chance": 0.5, "unit": "nats"}}'
    found = measured_by(pa.schema([], metadata={b"memexp": text}))
    assert found is not None and found.headline == Headline("t", "x", 0.5)


@pytest.mark.parametrize(
    ("headline", "expected"),
    [
        (Headline("mean ease", "easy"), r'Ease\.headline\.mean: .*"easy" not found'),
        (Headline("mean ease", "ease >"), r"Ease\.headline\.mean: Parser Error"),
        (Headline("mean ease", "1) FROM items; SELECT (2"), r"Ease\.headline\.mean: query takes one SELECT"),
        (Headline("mean ease", "ease > 1"), r"Ease\.headline\.mean: .*avg\(BOOLEAN\)"),
        (Headline("mean ease", "avg(ease)"), r"Ease\.headline\.mean: "),
        (Headline("mean ease", "ease", "1 / way"), r'Ease\.headline\.chance: .*"way" not found'),
        ("mean(ease)", r"Ease\.headline: must be Headline\(\.\.\.\), got 'mean\(ease\)'"),
    ],
)
def test_a_wrong_headline_is_refused_when_the_sweep_is_planned(
    tiny_model: Model, pair: Pair, monkeypatch: pytest.MonkeyPatch, headline: Any, expected: str
) -> None:
    planned(tiny_model, pair, Ease())
    made = spec(type("Ease", (Ease,), {"headline": headline, "__module__": __name__}))
    with pytest.raises(SpecError, match=f"^{expected}") as error:
        planned(tiny_model, pair, made())
    assert "\n" not in str(error.value)


def test_memexps_own_headlines_hold_for_their_columns() -> None:
    """Planning tries a user's only: the first question to DuckDB costs more than a small plan."""
    for kind, probe in BY_KIND.items():
        headline, items = probe.headline, {"items": probe.schema().empty_table()}
        for expression in () if headline is None else (headline.mean, headline.chance):
            if isinstance(expression, str):
                Metric(f"SELECT avg({expression}) FROM items", kind).check(items)
    headlines = {kind for kind, probe in BY_KIND.items() if probe.headline}
    assert headlines == {
        *("recognition", "recall", "qa", "choice", "extraction", "exposure", "spans", "capacity", "base_forgetting"),
        *("prefix_offset", "priming", "quantized", "savings", "truth_ratio", "continuation"),
    }


def test_a_headline_needs_a_title_and_a_mean() -> None:
    with pytest.raises(SpecError, match=r"Headline\.mean: must not be empty"):
        Headline("mean ease", " ")
    assert dataclasses.asdict(Headline("t", "x"))["chance"] is None


def test_no_other_probe_may_write_to_the_table_of_memexps_own(tiny_model: Model, pair: Pair) -> None:
    for kind, probe in BY_KIND.items():
        other = spec(type("Other", (Ease,), {"kind": kind.upper(), "__module__": __name__}))
        with pytest.raises(SpecError, match=rf"Other\.kind: '{kind.upper()}' is the table of {probe.__name__}"):
            planned(tiny_model, pair, other())


BARE = """
import pyarrow as pa
from memexp import Recall
from memexp.spec import Probe

class Bare(Probe):
    kind = "bare"
    corpus: str = "a"

    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])

    def measure(self, session, texts):
        return None

class Longer(Recall):
    kind = "longer"
    beams: int = 4
"""


@pytest.mark.parametrize(("cls", "line"), [("Bare", 6), ("Longer", 17)])
def test_a_probe_without_spec_is_refused_with_its_line(
    tiny_model: Model, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: str, line: int
) -> None:
    (tmp_path / "bare_probes.py").write_text(BARE)
    monkeypatch.syspath_prepend(tmp_path)
    made = getattr(importlib.import_module("bare_probes"), cls)
    expected = rf"{cls} \(bare_probes\.py, line {line}\) is a probe without @spec; put @spec of memexp\.spec above it"
    with pytest.raises(SpecError, match=f"^{expected}$"):
        planned(tiny_model, pair, made())
    if cls == "Bare":
        with pytest.raises(SpecError, match=f"^{expected}$"):
            made(corpus="b")  # Python would say that it takes no arguments


def test_a_class_that_travels_without_its_file_is_found_by_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("elsewhere")
    with monkeypatch.context() as sender:
        sender.setitem(sys.modules, "elsewhere", there)
        exec(compile(BARE, "/elsewhere/sweep.py", "exec"), vars(there))
        made = spec(there.Bare)
    for cls in (there.Bare, made):  # @spec adds methods that nobody wrote
        assert located(cls) == "Bare (sweep.py, line 14)"


def test_what_probes_print_is_shown_with_their_name() -> None:
    for display in (Display([], {}, console := Console(file=io.StringIO())), SearchDisplay(1, console)):
        display(Progress(said=("Ease: [item] 1", "Ease: 2")))
    assert str(console.file.getvalue()).splitlines() == ["Ease: [item] 1", "Ease: 2"] * 2  # type: ignore[attr-defined]
