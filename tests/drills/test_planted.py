"""Whoever may write to a store, a model folder, an export or what is imported executes nothing where it is read.

Every attack plants a payload that leaves a file behind when it is executed, in one of the files there are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from core.conftest import one_thread
from core.small import resolved
from core.test_durable import EVERY, attempt, line
from core.test_trial import Grid, grid
from rich.console import Console

from memexp.cli import main
from memexp.core.load import load
from memexp.core.processes import World
from memexp.errors import DataError, MemexpError, StoreError
from memexp.exchange.compact import compact
from memexp.records import METADATA
from memexp.sources import Sources, Stream
from memexp.spec import Full, Model, TextFile, TextStream
from memexp.store import Store
from memexp.store.snapshots import find
from memexp.sweep import Sweep

__all__ = ["grid", "one_thread"]  # fixtures

pytestmark = [pytest.mark.drill, pytest.mark.filterwarnings("ignore")]  # of readers about what they refuse

HERE = Path(__file__).parent


class Payload:
    """Something that touches a file when it is executed, in the forms in which readers meet it."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return _went_off, (str(self.sign),)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self, protocol=2)

    @property
    def archive(self) -> bytes:
        """As torch.save writes it."""
        stream = io.BytesIO()
        torch.save({"weight": self}, stream)
        return stream.getvalue()

    @property
    def script(self) -> str:
        classes = "\n".join(f"class {name}: pass" for name in ("C", "M", "T"))
        return f"import pathlib\npathlib.Path({str(self.sign)!r}).touch()\n{classes}\n"

    @property
    def template(self) -> str:
        reach = "cycler.__init__.__globals__.os.system('touch " + str(self.sign) + "')"
        return "{{ " + reach + " }}"

    def array(self) -> np.ndarray[Any, Any]:
        return np.array([self], dtype=object)

    def column(self, extension: str) -> tuple[pa.Field, pa.Array]:
        """A column of a type that is made by code."""
        metadata = {"ARROW:extension:name": extension, "ARROW:extension:metadata": self.pickled}
        return pa.field("error", pa.binary(), metadata=metadata), pa.array([self.pickled], pa.binary())


def _went_off(sign: str) -> None:
    Path(sign).touch()


class Unpickled(pa.ExtensionType):  # type: ignore[misc] # untyped
    """As ray.data registers one in every process that has imported Ray Tune."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "test.unpickled")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, *_: Any) -> Unpickled:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[pa.ExtensionScalar]:
        return _UnpickledScalar


class _UnpickledScalar(pa.ExtensionScalar):  # type: ignore[misc] # untyped
    def as_py(self, **_: Any) -> Any:
        return pickle.loads(self.value.as_py())


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    pa.register_extension_type(Unpickled())
    yield
    pa.unregister_extension_type("test.unpickled")


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the sweep, by a process of its own, which takes longer than all else here."""
    monkeypatch.setattr("memexp.driver.run.check_models", lambda *_: None)


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    return Payload(tmp_path / "it-went-off")


def table_of(payload: Payload, extension: str, **more: str) -> pa.Table:
    field, column = payload.column(extension)
    names = [pa.field(name, pa.string()) for name in more]
    return pa.Table.from_arrays([*([value] for value in more.values()), column], schema=pa.schema([*names, field]))


FORMS: dict[str, Callable[[Payload], object]] = {
    "pickle": lambda payload: pickle.loads(payload.pickled),
    "torch": lambda payload: torch.load(io.BytesIO(payload.archive), weights_only=False),
    "script": lambda payload: exec(payload.script, {}),
    "template": lambda payload: jinja2.Template(payload.template).render(),
    "column": lambda payload: table_of(payload, "test.unpickled").to_pylist(),
}


@pytest.mark.parametrize("execute", FORMS.values(), ids=FORMS)
def test_the_payload_goes_off_where_it_is_executed(execute: Callable[[Payload], object], payload: Payload) -> None:
    with contextlib.suppress(AttributeError, TypeError):  # of what comes after
        execute(payload)
    if execute is FORMS["column"]:
        stream = io.BytesIO()
        pq.write_table(table_of(payload, "test.unpickled"), stream)
        pq.read_table(stream).to_pylist()
    assert payload.sign.exists()


# Stores


Plant = Callable[[Path, Payload], object]


def over(pattern: str, form: str = "pickled") -> Plant:
    """In place of a file that is there."""

    def plant(store: Path, payload: Payload) -> None:
        file = max(store.glob(pattern))
        file.write_bytes(getattr(payload, form))

    return plant


def beside(name: str, form: str = "pickled") -> Plant:
    """A new file."""

    def plant(store: Path, payload: Payload) -> None:
        content = getattr(payload, form)
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return plant


def typed(kind: str, extension: str = "test.unpickled") -> Plant:
    """In a column of every file of a kind, or of a new one."""

    def plant(store: Path, payload: Payload) -> None:
        files = list(store.glob(f"{kind}/*.parquet")) or [store / kind / "planted.parquet"]
        files[0].parent.mkdir(exist_ok=True)
        for file in files:
            table = pq.read_table(file) if file.exists() else pa.table({"sweep": ["line"]})
            field, column = payload.column(extension)
            values = pa.chunked_array([pa.repeat(column[0], table.num_rows)])
            at = table.schema.get_field_index("error")
            table = table.set_column(at, field, values) if at >= 0 else table.append_column(field, values)
            pq.write_table(table, file)

    return plant


def told(store: Path, payload: Payload) -> None:
    """What a file says of its probe is SQL."""
    file = max(store.glob("recognition/*.parquet"))
    mean = f"1) FROM files; COPY (SELECT 1) TO '{payload.sign}'; SELECT (1"
    said = {"kind": "recognition", "headline": {"title": "x", "mean": mean}}
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(said), b"pandas": payload.pickled}), file)


NEWEST = ".snapshots/*/*-*"
STORES: dict[str, Plant] = {
    "a result": over("recognition/*.parquet"),
    "a result as torch saves": over("recall/*.parquet", "archive"),
    "a column of a result": typed("recognition"),
    "a column of pyarrow's old type": typed("recall", "arrow.py_extension_type"),
    "a column of ray's type": typed("recall", "ray.data.arrow_pickled_object"),
    "a column of training": typed("training"),
    "a column of the log": typed("stages"),
    "a column of the manifests": typed("sweeps"),
    "a column of searches": typed("searches"),
    "a column of an unknown kind": typed("mine"),
    "what a result says of its probe": told,
    "the log": over("stages/*.parquet"),
    "the manifest": over("sweeps/*.parquet"),
    "training": over("training/*.parquet"),
    "a search": beside("searches/x.parquet"),
    "a mark": over(".snapshots/*/*.json"),
    "a state": over(f"{NEWEST}/state.json"),
    "tensors": over(f"{NEWEST}/*.safetensors"),
    "tensors as torch saves": over(f"{NEWEST}/*.safetensors", "archive"),
    "a snapshot of memexp 0.1": lambda store, payload: [
        beside(f"{found.relative_to(store)}/{name}", form)(store, payload)
        for found in store.glob(NEWEST)
        for name, form in ((".metadata", "pickled"), ("__0_0.distcp", "archive"))
    ],
    "a heartbeat": beside(".running/line-0.json"),
    "a log": beside(".logs/line/x.txt"),
    "a temporary file": beside(".tmp/x"),
    "Train's scratch": beside(".ray/x/checkpoint_manager_snapshot.json"),
    "Tune's scratch": beside(".ray/x/tuner.pkl"),
    "a package": beside("__init__.py", "script"),
    "a module in a kind": beside("recognition/conftest.py", "script"),
    "a start of Python": beside("sitecustomize.py", "script"),
}
RUN = {name for name in STORES if re.search("result|log$|manifest|mark|state|tensors|snapshot|of training", name)}
"""Those whose files a run reads too."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where the store of a sweep is that was killed, once it has been made."""
    return {"folder": tmp_path_factory.mktemp("half")}


@pytest.fixture
def planted(half: dict[str, Any], grid: Grid, tmp_path: Path) -> tuple[Sweep, Path]:
    """A sweep that was killed, and a copy of its store."""
    if "sweep" not in half:
        half["sweep"] = Sweep(name="line", conditions=line(grid), snapshots=EVERY)
        store = Store(half["folder"] / "store")
        assert attempt(line(grid), store, "first", EVERY, until=20)[0] == ["killed"]
        with contextlib.suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            patch.setattr("memexp.driver.run.execute", _interrupted)
            half["sweep"].run(store.location, local=True, console=Console(quiet=True))
        assert {"sweeps", "stages", "training", "recognition"} <= set(store.kinds()) and find(store).found
    shutil.copytree(half["folder"] / "store", tmp_path / "store")
    return half["sweep"], tmp_path / "store"


def _interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


COMMANDS = (
    ("status",),
    ("verify",),
    *(("query", f'SELECT * FROM "{kind}"') for kind in ("recognition", "stages", "sweeps", "training")),
    ("query", "SELECT count(*) FROM recognition", "--sweep", "line"),
)


@pytest.mark.parametrize("plant", STORES)
def test_nothing_in_a_store_is_executed(
    plant: str, planted: tuple[Sweep, Path], payload: Payload, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, store = planted
    STORES[plant](store, payload)
    for arguments in COMMANDS:
        assert main([arguments[0], "--store", str(store), *arguments[1:]]) in (0, 1, 2)
    with contextlib.suppress(StoreError):
        compact(Store(store))
    if plant in RUN:
        with contextlib.suppress(StoreError):
            sweep.run(store, local=True, console=Console(quiet=True))
    capsys.readouterr()
    assert not payload.sign.exists()


EXPORTS: dict[str, Plant] = {
    "what it says of itself": over("export.json"),
    "a file": over("recognition/*.parquet"),
    "a column": typed("stages"),
    "a module": beside("__init__.py", "script"),
}


@pytest.mark.parametrize("plant", EXPORTS.values(), ids=EXPORTS)
def test_nothing_in_an_export_is_executed(
    plant: Plant, planted: tuple[Sweep, Path], payload: Payload, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(planted[1])
    out = Path(compact(store).target)
    plant(out, payload)
    for arguments in COMMANDS[1:]:
        assert main([arguments[0], "--store", str(out), *arguments[1:]]) in (0, 1, 2)
    for incremental in (True, False):
        store.commit("stages", f"new-{incremental}", store.read("stages", max(store.names("stages"))))
        with contextlib.suppress(StoreError):
            compact(store, incremental=incremental)
    capsys.readouterr()
    assert not payload.sign.exists()


def _npz(payload: Payload) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, seen_losses=payload.array(), unseen_losses=payload.array(), mean_accuracy=payload.array())
    return stream.getvalue()


def _zipped(payload: Payload) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in ("seen_losses", "unseen_losses", "mean_accuracy"):
            file.writestr(name, payload.pickled)
    return stream.getvalue()


IMPORTS: dict[str, Callable[[Payload], bytes]] = {
    "objects": _npz,
    "a pickle": lambda payload: payload.pickled,
    "pickles in an archive": _zipped,
    "as torch saves": lambda payload: payload.archive,
}


@pytest.mark.parametrize("content", IMPORTS.values(), ids=IMPORTS)
def test_nothing_that_is_imported_is_executed(
    content: Callable[[Payload], bytes], payload: Payload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shot-2" / "expt1-gpt" / "gpt2_large_seen_data_0_0.00003_4_results.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(content(payload))
    assert main(["import", "llm-memory", "--store", str(tmp_path / "store"), str(tmp_path)]) == 2
    assert "nothing was imported" in capsys.readouterr().err
    assert not payload.sign.exists()


def test_no_corpus_executes(payload: Payload, tmp_path: Path) -> None:
    file = tmp_path / "texts.parquet"
    pq.write_table(table_of(payload, "test.unpickled", sent="one"), file)
    for corpus in (TextFile(file, field="error"), TextStream(file, field="error"), TextFile(file)):
        with pytest.raises(DataError, match=r"column 'error' is of the type test\.unpickled, which executes code"):
            read = Sources().corpus(corpus)
            if isinstance(read, Stream):
                list(read.window(0))
    assert not payload.sign.exists()


# Models


def changed(name: str, **fields: Any) -> Plant:
    """A JSON file with other fields."""

    def plant(folder: Path, payload: Payload) -> None:
        file = folder / name
        said = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(said | fields))
        for module in ("mine", "modeling_mine", "tokenization_mine"):
            (folder / f"{module}.py").write_text(payload.script)

    return plant


def instead(name: str, form: str) -> Plant:
    """These weights and no other."""

    def plant(folder: Path, payload: Payload) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(getattr(payload, form))

    return plant


def indexed(form: str) -> Plant:
    def plant(folder: Path, payload: Payload) -> None:
        instead("shard.bin", form)(folder, payload)
        for index in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
            said = {"metadata": {"total_size": 1}, "weight_map": {"transformer.wte.weight": "shard.bin"}}
            (folder / index).write_text(json.dumps(said))

    return plant


def templates(folder: Path, payload: Payload) -> None:
    (folder / "chat_template.jinja").write_text(payload.template)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").write_text(payload.template)


def adapter(folder: Path, payload: Payload) -> None:
    said = {"peft_type": "LORA", "r": 1, "target_modules": ["c_attn"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    (folder / "adapter_model.bin").write_bytes(payload.archive)


def generating(folder: Path, payload: Payload) -> None:
    beside("custom_generate/generate.py", "script")(folder, payload)
    changed("generation_config.json", custom_generate=str(folder))(folder, payload)


ALL_AUTO = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoModel": "mine.M", "AutoTokenizer": "mine.T"}
MODELS: dict[str, Plant] = {
    "a pickle for weights": instead("pytorch_model.bin", "pickled"),
    "an archive for weights": instead("pytorch_model.bin", "archive"),
    "a pickle for safetensors": over("model.safetensors"),
    "an archive for safetensors": over("model.safetensors", "archive"),
    "weights beside safetensors": beside("pytorch_model.bin", "archive"),
    "an index to a pickle": indexed("pickled"),
    "an index to an archive": indexed("archive"),
    "other names of weights": changed("config.json", transformers_weights="mine.bin"),
    "weights of TensorFlow": instead("tf_model.h5", "pickled"),
    "weights of Flax": instead("flax_model.msgpack", "pickled"),
    "an optimizer": beside("optimizer.pt", "archive"),
    "a schedule": beside("scheduler.pt", "archive"),
    "draws": beside("rng_state.pth", "archive"),
    "arguments of training": beside("training_args.bin", "archive"),
    "an adapter": adapter,
    "code of the model": changed("config.json", model_type="mine", auto_map=ALL_AUTO),
    "code beside a known model": changed("config.json", auto_map=ALL_AUTO),
    "code of the tokenizer": changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.T", "mine.T"]}),
    "a class of the tokenizer": changed("tokenizer_config.json", tokenizer_class="mine.T"),
    "code of a processor": changed("preprocessor_config.json", auto_map={"AutoProcessor": "mine.C"}),
    "code of generation": generating,
    "quantization": changed("config.json", quantization_config={"quant_method": "mine", "modules": "mine"}),
    "an attention of others": changed("config.json", attn_implementation="mine/kernel", _attn_implementation="mine/k"),
    "the tokenizer": over("tokenizer.json"),
    "its configuration": over("tokenizer_config.json"),
    "special tokens": beside("special_tokens_map.json"),
    "a vocabulary": beside("vocab.pkl"),
    "the configuration": over("config.json"),
    "generation": beside("generation_config.json"),
    "chat templates": templates,
    "a chat template in the tokenizer": lambda folder, payload: changed(
        "tokenizer_config.json", chat_template=payload.template
    )(folder, payload),
    "a package": beside("__init__.py", "script"),
    "a setup": beside("setup.py", "script"),
}


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    lm = load(resolved("gpt2"), Full(), "float32", World.current())
    lm.lm.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("plant", MODELS)
def test_nothing_in_a_model_folder_is_executed(
    plant: str, whole_model: Path, payload: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole_model, folder)
    MODELS[plant](folder, payload)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))  # whoever asks whether to trust it is told to
    loaded = None
    with contextlib.suppress(MemexpError):
        loaded = load(Sources().model(Model(str(folder))), Full(), "float32", World.current())
    assert not payload.sign.exists()
    harmless = {
        "weights beside safetensors",
        "an optimizer",
        "a package",
        "chat templates",
        "code beside a known model",
    }
    assert loaded is not None or plant not in harmless


# Libraries


def test_train_reads_nothing_but_json_from_a_store() -> None:
    """Ray Train keeps a folder in the store (memexp.cluster.groups). What its controller reads there it parses."""
    found = importlib.util.find_spec("ray.train.v2")
    assert found is not None and found.submodule_search_locations is not None
    sources = {
        file: file.read_text(encoding="utf-8")
        for place in found.submodule_search_locations
        for file in Path(place).rglob("*.py")
        if "tests" not in file.parts
    }
    reading = [
        file.name for file, text in sources.items() if "open_input_stream(" in text or "open_input_file(" in text
    ]
    assert reading == ["checkpoint_manager.py"]
    unpickling = r"pickle\.loads?\(|Unpickler\(|torch\.load\("
    assert [file.name for file, text in sources.items() if re.search(unpickling, text)] == []
