"""Ranks load their own slices: together what one process loads, each in its part of the memory; and probe together."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from core.small import CONFIGS, PEAKED, TARGETS, TOKENIZER, WIDE, language_model
from dist.ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

import memexp.core.matmul
import memexp.core.original
import memexp.core.shard
from memexp.core.data import Row, encode
from memexp.core.fork import restore
from memexp.core.generate import complete_greedily
from memexp.core.load import load, random_config
from memexp.core.model import LanguageModel, blocks
from memexp.core.original import original
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.core.shard import gather_together
from memexp.errors import ModelError
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model, RandomInit, Resources

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
    "ignore:torch.distributed is disabled",  # which is what a single process wants
)

UNEVEN = {"vocab_size": 601, "initializer_range": PEAKED}
MIXTRAL = {**CONFIGS["llama"], "num_local_experts": 3}


def save(folder: Path) -> None:
    """The models that are loaded, each in a way of its own; all with rows that two ranks cannot have half each of."""
    with mock.patch.dict(CONFIGS, mixtral=MIXTRAL):
        made = {name: language_model(name, seed=5, **UNEVEN) for name in ("gpt2", "llama", "gpt_neox", "mixtral")}
    for name, lm in made.items():
        lm.lm.save_pretrained(folder / name, max_shard_size="40KB")
        lm.tokenizer.save_pretrained(folder / name)
    lm = made["gpt2"]
    lm.lm.save_pretrained(folder / "pickled")
    lm.tokenizer.save_pretrained(folder / "pickled")
    file = folder / "pickled/model.safetensors"
    torch.save(load_file(file), folder / "pickled/pytorch_model.bin")
    file.unlink()


CASES: dict[str, tuple[str, Full | LoRA]] = {
    "slices": ("gpt2", Full()),
    "untied": ("llama", Full()),
    "adapter": ("llama", LoRA(r=3, seed=2)),
    "buffers": ("gpt_neox", Full()),
    "experts": ("mixtral", Full()),
    "pickled": ("pickled", Full()),
}


def described(folder: Path, case: str) -> tuple[Model, Full | LoRA]:
    name, method = CASES[case]
    return Model(str(folder / name)), method


DRAWN = Model("drawn", tokenizer=TOKENIZER, init=RandomInit({"model_type": "llama", **CONFIGS["llama"], **UNEVEN}, 8))


@dataclasses.dataclass
class Loaded:
    """A model as one rank finds it."""

    tensors: dict[str, Tensor]
    """Put together."""
    own: int
    """Elements of parameters that this rank has."""
    nlls: list[list[float]]
    ends: list[int]


def loaded(model: Model, method: Full | LoRA) -> Loaded:
    """And led away, and back again."""
    lm = load(Sources().model(model), method, "float32", World.current())
    with mock.patch.object(memexp.core.original, "SMALL", 0), torch.no_grad():
        way = original(lm)
        for parameter in lm.learning().values():
            parameter.add_(1.0)
        restore(lm, way, None)
    parts = [one.to_local() if isinstance(one, DTensor) else one for one in lm.parameters()]
    own = sum(part.numel() for part in parts)
    held = itertools.chain(lm.named_parameters(remove_duplicate=False), lm.named_buffers())
    tensors = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in held}
    rows = encode(lm.tokenizer, TARGETS[:5], 64)
    nlls = [nll.tolist() for nll in token_nlls(lm, rows)]
    return Loaded({name: one.detach().clone() for name, one in tensors.items()}, own, nlls, lm.end_tokens)


def all_loaded(folder: Path) -> dict[str, Loaded]:
    found = {case: loaded(*described(folder, case)) for case in CASES}
    return found | {"drawn": loaded(DRAWN, Full()), "drawn adapter": loaded(DRAWN, LoRA(r=3, seed=2))}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Loaded], list[dict[str, Loaded]]]:
    """What one process loads, and what each of two ranks does."""
    folder = tmp_path_factory.mktemp("models")
    save(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = all_loaded(folder)
    torch.set_num_threads(threads)
    return one, on_ranks(2, tmp_path_factory.mktemp("two"), all_loaded, folder)


@pytest.mark.parametrize("case", [*CASES, "drawn", "drawn adapter"])
def test_ranks_load_together_what_one_process_loads(case: str, both: Any) -> None:
    one, ranks = both
    for rank in ranks:
        found, expected = rank[case].tensors, one[case].tensors
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name].dtype != expected[name].dtype] == []
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
        assert rank[case].ends == one[case].ends
        for a, b in zip(rank[case].nlls, one[case].nlls, strict=True):
            assert a == pytest.approx(b, abs=1e-5)
        assert 0.4 < rank[case].own / one[case].own < 0.6
    assert ranks[0][case].own + ranks[1][case].own == one[case].own


# Memory

ROOM = 30_000_000
"""Bytes that a process needs beside what a rank holds: modules, buffers of the libraries, what was freed and kept."""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux")


def resident() -> int:
    """Bytes of this process that are in use, those of files that it looks into like memory among them."""
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed would count as long as the C library likes to keep it
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def most_while_loading(folder: Path, cases: Sequence[str]) -> dict[str, int]:
    """Bytes that this process has more, at most, while each of `cases` is loaded."""
    memexp.core.matmul._exact()  # asked once a process, of products that take some
    load(Sources().model(Model(str(folder / "small"))), Full(), "float32", World.current())
    return {case: _most(folder, case) for case in cases}


def _most(folder: Path, case: str) -> int:
    drawn = Model("drawn", tokenizer=str(folder / "small"), init=RandomInit(WIDE))
    model = Sources().model(drawn if case == "drawn" else Model(str(folder / case)))
    peak = before = resident()
    plain = torch.empty

    def empty(*args: Any, **options: Any) -> Tensor:
        nonlocal peak
        peak = max(peak, resident())
        return plain(*args, **options)

    with mock.patch.object(torch, "empty", empty):
        load(model, Full(), "float32", World.current())
    return max(peak, resident()) - before


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``sliced`` with safetensors and one ``pickled``, of the same model; and ``small``."""
    folder = tmp_path_factory.mktemp("wide")
    small = language_model("llama")
    for name in ("sliced", "pickled", "small"):
        small.tokenizer.save_pretrained(folder / name)
    small.lm.save_pretrained(folder / "small")
    config = random_config("wide", WIDE, small.tokenizer)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm.save_pretrained(folder / "sliced")
    lm.config.save_pretrained(folder / "pickled")
    torch.save(lm.state_dict(), folder / "pickled/pytorch_model.bin")
    return folder


@LINUX
@pytest.mark.parametrize(("size", "cases"), [(1, ["sliced"]), (2, ["sliced", "pickled"]), (4, ["sliced", "drawn"])])
def test_a_rank_loads_no_more_than_its_part(size: int, cases: list[str], wide: Path, tmp_path: Path) -> None:
    """But of pickles rank 0, which shows that the meter sees one that has it all."""
    whole = (wide / "sliced/model.safetensors").stat().st_size
    assert whole > 4 * ROOM
    for rank, found in enumerate(on_ranks(size, tmp_path / "ranks", most_while_loading, wide, cases)):
        for case, most in found.items():
            if (rank, case) == (0, "pickled"):
                assert most > whole + ROOM
            else:
                assert most < whole / size + ROOM, (rank, case)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        load(Sources().model(Model(str(folder))), Full(), "float32", World.current())
    return str(error.value)


def test_what_rank_0_cannot_load_no_rank_waits_for(wide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in (wide / "pickled").iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[: 100_000 if file.suffix == ".bin" else None])
    first, second = on_ranks(2, tmp_path / "ranks", refusal, folder)
    assert first == second and first.startswith("model 'cut' cannot be loaded: ")


# Probes

DEEP = {"n_layer": 18, "n_embd": 16, "n_head": 2, "n_positions": 64}


class Gathers(TorchDispatchMode):
    """Counts those of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function._schema.name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def gathers(self) -> int:
        return self.count["c10d::_allgather_base_"]


@dataclasses.dataclass
class Probed:
    gathers: dict[str, int]
    same: bool
    sharded: list[bool]
    passes: list[tuple[int, ...]]


def completed(lm: LanguageModel) -> tuple[int, Any]:
    cues: list[Row] = [[1 + i] * 8 for i in range(8)]
    with Gathers() as counted:
        found = complete_greedily(lm, cues, [8] * len(cues))
    return counted.gathers, found


def is_sharded(lm: LanguageModel) -> bool:
    return all(isinstance(parameter, DTensor) for parameter in lm.parameters())


def interrupted(lm: LanguageModel) -> None:
    """As by memory that runs out, in the middle of a pass."""

    def fail(*_: Any) -> None:
        raise RuntimeError("interrupted")

    handle = blocks(lm.lm)[7].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        completed(lm)
    handle.remove()


def probed() -> Probed:
    with mock.patch.dict(CONFIGS, gpt2=DEEP):
        lm = language_model("gpt2", initializer_range=PEAKED)
    kept, found = completed(lm)
    sharded = [is_sharded(lm)]
    interrupted(lm)
    sharded.append(is_sharded(lm))
    assert completed(lm) == (kept, found)
    with mock.patch.object(memexp.core.shard, "SHARE", 0):  # nothing fits
        gather_together(lm, Resources())
    given_back, expected = completed(lm)
    passes: list[tuple[int, ...]] = []
    plain = LanguageModel.forward

    def forward(self: LanguageModel, operation: str, ids: Any, *args: Any) -> Any:
        passes.append(tuple(ids.shape))
        return plain(self, operation, ids, *args)

    with mock.patch.object(LanguageModel, "forward", forward):
        token_nlls(lm, [[1, 2, 3, 4, 5, 6, 7]])
        token_nlls(lm, [[i, 2, 3, 4, 5, 6, 7] for i in range(3)])
    return Probed({"kept": kept, "given back": given_back}, found == expected, sharded, passes)


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> list[Probed]:
    return on_ranks(2, tmp_path_factory.mktemp("probes"), probed)


def test_weights_are_gathered_once_for_eight_tokens(probes: list[Probed]) -> None:
    for rank in probes:
        assert rank.gathers["kept"] <= 20
        assert rank.gathers["given back"] == 8 * 19
        assert rank.same
        assert rank.sharded == [True, True]


def test_no_rank_repeats_what_another_one_does(probes: list[Probed]) -> None:
    """One text and three: two ranks score two of these and one, and of the single one one rank scores nothing."""
    assert probes[0].passes == [(1, 7), (2, 7)]
    assert probes[1].passes == [(1, 1), (1, 7)]
