"""What tests of whole sweeps share: a small sweep script, the command in its own process, all rows of a store."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from memexp.store import Store

if TYPE_CHECKING:
    from memexp.sources import ResolvedModel

__all__ = ["STARTED", "command", "data", "ended", "inspected_here", "on_a_terminal", "sweep_script"]

STARTED: list[subprocess.Popen[str]] = []
"""The processes of `command`; whatever is left of them after a test is killed."""

SCRIPT = '''\
"""A sweep of {conditions} conditions over one tiny model."""
import sys
from memexp import *

pair = Pair(TextFile({targets!r}), TextFile({foils!r}))
config = {{"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64,
           "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
model = Model("tiny", tokenizer=TrainedTokenizer([pair.targets, pair.foils], 400), init=RandomInit(config))
afterwards = [None if stop is None else Interference(TextFile({others!r}), stop, lr=1e-3, batch_size=4, block_size=64)
              for stop in {stops!r}]
sweep = Sweep(
    name="small",
    conditions=[
        Condition(model, Study(pair.targets, exposures=n, lr=lr, batch_size=4, block_size=64),
                  probes=[Recognition(pair), Recall()], labels={{"list": "first"}}, interference=interference)
        for n in {exposures!r} for lr in {lrs!r} for interference in afterwards
    ],
    resources=Resources(workers={workers}, spread={spread}, stall_minutes={stall}),
    snapshots=Snapshots(minutes=None, steps={snapshots}),
)
{more}
if __name__ == "__main__":
    raise SystemExit(sweep.main())
'''


def sweep_script(
    folder: Path,
    exposures: tuple[int, ...] = (0, 1, 2),
    lrs: tuple[float, ...] = (1e-3, 3e-3),
    stops: tuple[int | None, ...] = (None,),
    workers: int = 1,
    items: int = 12,
    snapshots: int | None = None,
    stall: float = 60,
    spread: bool = False,
    more: str = "",
) -> Path:
    """Write lists of `items` sentences and a sweep script over them to `folder`; returns the script.

    Args:
        folder: where to; the identities in it do not depend on it.
        exposures: of study.
        lrs: of study.
        stops: retention intervals; None has no interference.
        workers: of every trial.
        items: sentences in each list.
        snapshots: steps between two of them; None makes none.
        stall: minutes that a worker may hang.
        spread: whether the workers of a trial may be on several nodes.
        more: statements after the sweep is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("targets", "foils", "others"):
        lines = [
            f'{{"sent": "The {name} say that number {i} is {i * 7 % 11} and {i * i % 13}."}}' for i in range(items)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    script = folder / "small_sweep.py"
    script.write_text(
        SCRIPT.format(
            conditions=len(exposures) * len(lrs) * len(stops),
            **{name: str(folder / f"{name}.jsonl") for name in ("targets", "foils", "others")},
            exposures=exposures,
            lrs=lrs,
            stops=stops,
            workers=workers,
            snapshots=snapshots,
            stall=stall,
            spread=spread,
            more=more,
        )
    )
    return script


def inspected_here(models: Sequence[ResolvedModel]) -> list[dict[str, Any]]:
    """What the child process of `memexp.plan.inspection` answers, through the same pickles and JSON."""
    from memexp.core.inspect import answers  # imports torch

    with contextlib.redirect_stdout(io.StringIO()):
        found: list[dict[str, Any]] = json.loads(json.dumps(answers(pickle.loads(pickle.dumps(models)))))
    return found


def command(*arguments: object, prefix: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """Start ``memexp`` in a process and session of its own, so that a signal reaches what the test means.

    Args:
        arguments: those of the command.
        prefix: another command that executes it.
        environment: variables beside the present ones.
    """
    # Where the tests themselves were started in the background, SIGINT is ignored, and SIGHUP under nohup.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    memexp = [sys.executable, "-c", f"{code}; from memexp.cli import main; sys.exit(main())", *map(str, arguments)]
    process = subprocess.Popen(
        [*prefix, *memexp],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def on_a_terminal(*arguments: object, folder: str | os.PathLike[str] = ".") -> tuple[subprocess.Popen[str], int]:
    """Start ``memexp`` on a terminal of its own, which is closed by closing the file descriptor that is returned."""
    ours, its = os.openpty()

    def attach() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-m", "memexp.cli", *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=folder,
        stdin=its,
        stdout=its,
        stderr=its,
        text=True,
        start_new_session=True,
        preexec_fn=attach,
    )
    os.close(its)
    STARTED.append(process)
    return process, ours


def ended(process: subprocess.Popen[str], status: int) -> str:
    """What a `command` printed until its end, which has to be this exit status."""
    page, _ = process.communicate(timeout=240)
    assert process.returncode == status, page
    return page


def data(store: str | os.PathLike[str]) -> dict[str, pa.Table]:
    """Every row of recognition, recall and training, in an order that does not depend on who wrote them when."""
    results = Store(store)
    found = {}
    for kind, keys in (
        ("recognition", ("condition_id", "probe_id", "item")),
        ("recall", ("condition_id", "probe_id", "item")),
        ("training", ("stage_id", "step")),
    ):
        table = results.scan(kind)
        assert table is not None, f"no {kind} in {store}"
        found[kind] = table.sort_by([(key, "ascending") for key in keys])
    return found
