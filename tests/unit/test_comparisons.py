"""Differences and verdicts, d' and AUC: against scipy, by planted numbers, and on the published results."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats as scipy_stats

from memexp import stats
from memexp.cli import main
from memexp.errors import SpecError
from memexp.exchange.llm_memory import import_results
from memexp.store import Store
from memexp.store.manifests import Manifest, latest_manifests, write_manifest

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "llm-memory-results" / "shot-1" / "expt1-gpt"
CORRECT = "target_nll < foil_nll"
POINTS = ["model", "lr", "batch_size"]

# d' and AUC


def nlls(pairs: int = 300, shift: float = 1.0) -> tuple[Any, Any]:
    draw = np.random.default_rng(pairs)
    return draw.normal(0, 1, pairs).round(1), draw.normal(shift, 1, pairs).round(1)


def test_auc_is_over_all_pairs_and_the_choice_over_each_with_its_foil() -> None:
    target, foil = nlls()
    expected = scipy_stats.mannwhitneyu(foil, target).statistic / len(target) / len(foil)
    assert stats.auc(target, foil) == pytest.approx(expected)
    told = stats.two_afc(target, foil)
    assert told.share == np.mean(target < foil) and told.ties == np.sum(target == foil) > 0
    assert told.share_ties_half == told.share + told.ties / 600 and told.share_ties_half != pytest.approx(expected)
    assert told.dprime == pytest.approx(math.sqrt(2) * scipy_stats.norm.ppf((told.share_ties_half * 300 + 0.5) / 301))
    assert stats.auc([1.0, None], [2.0, 0.0]) == 0.5 and stats.auc([], [1.0]) is None


def test_dprime_of_a_planted_one() -> None:
    target, foil = np.random.default_rng(0).normal(0, 1, (2, 200_000))
    assert stats.two_afc(target, foil + 1.2).dprime == pytest.approx(1.2, abs=0.02)
    assert stats.dprime(50, 100) == 0
    assert stats.dprime(100, 100) == pytest.approx(-stats.dprime(0, 100)) == pytest.approx(3.6476, abs=1e-4)
    with pytest.raises(SpecError, match="0 <= correct <= n"):
        stats.dprime(3, 2)


def test_identical_pairs_are_counted() -> None:
    told = stats.two_afc([1.0, 1.0, 2.0, None], [1.0, 1.0, 3.0, 1.0], targets=list("aabc"), foils=list("abcd"))
    assert (told.n, told.missing, told.ties, told.identical, told.share) == (3, 1, 2, 1, 1 / 3)
    assert stats.two_afc([1.0], [2.0]).identical is None


def test_targets_are_compared_with_foils_of_the_same_model() -> None:
    target, foil = nlls(80)
    seed, item = (part.ravel() for part in np.mgrid[:4, :20])
    shifted = seed * 5.0  # a model that finds everything unlikely says nothing of another one's foils
    table = pa.table({"seed": seed, "item": item, "target_nll": target + shifted, "foil_nll": foil + shifted})
    [row] = stats.recognition(table).to_pylist()
    each = [stats.auc(target[seed == at], foil[seed == at]) for at in range(4)]
    assert row["auc"] == pytest.approx(np.mean(each)) and row["over"] == "items and seeds"
    assert abs(row["auc"] - stats.auc(table["target_nll"], table["foil_nll"])) > 0.05
    assert row["auc_low"] < row["auc"] < row["auc_high"] and row["dprime_low"] < row["dprime"] < row["dprime_high"]
    assert row["share"] == stats.summary(table, CORRECT)["mean"][0].as_py()


def test_the_interval_of_auc_is_that_of_its_spread() -> None:
    """AUC of 400 draws varies as its standard error says; pairs of one item are correlated."""
    draw = np.random.default_rng(5)
    shared = draw.normal(0, 1, (400, 60))
    target, foil = shared + draw.normal(0, 1, (400, 60)), shared + draw.normal(0.8, 1, (400, 60))
    study, item = (part.ravel() for part in np.mgrid[:400, :60])
    table = pa.table({"study": study, "item": item, "target_nll": target.ravel(), "foil_nll": foil.ravel()})
    found = stats.recognition(table, ["study"])
    area, low, high = (found[name].to_numpy() for name in ("auc", "auc_low", "auc_high"))
    expected = scipy_stats.norm.cdf(0.8 / 2)
    assert 0.92 <= np.mean((low <= expected) & (expected <= high)) <= 0.98
    assert area.mean() == pytest.approx(expected, abs=0.01)


# Differences


def test_paired_scores_are_as_scipy_has_them() -> None:
    a, b = np.random.default_rng(0).normal([[0], [0.5]], 1, (2, 40))
    found, expected = stats.difference(a, b), scipy_stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue) and found.test == "t, paired"
    interval = expected.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_scores_of_other_items_are_not_paired() -> None:
    a, b = np.random.default_rng(0).normal([[0], [0.5]], 1, (2, 40))
    found = stats.difference(a, b, items=range(40), items_b=range(100, 140))
    error = math.sqrt(a.var(ddof=1) / 40 + b.var(ddof=1) / 40)
    assert found.error == pytest.approx(error) and (found.test, found.shared_items, found.df) == ("t", 0, 39)


def test_rows_are_paired_by_item_whatever_their_order() -> None:
    a, b = np.random.default_rng(0).normal(0, 1, (2, 30))
    order = np.random.default_rng(1).permutation(30)
    found = stats.difference(a, b[order], items=range(30), items_b=order)
    assert found.error == pytest.approx(stats.difference(a, b).error) and found.shared_items == 30


def test_choices_have_mcnemars_exact_p() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.random(200) < 0.8, draw.random(200) < 0.6
    better, worse = int((a & ~b).sum()), int((b & ~a).sum())
    found = stats.difference(a, b)
    assert found.p == stats.mcnemar(a, b) == scipy_stats.binomtest(better, better + worse).pvalue
    assert found.test == "McNemar, exact" and found.low is not None and found.low < found.difference < found.high
    assert stats.mcnemar(a, a) == 1
    with pytest.raises(SpecError, match="takes choices"):
        stats.mcnemar([0.5], [1.0])


def test_all_right_twice_is_no_proof() -> None:
    """Two of five items are no sign that the rest of the world is equal; two thousand are."""
    few, many = (stats.difference(np.ones(n), np.ones(n)) for n in (5, 2000))
    assert few.p == many.p == 1 and few.high > 0.2 and many.high < 0.002


def test_seeds_of_both_sides_count() -> None:
    """Over both, a difference that every seed has otherwise is less certain than over items."""
    draw = np.random.default_rng(0)
    seed, item = (part.ravel() for part in np.mgrid[:6, :50])
    a = draw.normal(0, 1, 300) + draw.normal(0, 1, 6)[seed]
    b = draw.normal(0, 1, 300)
    shared = stats.difference(a, b, items=item, seeds=seed)
    assert (shared.over, shared.df) == ("items and seeds", 5)
    means = (a - b).reshape(6, 50).mean(1)
    assert stats.difference(a, b, items=item, seeds=seed, over="seeds").p == pytest.approx(
        scipy_stats.ttest_1samp(means, 0).pvalue
    )
    own = stats.difference(a, b, items=item, seeds=seed, items_b=item, seeds_b=seed + 6, over="seeds")
    by_seed = [part.reshape(6, 50).mean(1).var(ddof=1) / 6 for part in (a, b)]
    assert own.error == pytest.approx(math.sqrt(sum(by_seed)))


def test_holm_takes_the_smallest_first() -> None:
    assert stats.holm([0.01, 0.04, None, 0.03]).tolist() == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert stats.holm([0.5, 0.9]).tolist() == [1, 1] and stats.holm([]).tolist() == []


# Comparisons of tables


def choices(right: Any, **columns: Any) -> pa.Table:
    return pa.table({"right": right, "item": np.arange(len(right))} | columns)


def verdict(a: pa.Table, b: pa.Table, **options: Any) -> dict[str, Any]:
    [row] = stats.compare(a, b, "right", by=(), **options).to_pylist()
    return dict(row)


def flipped(count: int) -> tuple[Any, Any]:
    right = np.random.default_rng(0).random(600) < 0.85
    other = right.copy()
    other[np.flatnonzero(right)[:count]] = False
    return right, other


def test_eighteen_of_six_hundred_differ_where_items_are_shared() -> None:
    right, other = flipped(18)
    found = verdict(choices(right), choices(other))
    assert (found["verdict"], found["shared_items"]) == ("differs", 600) and found["difference"] == pytest.approx(0.03)
    unpaired = verdict(choices(right), choices(other, item=np.arange(600, 1200)))
    assert (unpaired["verdict"], unpaired["shared_items"]) == ("undecided", 0)
    assert 0.05 < unpaired["detectable"] < 0.07  # 2.8 standard errors of .021


def test_items_of_one_number_and_other_texts_are_not_shared() -> None:
    right, other = flipped(18)
    texts = [f"a{at}" for at in range(600)]
    assert verdict(choices(right, target=texts), choices(other, target=texts))["verdict"] == "differs"
    found = verdict(choices(right, target=texts), choices(other, target=[f"b{at}" for at in range(600)]))
    assert (found["verdict"], found["shared_items"]) == ("undecided", 0)


def test_equal_within_a_margin_is_shown_and_not_presumed() -> None:
    right, other = flipped(1)
    assert verdict(choices(right), choices(other))["verdict"] == "equivalent"
    assert verdict(choices(right), choices(other), margin=0.002)["verdict"] == "undecided"
    few = verdict(choices(right[:40]), choices(right[:40]))
    assert (few["verdict"], few["p"]) == ("undecided", 1) and few["detectable"] > 0.02


def test_a_table_is_equivalent_to_itself() -> None:
    """Whatever the intervals are over; only choices of few items, all alike, prove too little."""
    draw = np.random.default_rng(0)
    seed, item = (part.ravel() for part in np.mgrid[:4, :300])
    for values in (draw.random(1200) < 0.8, draw.random(1200)):
        for over in (None, "items", "seeds"):
            table = pa.table({"right": values, "seed": seed, "item": item})
            assert verdict(table, table, over=over)["verdict"] == "equivalent"
    twice = pa.table({"right": np.ones(20), "item": np.arange(20) % 10})
    assert verdict(twice, twice)["verdict"] == "undecided"


def test_settings_of_what_is_absent_make_no_conditions() -> None:
    steps = pa.array([None, 1, 2], pa.int64())
    rows = {"condition_id": ["a", "b", "c"], "retention_steps": steps, "interference_lr": [None, 1e-3, 1e-3]}
    table = pa.table({name: [value for value in column for _ in range(5)] for name, column in rows.items()})
    table = table.append_column("right", pa.array(np.arange(15.0))).append_column("item", pa.array([*range(5)] * 3))
    assert stats.compare(table, table, "right").column_names[:2] == ["retention_steps", "verdict"]


def test_the_detectable_difference_is_found_as_often_as_promised() -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 1, (400, 50))
    least = 2.85 / math.sqrt(50)  # (t.975 + t.8) standard errors
    shown = [
        verdict(choices(row), choices(np.zeros(50)))["detectable"] for row in noise[:20] - noise[:20].mean(1)[:, None]
    ]
    assert np.mean(shown) == pytest.approx(least, rel=0.05)
    found = np.mean([stats.difference(row + least, np.zeros(50)).p < 0.05 for row in noise])
    assert 0.75 <= found <= 0.85


def test_verdicts_are_corrected_for_their_number() -> None:
    draw = np.random.default_rng(0)
    a, b = (
        pa.table({"right": draw.random(20_000) < 0.5, "item": np.arange(20_000) + at, "cell": np.arange(20_000) // 100})
        for at in (0, 20_000)
    )
    found = stats.compare(a, b, "right", by=["cell"])
    assert found.num_rows == 200 and (found["p"].to_numpy() < 0.05).sum() >= 3
    assert found["verdict"].to_pylist().count("differs") == 0


def test_conditions_of_one_side_are_counted_and_left_out() -> None:
    a = pa.table({"right": [1.0, 2, 3, 4] * 3, "item": [0, 1, 2, 3] * 3, "lr": np.repeat([1e-3, 1e-4, 1e-5], 4)})
    found = stats.compare(a, a.slice(4), "right", by=["lr"])
    assert found["lr"].to_pylist() == [1e-4, 1e-5] and found.schema.metadata == {b"only_a": b"1", b"only_b": b"0"}
    with pytest.raises(SpecError, match=r"no condition is in both \(conditions: lr\)"):
        stats.compare(a.slice(0, 4), a.slice(4), "right", by=["lr"])
    with pytest.raises(SpecError, match="no column 'model'"):
        stats.compare(a, a, "right", by=["model"])
    with pytest.raises(SpecError, match="margin must be above 0"):
        stats.compare(a, a, "right", by=["lr"], margin=0)


# The published results


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    if not PUBLISHED.is_dir():
        pytest.skip("the published results are not beside the checkout")
    store = Store(tmp_path_factory.mktemp("published") / "results")
    import_results(str(PUBLISHED), store)
    return pa.concat_tables([store.read("recognition", name) for name in sorted(store.names("recognition"))])


@pytest.mark.parametrize("split", [[0, 1], [3]], ids=str)
def test_one_published_cell_differs_between_replications(published: pa.Table, split: list[int]) -> None:
    mine = pc.is_in(published["replication"], pa.array(split))
    found = stats.compare(published.filter(mine), published.filter(pc.invert(mine)), CORRECT)
    assert found.num_rows == 36 and found.column_names[:3] == POINTS
    differing = found.filter(pc.equal(found["verdict"], "differs")).select(POINTS).to_pylist()
    assert differing == [{"model": "gpt2-xl", "lr": 1e-4, "batch_size": 1}]


def test_halves_of_the_published_items_do_not_differ(published: pa.Table) -> None:
    draw = np.random.default_rng(0)
    published = published.select([*POINTS, "item", "replication", "target_nll", "foil_nll"]).combine_chunks()
    verdicts, raw = [], []
    for over in ("items", None):
        for _ in range(3):
            half = pa.array((draw.random(600) < 0.5)[published["item"].to_numpy()])
            found = stats.compare(published.filter(half), published.filter(pc.invert(half)), CORRECT, POINTS, over=over)
            verdicts += found["verdict"].to_pylist()
            raw += found["p"].to_pylist()
    assert len(verdicts) == 216 and verdicts.count("differs") <= 0.05 * 216
    assert np.mean(np.array(raw) < 0.05) < 0.15


def test_the_published_best_are_found_and_said_to_be_chosen(published: pa.Table) -> None:
    found = {row["model"]: row for row in stats.best(published, CORRECT).to_pylist()}
    means = {"gpt2": 0.936, "gpt2-medium": 0.980, "gpt2-large": 0.990, "gpt2-xl": 0.993}
    assert {model: round(row["mean"], 3) for model, row in found.items()} == means
    assert {row["chosen"] for row in found.values()} == {"in-sample"}
    assert all(row["edge"].startswith("largest lr") and row["replications"] == 4 for row in found.values())


# The command


def stored(folder: Path, right: Any, exposures: int = 1) -> Store:
    """A store as the import of published results makes it, with one condition more."""
    losses = folder / "published" / f"shot-{exposures}" / "expt1-gpt" / "gpt2_seen_data_0_0.0001_4_results.npz"
    losses.parent.mkdir(parents=True)
    seen = np.where(right, 1.0, 3.0).astype(np.float32)
    arrays = {"seen_losses": seen, "unseen_losses": np.full(len(seen), 2, np.float32)}
    np.savez(losses, **arrays, accuracies=right, mean_accuracy=np.mean(right))
    store = Store(folder / "results")
    import_results(str(folder / "published"), store)
    return store


def test_the_command_compares_two_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [stored(tmp_path / name, right).location for name, right in zip("ab", flipped(18), strict=True)]
    assert main(["compare", *stores]) == 0
    printed = capsys.readouterr().out
    assert "recognition: share of pairs told apart" in printed and "differs" in printed and "+0.030" in printed
    assert "1 condition: 1 differ, 0 equivalent within 0.02, 0 undecided; 1 with shared items, paired." in printed
    assert main(["compare", *stores, "--csv", "--kind", "recognition", "--by", "model,lr"]) == 0
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["model"], row["verdict"], row["test"]) == ("gpt2", "differs", "McNemar, exact")


def test_the_command_compares_two_sweeps_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for exposures, right in zip((1, 2), flipped(18), strict=True):
        store = stored(tmp_path, right, exposures)
        [name] = store.names("recognition") - {one["name"] for one in latest_manifests(store).get("once", [])}
        stage, probe, condition = name.split("-")
        sweep = "once" if exposures == 1 else "twice"
        write_manifest(store, sweep, [Manifest("recognition", name, condition, stage, probe)])
    assert main(["compare", "twice", "once", "--store", store.location]) == 0
    assert "twice less once" in (printed := capsys.readouterr().out) and "-0.030" in printed
    assert main(["compare", "once", store.location, "--store", store.location, "--by", "exposures"]) == 0
    assert "In one alone, and left out: 0 of A, 1 of B." in capsys.readouterr().out


def test_the_command_says_what_it_does_not_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = stored(tmp_path, flipped(1)[0]).location
    for arguments, line in {
        ("nowhere", store): "nowhere is neither a store nor a sweep of one",
        (store, store, "--kind", "recall"): f"{store} has no recall; it has recognition",
        (store, store, "--by", "model,speed"): "there is no column 'speed'; there are condition_id,",
        (store, store, "--margin", "0"): "margin must be above 0",
    }.items():
        assert main(["compare", "--store", str(tmp_path / "none"), *arguments]) == 2
        assert line in capsys.readouterr().err
