"""Figures: what is drawn is what the rows say, in no mean are conditions that differ, and bad requests get a line."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_results import Made, fill

from memexp.errors import SpecError
from memexp.figures import chapters, plot
from memexp.figures.best_cells import best_figure
from memexp.figures.cells import ALL, cells
from memexp.figures.effort import Effort
from memexp.figures.exposure_curves import exposure_figure
from memexp.figures.figure import Figure
from memexp.figures.footers import settings_of
from memexp.figures.gained_curves import gained_figure
from memexp.figures.gathered import Gathered, Result, gathered
from memexp.figures.image_files import save
from memexp.figures.measures import measures_of
from memexp.figures.order import in_order
from memexp.figures.own import plotted
from memexp.figures.retention_curves import retention_figure
from memexp.figures.varied import dimensions
from memexp.probes import BY_KIND
from memexp.stats import fit_curve
from memexp.store import Store
from memexp.store.closed import closed
from memexp.store.query import answer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("figures") / "results")
    fill(made, lambda name: name != "facts")
    return made


@pytest.fixture(scope="module")
def found(store: Store) -> Iterator[Gathered]:
    with gathered(store, "exposures") as rows:
        yield rows


def rows_of(figure: Figure | None, rule: bool = False) -> list[dict[str, Any]]:
    assert figure is not None
    rows = [row for panel in figure.panels for row in panel.rows]
    return [row for row in rows if row["_rule"] == rule and row["seed"] == ALL]


def drawn(found: Gathered, kind: str = "recognition") -> Figure | None:
    return exposure_figure(found, kind, found.measures(kind)[kind], Effort({}))


def test_every_chart_is_of_vega_lites_schema(store: Store) -> None:
    """Where a page is written nobody looks."""
    charts = [
        chart.properties(width="container", height=panel.height)
        for chapter in chapters(store)
        for figure in chapter.figures
        for panel in figure.panels
        for chart in panel.charts.values()
    ]
    assert len(charts) > 10
    for chart in charts:
        chart.to_dict()
    charts[0].height = "very"
    with pytest.raises(Exception, match="height"):
        charts[0].to_dict()


def test_points_are_the_means_of_the_rows(store: Store, found: Gathered) -> None:
    sql = """SELECT model, lr, exposures, avg((target_nll < foil_nll)::int), count(*) FROM recognition
             WHERE retention_steps IS NULL GROUP BY ALL"""
    _, expected = answer(store, sql, sweep="exposures")
    told = {(model, f"{lr:g}", exposures): (mean, n) for model, lr, exposures, mean, n in expected}
    points = {(row["model"], row["lr"], row["exposures"]): row for row in rows_of(drawn(found))}
    assert points.keys() == told.keys() and len(told) == 16
    for at, row in points.items():
        assert row["_y"] == pytest.approx(told[at][0], abs=1e-6)
        assert row["_n"].startswith(f"{told[at][1]} (24 items × 3 seeds")
        assert row["_low"] <= row["_y"] <= row["_high"]


def test_the_model_before_study_is_a_line_across(found: Gathered) -> None:
    rules = rows_of(drawn(found), rule=True)
    zeros = {(row["model"], row["lr"]): row["_y"] for row in rows_of(drawn(found)) if row["exposures"] == 0}
    assert {(row["model"], row["lr"]): row["_y"] for row in rules} == zeros and len(zeros) == 4


def test_an_untrained_model_without_a_learning_rate_is_on_every_line(tmp_path: Path) -> None:
    made = Made(Store(tmp_path / "results"))
    made.result("recognition", made.recognition(0.1, 0), {}, model="gpt2", exposures=0)
    for lr in (1e-4, 1e-5):
        made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=1, lr=lr, seed=0)
    made.sweep("s")
    with gathered(made.store) as rows:
        zeros = [row["lr"] for row in rows_of(drawn(rows)) if row["exposures"] == 0]
    assert sorted(zeros) == ["0.0001", "1e-05"]


def test_no_mean_is_over_conditions_that_differ(tmp_path: Path) -> None:
    """Also in what nobody thinks of: a label, the block size, dropout; no optimizer is AdamW."""
    varied = {"own_label": ("a", "b"), "block_size": (64, 128), "dropout": (0.0, 0.1), "optimizer": (None, "sgd")}
    for name, values in varied.items():
        made = Made(Store(tmp_path / name))
        for value in values:
            for exposures in (0, 1):
                common: dict[str, Any] = {"model": "gpt2", "exposures": exposures, "seed": 0, "lr": 1e-4}
                labels = {name: value} if name == "own_label" else {}
                settings = {} if name == "own_label" else {name: value}
                made.result("recognition", made.recognition(exposures, 0), labels, **common, **settings)
        made.sweep("s")
        with gathered(made.store) as rows:
            results = rows.results("recognition")
            assert dimensions(results, ["exposures"]) == [name]
            points = cells(rows, "recognition", "recognition", results, [name, "exposures"])
            assert len(points) == 4 and {point.n for point in points} == {24}


def test_seeds_and_lists_are_what_a_mean_is_over(found: Gathered) -> None:
    results = found.results("recognition")
    assert dimensions(results, ["exposures"]) == ["model", "lr"]
    points = cells(found, "recognition", "recognition", results, ["model", "lr", "exposures"])
    assert {point.seed for point in points} == {ALL, "0", "1", "2"}
    whole = [point for point in points if point.seed == ALL]
    assert {(point.items, point.seeds) for point in whole} == {(24, 3)} and any(point.over for point in whole)


def test_footers_say_what_rows_say(store: Store) -> None:
    key = "hash(stage_id, probe_id, condition_id)"
    table = store.scan("recall")
    assert table is not None
    with closed() as connection:
        quick = settings_of(connection, "recall", store.datasets("recall"), key)
        slow = settings_of(connection, "recall", [table], key)
    assert quick == slow and len(quick) > 50
    assert {"model", "lr", "exposures", "memexp"} <= next(iter(quick.values())).keys()


def test_a_file_of_several_results_is_read_for_its_settings(store: Store, tmp_path: Path) -> None:
    table = store.scan("recall")
    one = Store(tmp_path / "one")
    one.commit("recall", "all", table)
    with gathered(store) as many, gathered(one) as single:
        assert len(single.results("recall")) == len(many.results("recall"))
        means = [sorted(result.mean("recall") or 0 for result in rows.results("recall")) for rows in (many, single)]
    assert means[0] == pytest.approx(means[1])


def test_every_sweep_has_its_figures(store: Store) -> None:
    names = {
        chapter.sweep: [figure.name.partition("-")[0] for figure in chapter.figures] for chapter in chapters(store)
    }
    assert names.keys() == {"exposures", "retention", "forgetting", "ablation", "search"}
    assert {"exposures", "best", "losses"} <= set(names["exposures"])
    assert names["retention"] == ["retention", "retention", "gained"] and names["search"] == ["searches"]
    assert names["forgetting"] == ["forgetting"] and names["ablation"] == ["ablation"]
    # The latest is the first.
    assert list(names)[:4] == ["ablation", "forgetting", "retention", "exposures"]


def test_a_caption_says_how_fast_is_forgotten(store: Store) -> None:
    """As `fit_curve` finds it on the same rows."""
    with gathered(store, "retention") as found:
        figure = retention_figure(found, "recall", found.measures("recall")["recall"])
    assert figure is not None
    said = re.search(r"Its exponent ([\d.]+) \(([\d.]+) to ([\d.]+)\)\.", figure.caption)
    assert said is not None, figure.caption
    sql = "SELECT retention_steps, completion_rouge2, item, seed FROM recall WHERE retention_steps IS NOT NULL"
    _, rows = answer(store, sql, sweep="retention")
    steps, values, items, seeds = zip(*rows, strict=True)
    fit = fit_curve(steps, values, items=items, seeds=seeds, curves=["power", "exponential"])[0]
    assert fit.curve == "power" and fit.low["c"] is not None
    low, c, high = float(said[2]), float(said[1]), float(said[3])
    assert low < c < high and c == pytest.approx(fit.parameters["c"], rel=0.005)
    assert low == pytest.approx(fit.low["c"], rel=0.3)


def test_what_is_left_of_a_gain_is_a_share_of_it(store: Store) -> None:
    sql = "SELECT coalesce(retention_steps, 0), exposures, avg(completion_rouge2) FROM recall GROUP BY ALL"
    _, means = answer(store, sql, sweep="retention")
    mean = {(steps, exposures): value for steps, exposures, value in means}
    before, after = mean[0, 0], mean[0, 10]
    with gathered(store, "retention") as found:
        figure = gained_figure(found, "recall", found.measures("recall")["recall"])
        rows = {int(row["retention_steps"]): row for row in rows_of(figure)}
    assert sorted(rows) == [0, 1, 3, 10, 30, 100, 300, 1000]
    for steps, row in rows.items():
        assert row["_y"] == pytest.approx((mean[steps, 10] - before) / (after - before), abs=1e-6)
        assert row["_low"] <= row["_y"] <= row["_high"] and "items" in row["_interval"]
    assert rows[0]["_y"] == 1 and rows[0]["_low"] == pytest.approx(1)


def test_without_a_baseline_or_a_gain_nothing_is_a_share(store: Store, tmp_path: Path) -> None:
    made = Made(Store(tmp_path / "results"))
    for exposures, steps in ((10, 0), (10, 1), (10, 10)):
        made.result("recall", made.recall(0.5), {}, model="tiny-s", exposures=exposures, seed=0, retention_steps=steps)
    made.sweep("no baseline")
    made.result("recall", made.recall(0.5), {}, model="tiny-s", exposures=0, seed=0)
    for steps in (0, 1, 10):
        made.result("recall", made.recall(0.5), {}, model="tiny-s", exposures=9, seed=0, retention_steps=steps)
    made.sweep("no gain")
    for sweep in ("no baseline", "no gain"):
        with gathered(made.store, sweep) as found:
            assert gained_figure(found, "recall", found.measures("recall")["recall"]) is None


def test_profiles_have_their_controls(store: Store) -> None:
    chapter = next(one for one in chapters(store, "forgetting"))
    rows = rows_of(chapter.figures[0], rule=True)
    again = {row["restudy_exposures"]: row["what"] for row in rows if "control" in row["what"]}
    assert again == {"15": "nothing reset, studied again (control)"}
    assert {"before study", "first study"} <= {row["what"] for row in rows}
    sides = {row["what"] for row in rows_of(chapter.figures[0])}
    assert sides == {"blocks ≥ k reset", "blocks < k reset (control)"}


def test_a_best_at_the_edge_of_the_grid_has_a_colour_of_its_own(tmp_path: Path) -> None:
    """Of one model the middle of three rates is best, of the other the largest."""
    made = Made(Store(tmp_path / "results"))
    for model, strengths in (("tiny-s", (0.1, 3, 0.1)), ("tiny-m", (0.1, 1, 3))):
        for lr, strength in zip((1e-4, 1e-3, 1e-2), strengths, strict=True):
            made.result("recognition", made.recognition(strength, 0), {}, model=model, lr=lr, exposures=1, seed=0)
    made.sweep("grid")
    with gathered(made.store) as found:
        figure = best_figure(found, "recognition", found.measures("recognition")["recognition"])
    said = {row["model"]: row["what"] for row in rows_of(figure)}
    assert said == {"tiny-s": "chosen in-sample", "tiny-m": "chosen in-sample, at the grid's edge"}
    assert figure is not None and set(said.values()) <= {name for name, *_ in figure.legend}
    assert "nothing larger, was tried" in figure.caption


def test_a_family_draws_what_it_is_about_wherever_that_is(store: Store) -> None:
    """In a store of several sweeps, of which some have recognition."""
    with gathered(store) as found:
        assert plotted(found, "forgetting").name.startswith("forgetting-qa")
        assert plotted(found, "retention").name.startswith("retention-recognition")
        with pytest.raises(SpecError, match="nothing to draw"):
            plotted(found, "forgetting", y="recognition")


def test_best_so_far_never_falls(store: Store) -> None:
    figure = next(one for one in chapters(store, "search")).figures[0]
    rows = figure.panels[0].rows
    best = [row["_y"] for row in rows if row["_what"] == "best so far"]
    points = [row["_y"] for row in rows if row["_what"] == "suggestion"]
    assert best == sorted(best) and best[-1] == max(points) and len(points) == 9
    assert list(figure.panels[0].charts) == ["suggestion", "lr", "batch_size"]


def test_models_are_in_the_order_of_their_size() -> None:
    names = [
        "gpt2-xl",
        "gpt2",
        "facebook/opt-13b",
        "gpt2-large",
        "facebook/opt-350m",
        "gpt2-medium",
        "facebook/opt-1.3b",
        "tiny-s",
        "tiny-l",
        "tiny-m",
    ]
    ordered = sorted(names, key=lambda name: in_order({"model": name}))
    assert ordered[:4] == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert ordered[4:7] == ["facebook/opt-350m", "facebook/opt-1.3b", "facebook/opt-13b"]
    assert ordered[7:] == ["tiny-s", "tiny-m", "tiny-l"]


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_a_table_is_drawn(store: Store, kind: str) -> None:
    names, rows = answer(store, "FROM recognition", sweep="exposures")
    table: Any = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    if kind == "pandas":
        table = table.select([name for name in names if not name.startswith("lora")]).to_pandas()
    elif kind == "polars":
        table = pytest.importorskip("polars").from_arrow(table)
    spec = plot(table, "exposures", y="recognition", by="model").to_dict()  # type: ignore[attr-defined]
    points = [row for data in spec["datasets"].values() for row in data if "_y" in row and not row["_rule"]]
    assert len(points) == 16 and {row["_colour"] for row in points} == {"tiny-s", "tiny-m"}


def test_any_column_of_numbers_can_be_drawn(found: Gathered) -> None:
    figure = plotted(found, "exposures", y="sentence_rouge2")
    assert all(0.4 < row["_y"] <= 1 for row in rows_of(figure))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"x": "exposure"}, "--x exposure: recognition has no such column; it has .*exposures"),
        ({"by": "modell"}, "--by modell: recognition has no such column"),
        ({"y": "recognitoin"}, "--y recognitoin: there is no such measure; there are recognition, "),
        ({"y": "target"}, "--y target: there is no such measure"),
        ({"family": "pie"}, "'pie' is no kind of figure; there are exposures, retention"),
        ({"family": "retention"}, "nothing to draw: in the rows of recognition retention_steps does not vary"),
    ],
)
def test_what_cannot_be_drawn_is_a_line(found: Gathered, asked: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        plotted(found, **({"family": "exposures"} | asked))


def svg_of(figure: Figure | None, folder: Path, width: float = 12, **more: Any) -> str:
    assert figure is not None
    save(figure, folder / "figure.svg", width, **more)
    return (folder / "figure.svg").read_text()


def words_of(svg: str) -> list[str]:
    return [
        " ".join(re.sub("<.*?>", " ", text).split()) for text in re.findall(r"<text.*?>(.*?)</text>", svg, re.DOTALL)
    ]


def test_an_image_says_what_its_lines_across_are(store: Store, found: Gathered, tmp_path: Path) -> None:
    """And a page: its legend is what the figure has in `dashes`."""
    figure = drawn(found)
    assert figure is not None
    assert [name for name, _ in figure.dashes] == ["before study (0 exposures)", "chance (0.5)"]
    assert {row["_dash"] for row in rows_of(figure, rule=True)} == {"before study (0 exposures)"}
    assert {name for name, _ in figure.dashes} <= {*words_of(svg_of(figure, tmp_path))}
    for sweep, across in (("forgetting", "for comparison, without k"), ("retention", "exponential with a floor")):
        profile = chapters(store, sweep)[0].figures[0]
        assert across in words_of(svg_of(profile, tmp_path))


def positions(svg: str, mark: str = "point", ends: str = "") -> list[tuple[float, float]]:
    """Where points are, or rules that end there."""
    found = re.findall(rf'aria-roledescription="{mark}" transform="translate\(([-\d.]+),([-\d.]+)\)"{ends}', svg)
    return [(float(across), float(down)) for across, down in found]


@pytest.mark.parametrize("x", ["exposures", "updates"])
def test_points_of_one_place_stand_side_by_side(store: Store, tmp_path: Path, x: str) -> None:
    """Each on its bar and its line: both models start at one mean."""
    with gathered(store, "exposures") as found:
        results = [one.settings for one in found.results("recognition")]
        effort = Effort({one["stage_id"]: (None, 5 * one["exposures"], 9) for one in results})
        some = found.only(lambda one: one.settings["lr"] < 5e-4)
        svg = svg_of(plotted(some, "exposures", x, "recognition", None, effort), tmp_path, 8)
    points, bars = positions(svg), positions(svg, "rule mark", ' x2="0" y2="-')
    assert len(points) == len(bars) == 8
    assert [at for at, _ in points] == pytest.approx([at for at, _ in bars], abs=0.01)
    lines = re.findall(r'aria-roledescription="line mark" d="([^"]*)"', svg)
    corners = [tuple(map(float, corner)) for line in lines for corner in re.findall(r"([-\d.]+),([-\d.]+)", line)]
    assert sorted(corners) == [pytest.approx(point, abs=0.01) for point in sorted(points)]
    for (one, _), (other, _) in zip(points[::2], points[1::2], strict=True):
        assert 2 < other - one < 6
    assert points[0][1] == points[1][1] and points[0][0] > 0


def test_places_close_together_keep_their_order(tmp_path: Path) -> None:
    """The marks of one end before half the way to the next."""
    made = Made(Store(tmp_path / "results"))
    exposures, models = (0, 8, 9, 10), ("tiny-s", "tiny-m", "tiny-l", "gpt2", "gpt2-xl")
    for model in models:
        for number in exposures:
            made.result("recognition", made.recognition(1, 0), {}, model=model, exposures=number, seed=0)
    made.sweep("close")
    with gathered(made.store) as found:
        points = positions(svg_of(drawn(found), tmp_path))
    assert len(points) == len(exposures) * len(models)
    places = [[at for at, _ in points[first : first + len(models)]] for first in range(0, len(points), len(models))]
    assert all(place == sorted({*place}) for place in places)
    gaps = [after[0] - before[-1] for before, after in itertools.pairwise(places)]
    assert min(gaps) > places[0][-1] - places[0][0] - 0.5


def test_an_image_says_its_n_and_what_intervals_are_over(found: Gathered, tmp_path: Path) -> None:
    figure = drawn(found)
    assert figure is not None and figure.note.startswith("n = 72 (24 items × 3 seeds) at each point. Bars are 95 %")
    for width in (8, 17):
        svg = svg_of(figure, tmp_path, width)
        words = words_of(svg)
        assert figure.note in " ".join(words)
        size = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
        assert size is not None and float(size[1]) == pytest.approx(width / 2.54 * 72, abs=0.6)
    assert "n = 72" not in " ".join(words_of(svg_of(figure, tmp_path, note=False)))


def swapped(made: Made, twin: bool) -> Store:
    """A sweep of two seeds of which the second is counterbalanced, its foils those that were targets, or is not."""
    for seed in (0, 1):
        for exposures in (0, 1):
            rows = made.recognition(exposures, 0)
            if seed and twin:
                rows = [row | {"target_nll": row["foil_nll"], "foil_nll": row["target_nll"]} for row in rows]
            elif seed:  # as many other items are told apart
                wrong = sum(row["target_nll"] < row["foil_nll"] for row in rows)
                rows = [row | {"target_nll": float(item < wrong), "foil_nll": 0.5} for item, row in enumerate(rows)]
            labels = {"counterbalanced": bool(seed)}
            made.result("recognition", rows, labels, model="gpt2", exposures=exposures, seed=seed)
    made.sweep("swapped")
    return made.store


@pytest.mark.parametrize("twin", [True, False])
def test_a_half_that_is_forced_says_so(tmp_path: Path, twin: bool) -> None:
    """Not where a half came about: the mean is that, and the items are not."""
    with gathered(swapped(Made(Store(tmp_path / "results")), twin)) as found:
        figure = drawn(found)
    assert [row["_y"] for row in rows_of(figure) if row["exposures"] == 0] == [0.5]
    assert figure is not None
    assert ("0.5 before study is by construction" in figure.caption) == ("construction" in figure.note) == twin


def test_files_are_as_wide_as_asked_for(found: Gathered, tmp_path: Path) -> None:
    figure = drawn(found)
    assert figure is not None
    for suffix in (".png", ".svg", ".pdf"):
        save(figure, tmp_path / f"figure{suffix}", width=12)
    png = (tmp_path / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] == pytest.approx(12 / 2.54 * 300, abs=4)
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', (tmp_path / "figure.svg").read_text())
    assert width is not None and float(width[1]) == pytest.approx(12 / 2.54 * 72, abs=0.6)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.pdf", "figure.png", "figure.svg"]
    for name, width_cm, says in (("figure.gif", 12, "name it .png"), ("figure.png", 2, "leave no room")):
        with pytest.raises(SpecError, match=says):
            save(figure, tmp_path / name, width_cm)


@pytest.mark.parametrize("name", ["further_batches", "restudy_exposures", "then_exposures"])
def test_who_saw_a_part_is_not_before_study(name: str) -> None:
    assert Result(0, {"exposures": 0}, 1).unstudied and Result(0, {"exposures": 0, name: 0}, 1).unstudied
    assert not Result(0, {"exposures": 0, name: 2}, 1).unstudied and not Result(0, {"exposures": 1}, 1).unstudied


def test_every_kind_has_a_measure() -> None:
    """Of those that memexp comes with: its own, or the one that its files declare."""
    for kind, cls in BY_KIND.items():
        assert measures_of(kind, cls.headline), kind
    assert [one.name for one in measures_of("quantized", BY_KIND["quantized"].headline).values()] == ["quantized"]
