"""The benchmark times ways that give the same results, and notices when they do not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks import executed, grid, passed_once, planned, real, results, ways
from benchmarks.child import Failed
from benchmarks.equality import Unequal, compare, compare_stores
from benchmarks.harness import GPT2, TASKS
from benchmarks.harnessed import answering, built, timed
from benchmarks.material import MODEL, Material, lengthen, make, padding_efficiency
from benchmarks.parts import PARTS as ALL_PARTS
from benchmarks.parts import Bench, finding
from benchmarks.prefixed import NATS, _apart
from benchmarks.retained import stops
from benchmarks.ways import PARTS, WAYS, way_of
from memexp.core.pass_memory import SharedPass
from memexp.plan import bundle, grow
from memexp.stimuli.tiny import model_folder
from memexp.store import Store

SMALL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Twenty sentences and a tiny model, with one exposure behind it in `trained`."""
    torch.set_num_threads(1)
    made = make(tmp_path_factory.mktemp("benchmark"), sentences=20, model=SMALL, vocabulary=600)
    way = way_of("published", made.model)
    ways.run(way, "study", made, lr=1e-2)
    way.model.save_pretrained(made.trained)
    way.tokenizer.save_pretrained(made.trained)
    return made


def outcomes(material: Material, part: str) -> dict[str, list[Any]]:
    folder = material.model if part == "study" else material.trained
    return {name: ways.timed(way_of(name, folder), part, material)[2] for name in WAYS}


@pytest.mark.parametrize("part", PARTS)
def test_all_ways_give_the_same(material: Material, part: str) -> None:
    found = compare(part, outcomes(material, part))
    assert set(found) == {"careful", "memexp"}


def test_another_order_is_noticed(material: Material) -> None:
    first = material.order()[0]
    shifted = ways.run(way_of("published", material.model), "study", material, order=first[1:] + first[:1])
    ours = ways.run(way_of("memexp", material.model), "study", material)
    with pytest.raises(Unequal, match="study, memexp and published: losses differ"):
        compare("study", {"published": shifted, "memexp": ours})


@pytest.mark.parametrize(("part", "message"), [("recognition", "NLLs differ"), ("recall", "completions differ")])
def test_other_weights_are_noticed(material: Material, part: str, message: str) -> None:
    expected = ways.run(way_of("published", material.trained), part, material)
    untrained = ways.run(way_of("memexp", material.model), part, material)
    with pytest.raises(Unequal, match=message):
        compare(part, {"published": expected, "memexp": untrained})


@pytest.mark.parametrize(
    ("part", "spoil"),
    [
        ("study", lambda losses: losses[:-1]),
        ("study", lambda losses: [float("nan"), *losses[1:]]),
        ("study", lambda losses: [*losses[:-1], float("nan")]),
        ("recognition", lambda nlls: [*nlls[:-1], float("nan")]),
        ("recognition", lambda nlls: [nlls[0] + 2e-5, *nlls[1:]]),
        ("recall", lambda items: [{**items[0], "completion": [7]}, *items[1:]]),
        ("recall", lambda items: [{**items[0], "rouge2": items[0]["rouge2"] + 1e-6}, *items[1:]]),
    ],
)
def test_every_kind_of_difference_is_noticed(
    material: Material, part: str, spoil: Callable[[list[Any]], list[Any]]
) -> None:
    folder = material.model if part == "study" else material.trained
    expected = ways.run(way_of("published", folder), part, material)
    compare(part, {"published": expected, "memexp": expected})
    with pytest.raises(Unequal):
        compare(part, {"published": expected, "memexp": spoil(expected)})


def test_a_flipped_decision_is_noticed() -> None:
    with pytest.raises(Unequal, match="1 of 1 decisions flipped"):
        compare("recognition", {"published": [2.0, 2.000001], "memexp": [2.000001, 2.0]})


@pytest.mark.parametrize("name", TASKS)
def test_all_ways_behind_the_harness_give_the_same(material: Material, name: str) -> None:
    lengthen(material)
    asked = TASKS[name]
    folder = material.long if asked.model == GPT2 else model_folder(asked.model)
    found = {
        way: timed(answering(how, folder), built(asked, entities=4))[2]
        for way, how in {"memexp": "memexp", "HFLM": "hflm@5", "on ours": "hflm-on-ours@8", "alone": "nobody"}.items()
    }
    nobody = found.pop("alone")
    assert set(compare(f"harness {name}", found, reference="HFLM")) == {"memexp", "on ours"}
    with pytest.raises(Unequal, match=f"harness {name}, memexp and HFLM: .* answers differ"):
        compare(f"harness {name}", {"HFLM": found["HFLM"], "memexp": nobody}, reference="HFLM")


def test_prompts_that_do_not_fit_are_not_timed(material: Material) -> None:
    with pytest.raises(ValueError, match="do not fit the model's context"):
        timed(answering("memexp", material.model), built(TASKS["letters"], entities=4))  # 128 tokens at most


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"answers": [[-2.0, False], [-1.0, False]]}, "1 of 1 answers differ"),
        ({"answers": [[-1.0, True], [-2.0, False]]}, "1 of 1 answers differ"),
        ({"answers": [[-1.0, False], [-2.0001, False]]}, "log-likelihoods differ by"),
        ({"answers": [[-1.0, False], [float("nan"), False]]}, "log-likelihoods differ by inf"),
        ({"metrics": {"acc": 0.0}}, "metrics differ"),
    ],
)
def test_every_kind_of_other_answer_is_noticed(spoilt: dict[str, Any], message: str) -> None:
    item = {"answers": [[-1.0, False], [-2.0, False]], "metrics": {"acc": 1.0}}
    near = {**item, "answers": [[-1.000001, False], [-2.0, False]]}
    compare("harness choice", {"HFLM": [item], "memexp": [near]}, reference="HFLM")
    with pytest.raises(Unequal, match=message):
        compare("harness choice", {"HFLM": [item], "memexp": [item | spoilt]}, reference="HFLM")


def test_hflm_is_timed_with_its_best_batch_size(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = {"memexp": 2.0, "hflm@16": 3.0, "hflm-on-ours@64": 1.0, "nobody": 0.5}
    text = {"answers": ["a fox"], "metrics": {"f1": 1.0}}
    asked: list[str] = []

    def told(self: Bench, module: str, way: str, task: str) -> dict[str, Any]:
        asked.append(way)
        return {"cpu": cpu.get(way, 9.0), "wall": 0.0, "result": [text]}

    monkeypatch.setattr(Bench, "told", told)
    found = ALL_PARTS["harness"](Bench(material, tmp_path, pairs=2, grid_pairs=2))
    assert len(asked) == len(TASKS) * (2 * 5 + 1 + 2 * 4)
    title = "facts_qa, 0 shots, tiny-m"
    assert found["series"][f"{title}: HFLM, 16 at a time"] == [3.0, 3.0]
    assert found["series"][f"{title}: the harness alone"] == [0.5, 0.5]
    whole, scorer = found["findings"][:2]
    assert (whole["what"], whole["median"], whole["verdict"]) == (f"{title}: HFLM / memexp", 1.5, "floor held")
    assert (scorer["median"], scorer["verdict"]) == (0.5, "")
    assert len(found["findings"]) == 2 * len(TASKS)


def test_prompts_in_full_are_beside_those_that_share(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"cpu": {"in full": [3.0, 6.0], "shared": [1.0, 4.0]}, "apart": 1e-7, "items": 8}
    told = {"questions with 5 shots as published, GPT-2": case, "letters": case}
    monkeypatch.setattr(Bench, "told", lambda *_: told)
    found = ALL_PARTS["prefixes"](Bench(material, tmp_path, pairs=1, grid_pairs=1))
    assert [one["values"] for one in found["findings"]] == [[3.0, 1.5]] * 2
    assert [one["verdict"] for one in found["findings"]] == ["floor held", ""]
    assert found["equality"]["letters"] == {"items": 8, "nats": 1e-7}


def test_four_probes_are_beside_one(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = {"recognition": [1.0, 2.0], "apart": [3.0, 6.0], "together": [1.2, 2.4]}
    monkeypatch.setattr(Bench, "train", lambda _: None)
    monkeypatch.setattr(Bench, "told", lambda *_: {"cpu": cpu, "texts": 8})
    once, apart = ALL_PARTS["passes"](Bench(material, tmp_path, pairs=1, grid_pairs=1))["findings"]
    assert (once["values"], once["verdict"]) == ([pytest.approx(1.2)] * 2, "held") and apart["values"] == [3.0, 3.0]


def test_a_plan_is_measured_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned.planned(tmp_path, seeds=1)
    assert found.plan["steps_unshared"] == 100 * 15 * sum(range(1, 11)) and 0 < found.cpu < 60 and 50 < found.mib < 1000
    monkeypatch.setattr(planned, "SCRIPT", planned.SCRIPT.replace("seed=seed", "seed=exposures"))
    with pytest.raises(Unequal, match="5501 stages"):
        planned.planned(tmp_path, seeds=1)


def test_a_shared_pass_that_moves_a_number_is_refused(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(passed_once.measured(material.model, 4, rounds=1)["cpu"]) == {*passed_once.WAYS}
    real = SharedPass.token_nlls
    monkeypatch.setattr(SharedPass, "token_nlls", lambda *given: [each * 1.0001 for each in real(*given)])
    with pytest.raises(Unequal, match="passed once: recognition"):
        passed_once.measured(material.model, 4, rounds=1)


def test_likelihoods_that_sharing_would_move_are_refused() -> None:
    one = [[(-1.0, False), (-2.0, True)]]
    assert _apart(one, [[(-1.0 + NATS / 2, False), (-2.0, True)]]) == pytest.approx(NATS / 2)
    assert _apart([["yes"]], [["yes"]]) == 0
    for other in ([[(-1.0 + 2 * NATS, False), (-2.0, True)]], [[(-2.0, False), (-1.0, True)]]):
        with pytest.raises(Unequal):
            _apart(one, other)
    with pytest.raises(Unequal):
        _apart([["yes"]], [["no"]])


def test_the_lists_are_as_long_as_those_of_experiment_1(tmp_path: Path) -> None:
    material = make(tmp_path, sentences=60, model=SMALL, vocabulary=4_096)
    assert 0.31 < padding_efficiency(material) < 0.37
    assert make(tmp_path / "again", 60, SMALL).texts("foils") == material.texts("foils")


def test_the_benchmarked_model_is_of_the_stated_size(tmp_path: Path) -> None:
    way = way_of("published", make(tmp_path, sentences=2, model=MODEL).model)
    assert 4.1e6 < sum(p.numel() for p in way.model.parameters()) < 4.5e6


def test_sweeps_come_to_the_trials_that_are_timed(material: Material) -> None:
    def trials(name: str, slots: int) -> int:
        forest = grow(executed.SWEEPS[name](material).conditions)
        return len(bundle(forest, forest.asks, lambda _: slots))

    assert trials("seeds", 2) == 4
    assert trials("tiny", 2) == executed.TINY_TRIALS == 200
    assert len(grow(executed.grid(material).conditions).asks) == 2 * 9


def test_a_sweep_in_a_plain_process_and_its_cells(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executed, "check_models", lambda *_: {})  # asks a child process
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    sweep = executed.grid(material)
    executed.plain(sweep, first, processes=1)
    shutil.copytree(first.location, second.location)
    assert compare_stores(first, second) == {"recognition": 9 * 20, "recall": 9 * 20, "training": 3 * 3 * 2}
    cells = grid._cells(first)
    assert len(cells) == 9 and set(cells["lr 0.001, 3 exposures"]) == {
        *("recognition", "rouge1", "rouge2", "rougeL", "rougeLsum")
    }
    assert grid.worst(cells, cells) == 0.0
    executed.plain(executed.tiny(material, 1), second, processes=1)
    with pytest.raises(Unequal, match="recognition: the two stores differ"):
        compare_stores(first, second)


def test_cells_that_lack_or_are_no_number_are_infinitely_far() -> None:
    cells = {"a": {"recognition": 0.5, "rouge1": 0.2}, "b": {"recognition": 1.0, "rouge1": 0.3}}
    near = {**cells, "b": {"recognition": 0.98, "rouge1": 0.3}}
    assert grid.worst(cells, cells) == 0 and grid.worst(near, cells) == pytest.approx(0.02)
    assert grid.worst({"a": cells["a"]}, cells) == float("inf")
    assert grid.worst({**cells, "b": {"recognition": 1.0, "rouge1": float("nan")}}, cells) == float("inf")


def test_verdicts() -> None:
    def verdict(*values: float, **asked: float) -> str:
        return str(finding("ratio", values, **asked)["verdict"])

    assert verdict(1.0, 3.5, 9.0, at_least=2.4, aim=3.0) == "aim reached"
    assert verdict(2.5, at_least=2.4, aim=3.0) == "floor held, aim missed"
    assert verdict(2.3, at_least=2.4) == "floor missed"
    assert verdict(1.2, at_most=1.1) == "missed"
    assert verdict(1.0, at_most=1.1) == "held"


def test_parts_are_added_to_what_was_there_and_shown(tmp_path: Path) -> None:
    made = results.made("python -m benchmarks", 20, 5)
    assert str(Path.home()) not in str(made)
    part = {
        "equality": {"memexp": {"loss_relative": 1e-7}},
        "unit": "CPU seconds",
        "series": {"published": [3.0], "memexp": [1.0]},
        "findings": [finding("(a) published / memexp", [3.0], at_least=2.4, aim=3.0)],
    }
    results.add(tmp_path, "parts", "study", part | made)
    results.add(tmp_path, "parts", "grid", part | {"equality": {"bfloat16": "not measured: no such CPU"}} | made)
    profile = {"cpu": 1.0, "lines": [["a | b", 0.5]], "functions": [["f", 0.5]], "operations": [["mm", 0.9, 3]]}
    results.add(tmp_path, "profiles", "study", profile | made)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| Study, one exposure: (a) published / memexp | 3 | 3 to 3 | at least 2.4, aim 3 | aim reached |" in text
    assert "- bfloat16 not measured: no such CPU" in text and "| `mm` | 90.0% | 3 |" in text and "a \\| b" in text


def test_the_long_trajectory_has_twelve_probes_and_is_equal_with_them(material: Material, tmp_path: Path) -> None:
    assert stops("twelve", 1000) == [1, 2, 4, 7, 12, 23, 43, 81, 152, 285, 534, 1000]
    assert stops("one", 1000) == [1000]
    found = ALL_PARTS["retention"](Bench(material, tmp_path, pairs=1, grid_pairs=1))  # 20 steps
    assert found["equality"] == {"items after the last step, equal to the last bit": 4}
    assert [item["what"] for item in found["findings"]] == [
        "twelve probes / one probe",
        "twelve probes and ten snapshots / one probe",
    ]


def test_the_real_model_is_measured_by_both_ways(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(material, tmp_path, pairs=1, grid_pairs=1)
    monkeypatch.setattr(real, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(Failed, match="`make real` makes it"):
        ALL_PARTS["real"](bench)
    monkeypatch.setattr(real, "FOLDER", material.model)
    there = real.material_of(bench)
    assert (there.lr, material.lr, there.texts("foils")) == (real.LR, None, material.texts("foils"))

    def measure(bench: Bench, way: str, part: str) -> dict[str, Any]:
        """In this process, for a seventh of a second more in each way."""
        folder = bench.material.model if part == "study" else bench.material.trained
        result = ways.timed(way_of(way, folder), part, bench.material)[2]
        return {"cpu": (list(WAYS).index(way) + 1) / 7, "result": result}

    monkeypatch.setattr(Bench, "measure", measure)
    found = ALL_PARTS["real"](bench)
    assert found["equality"]["study"]["memexp"]["steps"] == 2 and len(found["series"]) == 3 * 2
    assert [item["what"] for item in found["findings"]] == [
        f"{part}: (a) published / memexp" for part in ("study", "recognition", "recall")
    ]
