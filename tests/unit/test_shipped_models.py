"""The tiny models as files: whole, small, pinned by content, the same wherever memexp is installed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import memexp.sources.pinned
from memexp.errors import ModelError
from memexp.sources import Sources, parameters_from_headers
from memexp.sources.pinned import location
from memexp.spec import Model, RandomInit
from memexp.stimuli.tiny import SHIPPED_MODELS, model_folder

WEIGHTS = model_folder("tiny-s").parent


def resolve(model: Model) -> memexp.sources.ResolvedModel:
    return Sources().model(model)


def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a memexp that is installed elsewhere."""
    copy = tmp_path / "weights"
    shutil.copytree(WEIGHTS, copy)
    monkeypatch.setattr(memexp.sources.pinned, "model_folder", lambda name: copy / name)
    return copy


def test_every_file_has_its_sum() -> None:
    lines = (WEIGHTS / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.glob("*/*")}
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_all_together_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 20_000_000


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_weights_are_half_precision_and_have_a_card(name: str) -> None:
    folder = model_folder(name)
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert {tensor["dtype"] for key, tensor in header.items() if key != "__metadata__"} == {"F16"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("**Data.**", "**Command.**", "**Licence.**", "**Not good for**", "## Figures", "SHA256SUMS"):
        assert part in card, part
    first = model_folder(SHIPPED_MODELS[0])
    assert (folder / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()  # one for all


def test_larger_names_are_larger_models() -> None:
    counts = [parameters_from_headers(resolve(Model(name))) for name in SHIPPED_MODELS]
    assert counts == sorted(counts) and counts[0] < counts[1] < counts[2] < 10e6


def test_names_resolve_to_content() -> None:
    models = [resolve(Model(name)) for name in SHIPPED_MODELS]
    assert len({model.id for model in models}) == 3
    for name, model in zip(SHIPPED_MODELS, models, strict=True):
        assert (model.name, model.commit, model.tokenizer_name) == (name, None, None)
        assert model.source is not None and str(WEIGHTS) not in model.source
        assert Path(location(model.source)) == model.folder == WEIGHTS / name


def test_identity_does_not_depend_on_where_memexp_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = resolve(Model("tiny-s"))
    copy = moved(tmp_path, monkeypatch)
    there = resolve(Model("tiny-s"))
    assert (there.id, there.source) == (here.id, here.source)
    assert here.folder == copy / "tiny-s"  # what the driver resolved is found where this node has it
    here.check_here()
    assert resolve(Model(str(copy / "tiny-s"))).key == here.key  # a folder with these files is this model


@pytest.mark.parametrize("file", ["tiny-s/model.safetensors", "tiny-s/tokenizer.json"])
def test_a_node_with_other_weights_is_refused(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = resolve(Model("tiny-s"))
    copy = moved(tmp_path, monkeypatch) / file
    copy.write_bytes(copy.read_bytes()[:-1] + b" ")
    with pytest.raises(ModelError, match=r"model 'tiny-s': this node has another version of memexp"):
        here.check_here()


def test_a_node_with_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = resolve(Model("mine", tokenizer="tiny-s", init=RandomInit("tiny-m")))
    drawn.check_here()
    copy = moved(tmp_path, monkeypatch) / "tiny-s" / "tokenizer.json"
    copy.write_bytes(copy.read_bytes()[:-1] + b" ")
    with pytest.raises(ModelError, match=r"another version of memexp, with another tokenizer"):
        drawn.check_here()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_folder_whose_files_have_changed_since_is_refused(file: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder("tiny-s"), tmp_path / "mine"))
    planned = resolve(Model(str(folder)))
    planned.check_here()
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + b" ")
    with pytest.raises(ModelError, match=r"model 'mine': the files in .*mine are not those the sweep was planned with"):
        planned.check_here()
    (folder / file).write_bytes(content)
    planned.check_here()
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="does not exist on this node; use a shared folder or a hub id"):
        planned.check_here()


def test_an_installation_without_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(moved(tmp_path, monkeypatch) / "tiny-m")
    with pytest.raises(ModelError, match=r"tiny-m: missing from this installation of memexp"):
        resolve(Model("tiny-m"))


def test_a_folder_of_that_name_needs_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-s").mkdir()
    (tmp_path / "tiny-s" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'tiny-s' ships with memexp, and here is a folder of that name.*'./tiny-s'"):
        resolve(Model("tiny-s"))
    assert resolve(Model("./tiny-s")).folder == tmp_path / "tiny-s"


def test_it_has_no_revisions() -> None:
    with pytest.raises(ModelError, match="model 'tiny-s' ships with memexp and has no revisions"):
        resolve(Model("tiny-s", revision="main"))


def test_its_tokenizer_and_config_serve_random_models() -> None:
    drawn = resolve(Model("mine", tokenizer="tiny-s", init=RandomInit("tiny-m")))
    assert drawn.config is not None and drawn.config["hidden_size"] == 192
    assert drawn.tokenizer_name == "tiny-s" and drawn.tokenizer.source == "memexp:tiny-s"
