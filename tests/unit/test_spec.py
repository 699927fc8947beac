"""Descriptions refuse bad values where they are made, in a line that names class and field."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import pickle
import pydoc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyarrow as pa
import pytest

import memexp
from memexp import (
    Condition,
    Forget,
    Full,
    HubText,
    InlineText,
    LoRA,
    Model,
    Pair,
    Probe,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    SpecError,
    Study,
    Sweep,
    TextFile,
    TrainedTokenizer,
    counterbalanced,
)
from memexp.spec import spec

PAIR = Pair("seen.jsonl", "unseen.jsonl")


def study(**fields: Any) -> Study:
    return Study(**({"corpus": PAIR.targets, "exposures": 1, "lr": 1e-3} | fields))


def condition(**fields: Any) -> Condition:
    return Condition(**({"model": Model("gpt2"), "study": study(), "probes": [Recall()]} | fields))


def sweep(**fields: Any) -> Sweep:
    return Sweep(**({"name": "small", "conditions": [condition()]} | fields))


def lora(**fields: Any) -> LoRA:
    return LoRA(**fields)


def resources(**fields: Any) -> Resources:
    return Resources(**fields)


def resources_of_two(**fields: Any) -> Resources:
    return Resources(workers=2, **fields)


def recall(**fields: Any) -> Recall:
    return Recall(**fields)


def pair(**fields: Any) -> Pair:
    return Pair(**({"targets": "seen.txt", "foils": "unseen.txt"} | fields))


def inline(**fields: Any) -> InlineText:
    return InlineText(**({"name": "mine", "texts": ["One.", "Two."]} | fields))


def model(**fields: Any) -> Model:
    return Model(**({"name": "gpt2"} | fields))


def random_init(**fields: Any) -> RandomInit:
    return RandomInit(**({"config": {"model_type": "gpt2"}} | fields))


def tokenizer(**fields: Any) -> TrainedTokenizer:
    return TrainedTokenizer(**({"corpora": ["seen.txt"]} | fields))


def forget(**fields: Any) -> Forget:
    return Forget(**fields)


BAD: list[tuple[Callable[..., Any], str, Any]] = [
    (study, "lr", 0),
    (study, "lr", -1e-3),
    (study, "lr", math.nan),
    (study, "lr", math.inf),
    (study, "lr", "1e-3"),
    (study, "lr", True),
    (study, "exposures", -1),
    (study, "exposures", True),
    (study, "exposures", 1.0),
    (study, "exposures", "3"),
    (study, "batch_size", 0),
    (study, "block_size", 1),
    (study, "schedule", "cosine"),
    (study, "warmup_ratio", 0.1),
    (study, "warmup_steps", -1),
    (study, "dropout", 1.0),
    (study, "dropout", math.nan),
    (study, "weight_decay", -0.1),
    (study, "clip_norm", 0),
    (study, "dtype", "float16"),
    (study, "corpus", 3),
    (study, "corpus", ""),
    (lora, "r", 0),
    (lora, "alpha", math.nan),
    (lora, "dropout", 1),
    (lora, "rslora", 1),
    (lora, "targets", "q_proj"),
    (lora, "targets", []),
    (pair, "name", "a/b"),
    (pair, "name", ".."),
    (pair, "name", "a..b"),
    (pair, "name", ".hidden"),
    (pair, "name", ""),
    (sweep, "name", "a/b"),
    (sweep, "name", "../a"),
    (sweep, "name", 3),
    (sweep, "conditions", []),
    (sweep, "conditions", condition()),
    (sweep, "conditions", [3]),
    (sweep, "resources", 2),
    (inline, "name", " "),
    (inline, "name", 3),
    (inline, "texts", []),
    (inline, "texts", "One."),
    (inline, "texts", ["One.", 2]),
    (inline, "texts", ["One.", b"Two."]),
    (inline, "texts", None),
    (inline, "texts", {"One."}),
    (model, "name", " "),
    (model, "init", "random"),
    (random_init, "config", 3),
    (random_init, "config", {"model_type": "gpt2", "layer_norm_epsilon": math.nan}),
    (random_init, "config", {"model_type": "gpt2", "eos": {1}}),
    (random_init, "seed", -1),
    (tokenizer, "corpora", []),
    (tokenizer, "vocab_size", 257),
    (condition, "seed", True),
    (condition, "seed", 2**63),
    (condition, "probes", []),
    (condition, "probes", Recall()),
    (condition, "probes", ["recall"]),
    (condition, "probes", [Recall]),
    (condition, "method", "lora"),
    (condition, "model", "gpt2"),
    (condition, "labels", {"a b": 1}),
    (condition, "labels", {"1st": 1}),
    (condition, "labels", {"experiment": None}),
    (condition, "labels", {"experiment": math.nan}),
    (condition, "labels", {"experiment": 2**63}),
    (condition, "labels", {"experiment": "half \ud800"}),
    (condition, "forget", 3),
    (forget, "from_layer", -1),
    (forget, "from_layer", True),
    (forget, "below_layer", 0),
    (forget, "restudy_exposures", -1),
    (resources, "workers", 0),
    (resources, "cpus", math.inf),
    (resources, "gpus", -1),
    (resources, "gpus", 2),
    (resources, "gpus", 1.5),
    (resources, "spread", 1),
    (resources_of_two, "gpus", 0.5),
    (recall, "block_size", 0),
    (recall, "corpus", 3),
]


@pytest.mark.parametrize(("make", "field", "value"), BAD, ids=lambda given: getattr(given, "__name__", str(given)[:30]))
def test_a_bad_value_is_refused_in_a_line_that_names_its_field(
    make: Callable[..., Any], field: str, value: Any
) -> None:
    with pytest.raises(SpecError) as error:
        make(**{field: value})
    made = type(make()).__name__ if make is not pair else "Pair"
    text = str(error.value)
    assert text.startswith(f"{made}.{field}"), text
    assert text.count("\n") <= 1 and len(text) < 300


def test_what_the_bad_values_are_put_into_is_good() -> None:
    for make in {make for make, _, _ in BAD}:
        assert make() is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: study(exposure=3), "Study has no field 'exposure'; did you mean 'exposures'?"),
        (lambda: Study("seen.txt", exposure=3, lr=1), "Study has no field 'exposure'; did you mean 'exposures'?"),
        (lambda: Recall(blocksize=3), "Recall has no field 'blocksize'; did you mean 'block_size'?"),
        (lambda: sweep(resource=Resources()), "Sweep has no field 'resource'; did you mean 'resources'?"),
        (lambda: LoRA(rank=8), "LoRA has no field 'rank'; it has r, alpha, rslora, dropout, targets, seed"),
        (lambda: InlineText("mine"), "InlineText.texts is required"),
        (lambda: InlineText("mine", text=["One."]), "InlineText has no field 'text'; did you mean 'texts'?"),
        (
            lambda: study(corpus=["One."]),
            "Study.corpus: must be TextFile(...) or HubText(...) or ShippedText(...) or InlineText(...), got ['One.']",
        ),
        (
            lambda: Forget(from_layer=1, below_layer=1),
            "Forget.from_layer and Forget.below_layer exclude each other",
        ),
        (lambda: Full(r=8), "Full has no field 'r'; it has none"),
        (lambda: Study("seen.txt", lr=1), "Study.exposures is required"),
        (lambda: Pair("a", "b", "c", "d"), "Pair takes at most 3 values: targets, foils, name"),
        (lambda: Study("seen.txt", -1, 1), "Study.exposures: Input should be greater than or equal to 0, got -1"),
        (
            lambda: Study("seen.txt", 10**9, 1),
            "Study.exposures: Input should be less than or equal to 100000, got 1000000000",
        ),
        (
            lambda: Forget(restudy_exposures=10**9),
            "Forget.restudy_exposures: Input should be less than or equal to 100000, got 1000000000",
        ),
        (
            lambda: study(schedule="linear", warmup_ratio=0.1, warmup_steps=1),
            "Study.warmup_ratio and Study.warmup_steps exclude each other",
        ),
        (
            lambda: Model("new", init=random_init()),
            "Model.tokenizer is required with init: a hub id, a folder, or TrainedTokenizer(...)",
        ),
        (
            lambda: Model("new", revision="main", tokenizer="gpt2", init=random_init()),
            "Model.revision makes no sense with init: random weights have no revision",
        ),
        (
            lambda: Model("gpt2", tokenizer=tokenizer()),
            "Model.tokenizer: a TrainedTokenizer needs init: pretrained weights know another vocabulary",
        ),
    ],
)
def test_the_message_says_what_to_type_instead(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["stages", "training", "sweeps", "a/b", "", "a" * 101])
def test_a_probe_cannot_write_among_the_stores_own_tables(kind: str) -> None:
    given = kind

    @spec
    class Mine(Probe):
        kind: ClassVar[str] = given

        @classmethod
        def schema(cls) -> pa.Schema:
            return pa.schema([("item", pa.int64())])

        def measure(self, session: Any, texts: Any) -> pa.Table:
            raise NotImplementedError

    with pytest.raises(SpecError, match=r"Mine\.kind"):
        condition(probes=[Mine()])


def test_whole_numbers_may_stand_for_floats_and_paths_for_files() -> None:
    made = study(lr=1, corpus=Path("lists/seen.jsonl"))
    assert (made.lr, type(made.lr)) == (1.0, float)
    assert made.corpus == TextFile("lists/seen.jsonl")
    assert sweep(conditions=(condition(seed=seed) for seed in range(3))).conditions[2].seed == 2


def test_descriptions_are_frozen() -> None:
    for made in (study(), condition(), Model("gpt2"), LoRA(), Resources(), Recall(), PAIR, inline(), sweep()):
        field = dataclasses.fields(made)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field, getattr(made, field))


def test_descriptions_travel_pickled() -> None:
    made = condition(
        model=Model("new", tokenizer=tokenizer(), init=random_init()),
        method=LoRA(targets=["c_attn"]),
        probes=[Recognition(Pair(inline(), "unseen.jsonl")), Recall(HubText("org/lists", subset="one"))],
        labels={"experiment": 1},
    )
    assert pickle.loads(pickle.dumps(made)) == made
    assert made != dataclasses.replace(made, labels={"experiment": 2})


def test_a_description_of_many_texts_is_short_and_tells_them_apart() -> None:
    texts = [f"Text {number}." for number in range(1000)]
    made = inline(texts=texts)
    assert len(repr(made)) < 60 and "1000 texts" in repr(made)
    assert len(repr(condition(study=study(corpus=made)))) < 1000
    assert repr(made) == repr(inline(texts=tuple(texts))) == repr(pickle.loads(pickle.dumps(made)))
    others = [
        inline(texts=texts, name="other"),
        inline(texts=texts[::-1]),
        inline(texts=[*texts[:-1], "Text 999"]),
        inline(texts=["One.Two."]),
        inline(texts=["One.", "Two."]),
        inline(texts=["One.', 'Two."]),
        inline(texts=["\U0001f600"]),
        inline(texts=["\ud83d\ude00"]),
        inline(texts=["'"]),
        inline(texts=['"']),
    ]
    assert len({repr(one) for one in [made, *others]}) == 1 + len(others)


# Counterbalancing


def test_the_twin_studies_the_foils() -> None:
    original = condition(
        probes=[Recognition(PAIR, block_size=32), Recall()], labels={"experiment": 1, "counterbalanced": False}
    )
    twin = counterbalanced(original)
    assert twin.study == study(corpus=PAIR.foils)
    assert twin.probes == (Recognition(Pair(PAIR.foils, PAIR.targets), block_size=32), Recall())
    assert twin.labels == {"experiment": 1, "counterbalanced": True}
    assert counterbalanced(condition(probes=[Recognition(PAIR), Recall(corpus=PAIR.targets)])).probes[1] == Recall(
        corpus=PAIR.foils
    )
    back = counterbalanced(twin)
    assert (back.study, back.probes) == (original.study, original.probes)


def test_a_condition_without_foils_has_no_twin() -> None:
    other = Recognition(Pair(ShippedText("sentences-targets", first=64), "unseen.jsonl"))
    for probes in ([Recall()], [other]):
        with pytest.raises(SpecError, match="needs a probe with a pair whose targets are the condition's study list"):
            counterbalanced(condition(probes=probes))


def test_the_twin_of_a_comparison_with_a_third_list_is_refused() -> None:
    for pair in (Pair(PAIR.targets, "paraphrases.jsonl"), Pair("others.jsonl", PAIR.foils)):
        with pytest.raises(SpecError, match=r"the twin studies unseen\.jsonl, to which .* are no pair"):
            counterbalanced(condition(probes=[Recognition(PAIR), Recognition(pair)]))


# Documentation


SOURCES = sorted(
    file
    for folder in (
        Path(memexp.__file__).parent,
        *(Path(memexp.__file__).parent / name for name in ("probes", "spec", "stimuli")),
    )
    for file in folder.glob("[!_]*.py")
    if "\n\n\n@spec\nclass " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_field_has_a_docstring(source: Path) -> None:
    checked = 0
    for cls in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(cls, ast.ClassDef) or not any(ast.unparse(d) == "spec" for d in cls.decorator_list):
            continue
        assert ast.get_docstring(cls), cls.name
        for statement, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
                text = after.value if isinstance(after, ast.Expr) else None
                assert isinstance(text, ast.Constant) and isinstance(text.value, str), ast.unparse(statement.target)
                checked += 1
    assert checked


MINE = '''
from __future__ import annotations
from pydantic import Field
from memexp.spec import Count, Probe, spec

@spec
class Mine(Probe):
    """Counts {of} things."""

    kind = "mine"
    many: Count
    """How many of them, so many that
    the text takes two lines."""
    few: Count = 3
    other: tuple[str, ...] = Field(default_factory=tuple)
    """Others."""
    made: tuple[str, ...] = Field(default_factory=lambda: ("a",))
    """At once."""
'''


def test_help_shows_the_text_of_each_field() -> None:
    shown = pydoc.render_doc(memexp.Study, renderer=pydoc.plaintext)
    assert "    exposures: Passes over the list; 0 measures the untrained model." in shown.replace(" |  ", "")
    assert "batch_size: Texts per optimizer step, over all workers together. (default 16)" in shown
    listed = re.findall(r"^ {4}(\w+):", memexp.Study.__doc__ or "", re.MULTILINE)
    assert listed == [field.name for field in dataclasses.fields(memexp.Study)]


def test_help_shows_the_fields_of_a_probe_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_probe.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    text = importlib.import_module("my_probe").Mine.__doc__
    assert text.splitlines() == [
        "Counts {of} things.",
        "",
        "Fields:",
        "    many: How many of them, so many that the text takes two lines.",
        "    few (default 3)",
        "    other: Others. (default tuple())",
        "    made: At once. (default made anew)",
    ]


def test_an_inherited_field_has_the_text_of_the_class_it_is_from() -> None:
    for name in ("QA", "Choice"):
        text = getattr(memexp, name).__doc__
        assert (
            "    items: The questions, with an answer each;" in text
            and "    task: What the rows call the test;" in text
        )


def test_a_probe_without_source_has_the_names_of_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ModuleType("typed")  # into an interpreter that keeps no source
    monkeypatch.setitem(sys.modules, "typed", typed)
    exec(MINE, typed.__dict__)
    assert typed.Mine.__doc__.splitlines()[2:4] == ["Fields:", "    many"]


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(memexp.__file__).parent / "py.typed").is_file()
