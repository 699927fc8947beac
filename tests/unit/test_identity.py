"""Identities: the golden ones hold for good, and content alone decides about them.

A golden identity that changes orphans every result stored under it. If numbers have to change, bump
`memexp.identity.NUMERICS` and say so in the changelog; a new field gets a default that means what was meant before.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memexp import (
    EWC,
    QA,
    SGD,
    AdamW,
    BaseForgetting,
    Biographies,
    Canaries,
    Capacity,
    Choice,
    Condition,
    Continuation,
    Cyclic,
    Exposure,
    Extraction,
    FactRatios,
    InlineItems,
    InlineText,
    Interference,
    LayerAblation,
    LoRA,
    Membership,
    Model,
    Pair,
    PrefixOffset,
    Pretrain,
    Priming,
    Quantized,
    RandomInit,
    Recall,
    Recognition,
    Savings,
    Spaced,
    Spans,
    Study,
    TextFile,
    TextStream,
    TrainedTokenizer,
    TruthRatio,
    Unlearn,
)
from memexp.identity import canonical, identity, texts_identity
from memexp.plan import Forest, grow
from memexp.sources import read_texts
from memexp.spec import Probe, spec

TARGETS = ["The cat sat.", "A dog ran.", "Grüße aus Köln.", "The cat sat."]
FOILS = ["The hen sat.", "A fox ran.", "Birds sing.", "Nothing moved.", "One more."]


def write(file: Path, texts: Sequence[str]) -> TextFile:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"sent": text}) + "\n" for text in texts), encoding="utf-8")
    return TextFile(file)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(write(tmp_path / "targets.jsonl", TARGETS), write(tmp_path / "foils.jsonl", FOILS), name="golden")


def random_model(pair: Pair, seed: int = 0) -> Model:
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "layer_norm_epsilon": 1e-5}
    tokenizer = TrainedTokenizer([pair.targets, pair.foils], vocab_size=300)
    return Model("tiny", tokenizer=tokenizer, init=RandomInit(config, seed=seed))


def local_model(folder: Path) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(b'{"model_type": "gpt2"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "tokenizer.json").write_bytes(b"{}")
    return Model(str(folder))


def condition(pair: Pair, **fields: Any) -> Condition:
    study = {"corpus": pair.targets, "exposures": 3, "lr": 1e-3, "batch_size": 2} | {
        name: fields.pop(name) for name in list(fields) if name in Study.__dataclass_fields__
    }
    known = {"model": random_model(pair), "probes": [Recognition(pair), Recall()], "study": Study(**study)}
    return Condition(**(known | fields))


def ids(made: Condition) -> dict[str, list[str]]:
    forest = grow([made])
    return {
        "stages": [stage.id for stage in forest.path(forest.asks[0].stage)],
        "probes": [ask.probe_id for ask in forest.asks],
        "condition": [forest.asks[0].condition_id],
    }


# Golden ones


def test_golden_random_model(pair: Pair) -> None:
    assert ids(condition(pair)) == {
        "stages": ["5b7a2ee22e782a48", "445cb25c2e359807", "ba3cfd15cc8b4dae", "867b9f549f5d5788"],
        "probes": ["be6b2c111395c3f9", "0f089b9a0d284ca8"],
        "condition": ["b132596fcfe4c2b2"],
    }


def test_golden_local_folder(pair: Pair, tmp_path: Path) -> None:
    assert ids(condition(pair, model=local_model(tmp_path / "model"), exposures=1, seed=3)) == {
        "stages": ["5406157f9288cab9", "d4d838f32529518b"],
        "probes": ["be6b2c111395c3f9", "0f089b9a0d284ca8"],
        "condition": ["21e04436dd0f1ba1"],
    }


def test_golden_adapter(pair: Pair) -> None:
    method = LoRA(r=4, alpha=8, rslora=True, dropout=0.1, targets=["c_attn"], seed=1)
    assert ids(condition(pair, method=method, exposures=1, labels={"experiment": 1, "list": "a"})) == {
        "stages": ["b4e67794db58264d", "436fa83dec9829c0"],
        "probes": ["be6b2c111395c3f9", "0f089b9a0d284ca8"],
        "condition": ["93bc69df386715cf"],
    }


def test_golden_schedule(pair: Pair) -> None:
    made = condition(
        pair,
        block_size=64,
        schedule="linear",
        warmup_ratio=0.1,
        dropout=0.0,
        weight_decay=0.01,
        clip_norm=1.0,
        dtype="bfloat16",
        probes=[Recognition(pair, block_size=32), Recall(corpus=pair.foils)],
    )
    assert ids(made) == {
        "stages": ["442cbd641a2196c1", "7956b4667c7ffa86"],
        "probes": ["f2511adff34adea1", "b4075901e42191e9"],
        "condition": ["53be6049529b7643"],
    }


def test_golden_optimizers(pair: Pair) -> None:
    """AdamW by its name is what it was without; of SGD each momentum is another trajectory, and nothing is shared."""
    between = Interference(pair.foils, steps=2, lr=1e-3, batch_size=2)
    named = Interference(pair.foils, steps=2, lr=1e-3, batch_size=2, optimizer=AdamW())
    plain = ids(condition(pair, exposures=1, interference=between))
    assert ids(condition(pair, exposures=1, interference=named, optimizer=AdamW())) == plain
    found = [ids(condition(pair, exposures=1, optimizer=SGD(momentum))) for momentum in (0.0, 0.9)]
    assert [[one["stages"][1], *one["condition"]] for one in found] == [
        ["4083edfbe684676a", "c245e590fcf7f318"],
        ["c062b33387f946ce", "eb56e238e92c254c"],
    ]
    others = [
        ids(condition(pair, exposures=1, interference=dataclasses.replace(between, optimizer=other)))
        for other in (SGD(), SGD(0.9), "carried")
    ]
    assert len({plain["stages"][-1], *(one["stages"][-1] for one in others)}) == 4
    pretrained = [
        ids(condition(pair, exposures=0, pretrain=Pretrain(pair.foils, 3, lr=1e-3, batch_size=2, optimizer=optimizer)))
        for optimizer in (AdamW(), SGD())
    ]
    assert pretrained[0]["stages"][1] != pretrained[1]["stages"][1]


def test_golden_presentations(pair: Pair) -> None:
    """Exposures in time, of single texts and in other words; a second study; what is unlearned and protected."""
    filler = InlineText("filler", ["One.", "Two.", "Three."])
    found = [
        ids(condition(pair, **fields))
        for fields in (
            {"presentation": Spaced(filler, gap=2, factor=2, beside=1)},
            {"presentation": Cyclic(steps=2)},
            {"times": (0, 1, 2)},
            {"variants": [InlineText("again", FOILS[:4])]},
            {"exposures": 1, "further_batches": 1},
            {"then": Study(pair.foils, exposures=1, lr=1e-3, batch_size=2)},
            {"unlearn": Unlearn("npo", steps=2, lr=1e-3, batch_size=2, retain=filler)},
            {"interference": Interference(filler, 2, 1e-3, 2, replay=0.5, protect=EWC(strength=10.0))},
        )
    ]
    assert [[one["stages"][-1], *one["condition"]] for one in found] == [
        ["711c39b9bdf80161", "c45b37bef7fdc25c"],
        ["428ba41caca65423", "813e0efee9163a7e"],
        ["258bca7af37a7272", "13c5131372a3eb1e"],
        ["cdba24ff79a2da9f", "d7e8179743aa26b5"],
        ["fa5c7097a40f727b", "d40c1f4555608d86"],
        ["dcf4d2e9cff0ac56", "65d4bdf4c6a88d06"],
        ["55be393670b253c3", "846d0181b3db3e20"],
        ["b24d6979acedc1db", "654c8b1374bd42b5"],
    ]


def test_golden_pretraining(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "stream.txt").write_text("One.\nTwo.\n")
    stream = TextStream(tmp_path / "stream.txt")
    settings = {"steps": 3, "lr": 1e-3, "batch_size": 2}
    between = Interference(pair.foils, steps=2, lr=1e-3, batch_size=2)
    plain = condition(pair, exposures=1, pretrain=Pretrain(pair.foils, **settings), interference=between)
    other = condition(pair, exposures=0, pretrain=Pretrain(stream, schedule="linear", seed=1, **settings))
    assert [{name: found[name] for name in ("stages", "condition")} for found in map(ids, (plain, other))] == [
        {
            "stages": ["5b7a2ee22e782a48", "15378bcd542d047b", "9de9a50d035387b1", "5d0db278ae509c38"],
            "condition": ["7cb5210048b0add1"],
        },
        {"stages": ["5b7a2ee22e782a48", "11a5edd794153286"], "condition": ["46ecc4684910da2f"]},
    ]


def test_golden_questions_and_facts(pair: Pair) -> None:
    """Rows wherever they are kept, other columns left out; a probe within a probe included."""
    questions = InlineItems("a", [{"question": "Who?", "answer": "Nobody", "note": 1}])
    choices = InlineItems("b", [{"question": "Who?", "choices": ["he", "she"], "answer": 1, "fact": "x"}])
    facts = InlineItems("c", [{"head": "A", "relation": "capital", "tail": "B"}])
    probes = [
        QA(questions),
        QA(questions, task="who", shots_from="other facts"),
        Choice(choices),
        Choice(choices, formulation="cloze"),
        LayerAblation(QA(questions)),
        LayerAblation(Choice(choices)),
        FactRatios(facts),
    ]
    assert ids(condition(pair, probes=probes))["probes"] == [
        "6ca9d63e65378926",
        "d203c0b85ce192ec",
        "0458bc8138ef7a17",
        "083e0a960a5e8d21",
        "9cc1a3e8ab56c384",
        "3bfdc6238c4caeb7",
        "136b02b1bccf9851",
    ]


def test_golden_single_texts(pair: Pair) -> None:
    """What is asked of every token."""
    probes = [
        Extraction(),
        Extraction(pair.foils, prefixes=[4, 8], suffix=8, temperature=0.5, top_k=0, p=0.9, block_size=32),
        Membership(pair),
        Membership(pair, k=40, reference=False, block_size=32),
    ]
    assert ids(condition(pair, probes=probes))["probes"] == [
        "dba9477f1a1e298a",
        "1b373e2fdd7cb5b8",
        "ffd4b2dee988fb7c",
        "5c413f1eb772f6aa",
    ]


def test_golden_of_what_is_left(pair: Pair) -> None:
    """Of restudy, of few bits, and against wrong answers."""
    items = InlineItems("questions", [{"question": "Why?", "answer": "So.", "perturbed_answer": ["No."]}])
    probes = [
        Savings(),
        Savings(pair.foils, criterion=1.0, most=10, every=2, lr=1e-4, optimizer=SGD(), seed=3),
        Quantized(Recall()),
        Quantized(Recognition(pair), bits=8, group=32),
        TruthRatio(items),
        TruthRatio(items, task="mine", prompt="{question}", most_tokens=9),
    ]
    assert ids(condition(pair, probes=probes))["probes"] == [
        "735ecb2b598d96fe",
        "552ef6f5a3e0c55b",
        "0c4f2af9fdcaa813",
        "454649a05f6be651",
        "e8f4808f921a1eb6",
        "91d2acb068620dee",
    ]


def test_golden_of_one_pair_and_of_what_is_written(pair: Pair) -> None:
    canaries = Canaries(length=4, count=2)
    prompts = InlineItems("prompts", [{"prompt": "It is", "gt": "so."}])
    questions, shots = (InlineItems(name, [{"question": "Why?", "answer": name}]) for name in ("few", "more"))
    probes = [
        Exposure(canaries, pair=canaries.pair()),
        Continuation(prompts),
        Continuation(questions, shots, most_tokens=32, task="mine"),
    ]
    asked = condition(dataclasses.replace(pair, targets=canaries.pair().targets), probes=probes)
    assert ids(asked)["probes"] == ["14fae1e9485e40ff", "e8c85d8e564e7409", "01cd995ae72e4acf"]


def test_golden_one_pass(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of canaries, spans, biographies, general text and keywords."""
    monkeypatch.setattr("memexp.plan.list_remarks.cut", lambda *_: 0)  # the biographies are longer than these blocks
    canaries = Canaries(length=4, count=2)
    mixed = dataclasses.replace(canaries.corpus(), name="mixed")
    spans = InlineItems("s", [{"train_context": "a b", "mem_input": ["a"], "mem_target": ["b"]}])
    probes = [
        Exposure(canaries, mixed),
        Exposure(canaries, mixed, "all", seed=1, block_size=32),
        Spans(spans),
        Capacity(canaries, mixed),
        Capacity(Biographies(2), Biographies(2).corpus(), reference=False),
        BaseForgetting(pair.foils),
        PrefixOffset(),
        PrefixOffset(pair.foils, prefixes=[4], offsets=[0, 2], suffix=4, block_size=32),
        Priming(InlineItems("k", [{"keyword": "a", "prefixes": ["b"]}])),
    ]
    assert ids(condition(pair, probes=probes))["probes"] == [
        "0032cd0c58574a1b",
        "8a97ae300c9d8ccc",
        "c4622682d20c59f1",
        "7f752788c59d82f2",
        "530ca9dc17b182ab",
        "075a4816097049c9",
        "5eaf11338f5ede1b",
        "f6ffe06acbd40b97",
        "8aead4f2536546ab",
    ]


def test_golden_texts() -> None:
    assert texts_identity(TARGETS) == "68edde797a1bd15a"


def test_golden_json() -> None:
    """The first 16 digits of the SHA-256 of compact JSON with sorted keys, as any tool can compute them."""
    text = '{"a":[1,3e-05,null,true],"b":"ü"}'
    assert identity({"b": "ü", "a": [1, 3e-5, None, True]}) == hashlib.sha256(text.encode()).hexdigest()[:16]


# What decides


def test_a_field_at_its_default_is_left_out() -> None:
    """So that a field added later keeps old identities: here the same class, a version younger."""

    def version(*later: tuple[str, type, Any]) -> type:
        return dataclasses.make_dataclass("Study", [("lr", float), ("momentum", float, 0.9), *later])

    old, new = version(), version(("nesterov", bool, dataclasses.field(default=False)))
    assert canonical(old(1e-3)) == canonical(new(1e-3)) == {"Study": {"lr": 1e-3}}
    assert canonical(new(1e-3, nesterov=True)) == {"Study": {"lr": 1e-3, "nesterov": True}}
    assert canonical(old(1e-3, momentum=0.5)) == {"Study": {"lr": 1e-3, "momentum": 0.5}}


def test_a_probe_with_one_more_field_keeps_its_identity(pair: Pair) -> None:
    @spec
    class Longer(Recall):
        beams: int = 1
        tags: tuple[str, ...] = ()

    # as memexp itself would add a field
    Longer.__name__, Longer.__qualname__, Longer.__module__ = "Recall", "Recall", Recall.__module__
    plain, longer, other = (ids(condition(pair, probes=[probe])) for probe in (Recall(), Longer(), Longer(beams=4)))
    assert plain == longer
    assert plain["probes"] != other["probes"] and plain["stages"] == other["stages"]


def test_who_edits_a_probe_of_his_own_gets_new_numbers(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from memexp.probes import Recall
from memexp.spec import spec

@spec
class Mine(Recall):
    kind = "mine"
    def measure(self, session, texts):
        return {}
"""
    found = []
    monkeypatch.syspath_prepend(tmp_path)
    for number, value in enumerate(("1", "1", "2")):
        (tmp_path / f"mine{number}.py").write_text(source.format(value))
        found.append(ids(condition(pair, probes=[importlib.import_module(f"mine{number}").Mine()]))["probes"])
    assert found[0] == found[1] != found[2]


MINE = """
from memexp.probes import QA, LayerAblation, Recall
from memexp.spec import spec

class Base(Recall):
    def measure(self, session, texts):
        return {}

@spec
class Mine(Base):
    kind = "mine"

@spec
class Asked(QA):
    def measure(self, session, texts):
        return {}
"""


def test_what_a_probe_inherits_or_holds_is_its_own_as_well(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    items = InlineItems("questions", [{"question": "Why?", "answer": "So."}])
    found = []
    for number, value in enumerate(("1", "1", "2")):
        (tmp_path / f"inherits{number}.py").write_text(MINE.replace("{}", value))
        module = importlib.import_module(f"inherits{number}")
        probes = [module.Mine(), LayerAblation(module.Asked(items))]
        found.append(ids(condition(pair, probes=probes))["probes"])
    assert found[0] == found[1] and not set(found[0]) & set(found[2])


TYPED = """
@spec
class Typed(Recall):
    kind = "typed"
    def measure(self, session, texts):
        return [item for item in texts if item in {{"a", "b", "c"}} and len(item) > {}]
"""


def test_a_probe_without_a_source_file_is_known_by_its_code(pair: Pair) -> None:
    found = []
    for value in (1, 1, 2):
        names: dict[str, Any] = {"spec": spec, "Recall": Recall, "__name__": "typed_in"}
        exec(TYPED.format(value), names)  # as in an interpreter
        found.append(ids(condition(pair, probes=[names["Typed"]()]))["probes"])
    assert found[0] == found[1] != found[2]


def test_the_order_of_an_adapters_targets_decides_nothing(pair: Pair) -> None:
    orders = [("c_attn", "c_proj"), ("c_proj", "c_attn", "c_attn")]
    assert len({str(ids(condition(pair, method=LoRA(targets=targets)))) for targets in orders}) == 1


def test_defaults_made_by_a_factory_are_left_out(pair: Pair) -> None:
    made = canonical(condition(pair, probes=[Recall()]), lambda value: "corpus" if value == pair.targets else None)
    assert set(made["Condition"]) == {"model", "study", "probes"}


def test_the_same_number_written_otherwise_is_the_same(pair: Pair) -> None:
    assert ids(condition(pair, lr=1e-5)) == ids(condition(pair, lr=0.00001)) == ids(condition(pair, lr=10 / 1e6))
    assert ids(condition(pair, lr=1)) == ids(condition(pair, lr=1.0))
    assert ids(condition(pair, lr=1e-5))["stages"][1:] != ids(condition(pair, lr=1.0000001e-5))["stages"][1:]


def test_the_order_of_keys_decides_nothing() -> None:
    assert identity({"b": 1, "a": [2.0, "ü"]}) == identity({"a": [2.0, "ü"], "b": 1})
    assert identity([1, 2]) != identity([2, 1])
    assert identity({"a": 1}) != identity({"a": True}) != identity({"a": "1"})


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, -math.inf], {"a": {"b": math.nan}}])
def test_what_is_no_number_has_no_identity(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity(value)


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="has no canonical form"):
        canonical({"a": {1, 2}})


# Content, not container


def test_a_corpus_is_its_texts_wherever_and_however_they_are_kept(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a" / "list.jsonl", TARGETS)
    text = tmp_path / "list.txt"
    text.write_text("\n".join(TARGETS), encoding="utf-8")
    table = tmp_path / "list.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(TARGETS)])
    parquet = tmp_path / "list.parquet"
    pq.write_table(pa.table({"words": TARGETS}), parquet)
    other = write(tmp_path / "other.jsonl", TARGETS[:3])
    files = [jsonl, TextFile(text), TextFile(table), TextFile(parquet, field="words")]
    assert {read_texts(file).id for file in files} == {texts_identity(TARGETS)}
    assert read_texts(other).id != texts_identity(TARGETS)
    assert len({read_texts(file).name for file in files}) == 4


def test_two_lists_do_not_run_together() -> None:
    assert len({texts_identity(texts) for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["abc", ""])}) == 5


def test_where_the_files_are_decides_nothing(pair: Pair, tmp_path: Path) -> None:
    moved = Pair(
        write(tmp_path / "b" / "seen.jsonl", TARGETS), write(tmp_path / "b" / "new.jsonl", FOILS), name="moved"
    )
    assert ids(condition(pair)) == ids(condition(moved))
    here, there = local_model(tmp_path / "here" / "model"), local_model(tmp_path / "there" / "model")
    assert ids(condition(pair, model=here)) == ids(condition(pair, model=there))


# What a condition's identity takes in beyond its stages


def forest(*made: Condition) -> Forest:
    return grow(made)


def test_labels_and_learning_rate_are_of_the_condition_not_of_its_untrained_model(pair: Pair) -> None:
    made = [
        condition(pair, exposures=0),
        condition(pair, exposures=0, lr=1e-4),
        condition(pair, exposures=0, seed=1),
        condition(pair, exposures=0, batch_size=3),
        condition(pair, exposures=0, labels={"experiment": 1}),
        condition(pair, exposures=0, labels={"experiment": 2}),
    ]
    asks = forest(*made).asks
    assert len({ask.condition_id for ask in asks}) == len(made)
    assert len({ask.measurement for ask in asks}) == 2  # recognition and recall of one stage
    assert len({ask.name for ask in asks}) == 2 * len(made)


def test_probes_are_not_of_the_condition(pair: Pair) -> None:
    one, both = condition(pair, probes=[Recall()]), condition(pair)
    assert ids(one)["condition"] == ids(both)["condition"]
    assert ids(one)["probes"] == ids(both)["probes"][1:]


def test_a_probe_is_known_by_what_it_measures(pair: Pair) -> None:
    def probe(made: Probe, **fields: Any) -> str:
        return ids(condition(pair, probes=[made], **fields))["probes"][0]

    assert probe(Recall()) == probe(Recall(corpus=pair.targets, block_size=128)) == probe(Recall(), lr=1e-5, seed=4)
    assert probe(Recall()) != probe(Recall(corpus=pair.foils))
    assert probe(Recall()) != probe(Recall(block_size=64)) == probe(Recall(), block_size=64)
    assert probe(Recognition(pair)) != probe(Recognition(Pair(pair.targets, pair.targets)))
    assert probe(Recognition(pair)) == probe(Recognition(Pair(pair.targets, pair.foils, name="other")))
