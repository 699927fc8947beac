"""An error of the GPU ends the process, everything recorded: what follows in it would fail as well."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import torch
from core.test_trial import Deaf, Grid, executed, grid, rows, statuses, store, trial_of
from rich.console import Console

from memexp.core.faults import ends_process, of_memory
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import DeviceError, ModelError
from memexp.plan.attempts import Attempt
from memexp.probes import Recognition
from memexp.spec import Condition, Forget, Probe, Resources, spec
from memexp.store import Store
from memexp.sweep import Sweep
from memexp.trial.execute import execute

__all__ = ["grid", "store"]  # fixtures

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
BROKEN = [
    torch.AcceleratorError(ASSERT),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError(ASSERT),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("HIP error: an illegal memory access was encountered"),
    torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1025, unhandled cuda error"),
]
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
SOUND = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("my own table has no column 'CUDA error'"),
    torch.distributed.DistBackendError("Connection closed by peer"),
]


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_what_the_device_does_not_recover_from(error: Exception) -> None:
    assert ends_process(error) and not of_memory(error)
    wrapped = ModelError("cannot be loaded")
    wrapped.__cause__ = error
    assert ends_process(wrapped)


@pytest.mark.parametrize("error", SOUND, ids=str)
def test_what_it_recovers_from(error: Exception) -> None:
    assert not ends_process(error) and not of_memory(error)


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_what_is_tried_again_with_half_the_batch(error: Exception) -> None:
    assert of_memory(error) and not ends_process(error)


def test_memory_of_others_is_not_the_devices() -> None:
    assert not of_memory(MemoryError()) and not of_memory(RuntimeError("my own cache is out of memory"))


@spec
class Breaking(Probe):
    """Breaks the GPU of its process after so many exposures: from then on every pass there fails."""

    kind: ClassVar[str] = "breaking"
    at: int
    exposures: int = 0

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def bind(self, condition: Condition) -> Probe:
        return Breaking(self.at, condition.study.exposures)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        if self.exposures == self.at:

            def broken(*_: Any, **__: Any) -> Any:
                raise torch.AcceleratorError(ASSERT)

            LanguageModel.forward = broken  # type: ignore[method-assign] # put back below
        session.token_nlls([[1, 2, 3]])
        return pa.table({"item": [0]})


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "forward", LanguageModel.forward)


def broken(grid: Grid) -> list[Condition]:
    return grid((0, 1, 2), probes=[Breaking(1), Recognition(grid.pair)])


def test_a_trial_ends_with_what_broke_recorded(grid: Grid, store: Store) -> None:
    asked = broken(grid)
    with pytest.raises(DeviceError, match=r"no more use of its GPU: CUDA error: device-side assert") as ended:
        executed(asked, store)
    assert len(ended.value.lines) == 1 and "failed: breaking: AcceleratorError: CUDA error" in ended.value.lines[0]
    assert statuses(store)["failed"] == 1 and len(rows(store, "breaking")) == 1
    [failed] = rows(store, "stages", status="failed")
    assert "device-side assert" in failed["error"]


def test_out_of_memory_costs_what_ran_out_only(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Breaking, "measure", out_of_memory)
    assert len(executed(broken(grid), store)) == 3
    assert len(rows(store, "recognition")) == 3 * 12


def test_a_base_that_breaks_the_gpu_while_it_is_loaded(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise ModelError("cannot be loaded") from RuntimeError(ASSERT)

    monkeypatch.setattr("memexp.trial.base.load", breaks)
    with pytest.raises(DeviceError):
        executed(broken(grid), store)
    assert statuses(store) == {"failed": 1}


def test_an_error_that_shows_when_a_stage_is_over(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the GPU is asked for what it did long ago."""

    def breaks(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr("memexp.trial.state.State.keep", breaks)
    asked = [dataclasses.replace(one, forget=Forget(0)) for one in grid((1,))]
    with pytest.raises(DeviceError, match="device-side assert"):
        executed([*grid((1, 2)), *asked], store)


def test_of_several_ranks_the_error_itself_is_raised(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ends the group: its driver has another one do the rest."""

    def breaks(*_: Any) -> None:
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr("memexp.trial.base.load", breaks)
    with pytest.raises(torch.AcceleratorError):
        execute(trial_of(grid((0,))), store, Deaf(0, 2, torch.device("cpu")), Attempt("test", "first"))
    assert [row["kind"] for row in rows(store, "stages", status="failed")] == ["base"]


def test_without_ray_the_next_command_does_the_rest(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one process, and it may be a notebook's."""
    forward, page = LanguageModel.forward, io.StringIO()
    other = [*grid((0,), probes=[Recognition(grid.pair)]), *grid((3,), lrs=(1e-2,), probes=[Recognition(grid.pair)])]
    sweep = Sweep(name="breaking", conditions=[*broken(grid), *other], resources=Resources())
    assert not sweep.run(tmp_path, local=True, console=Console(file=page, width=300))
    said = " ".join(page.getvalue().split())
    assert "failed: breaking: AcceleratorError: CUDA error" in said
    assert "no more use of its GPU" in said and "say the same command again for the rest" in said
    assert [row["status"] for row in rows(Store(tmp_path), "stages")].count("failed") == 1
    monkeypatch.setattr(LanguageModel, "forward", forward)
    monkeypatch.setattr(Breaking, "measure", lambda *_: pa.table({"item": [0]}))
    assert sweep.run(tmp_path, local=True, console=Console(quiet=True))
    assert World.current().size == 1
