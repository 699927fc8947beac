"""What a new user meets: `memexp new`, `memexp doctor`, help with examples, and errors that say what to do."""

from __future__ import annotations

import atexit
import io
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import memexp.script
from memexp import (
    Condition,
    DataError,
    Forget,
    Interference,
    Model,
    ModelError,
    Pair,
    Recognition,
    Snapshots,
    SpecError,
    Study,
    Sweep,
    TextFile,
)
from memexp.cli import _parser, main
from memexp.driver.run import Run
from memexp.first_steps import doctor, examples
from memexp.first_steps.new import write_new
from memexp.loading import load
from memexp.sources import Sources
from memexp.sources.near_names import near_name
from memexp.store import Store
from memexp.sweep import _by_ray
from memexp.wording import amount


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the test's own, and nothing of what a script does to the interpreter afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])


# memexp new


def test_a_new_sweep_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine"]) == 0
    assert capsys.readouterr().out.endswith("next: memexp run mine.py --local\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "mine.py"]
    assert "NAME" not in Path("mine.py").read_text()
    sweep = load("mine.py", [])
    assert sweep.name == "mine" and len(sweep.conditions) == 24
    forest = sweep.grow()
    assert {texts.count for texts in forest.texts.values()} == {12}
    assert not forest.remarks  # no text is cut, given twice, or its own foil


@pytest.mark.parametrize("there", ["mine.py", "mine.csv"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(there).write_text("mine")
    assert main(["new", "mine.py"]) == 2
    assert capsys.readouterr().err == f"memexp: {there} is there already and stays as it is; give another name\n"
    assert [path.name for path in tmp_path.iterdir()] == [there] and Path(there).read_text() == "mine"


@pytest.mark.parametrize("name", ["", "a b", "../nowhere/mine", ".hidden", "x" * 101, "..", "é"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        write_new(name)
    assert list(tmp_path.iterdir()) == []


# memexp doctor


class Torch:
    """A process that has looked at torch."""

    def __init__(self, status: int, said: str, errors: str = "") -> None:
        self.returncode, self.told = status, (said, errors)

    def __enter__(self) -> Torch:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def communicate(self, timeout: float) -> tuple[str, str]:
        return self.told


SOUND = json.dumps({"version": "2.13.0+cpu", "cuda": None, "sum": 8.0, "gpus": []})


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """What `memexp doctor` says where torch's process ends so; without Ray and without the hub."""

    def said(*arguments: str, torch: Torch | None = None) -> tuple[int, str]:
        monkeypatch.setattr(doctor, "_asked_torch", lambda: torch or Torch(0, SOUND))
        capsys.readouterr()
        return main(["doctor", *arguments]), capsys.readouterr().out

    return said


def test_what_is_in_order(examined: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, page = examined()
    assert status == 0 and page.endswith("a local sweep can run here: memexp run SWEEP --local\n")
    for what in ("python", "packages", "memory", "disk", "store", "hub", "s3", "gcs", "torch", "gpu", "ray"):
        assert re.search(rf"^(ok   |note |wrong)  {what} ", page, re.M), what
    assert "HF_HUB_OFFLINE" in page
    assert list(tmp_path.iterdir()) == []  # of the store it tried nothing stays


def test_what_is_wrong_comes_with_what_to_do(examined: Callable[..., tuple[int, str]]) -> None:
    status, page = examined(torch=Torch(1, "", "Traceback\nImportError: libgomp.so.1: not found\n"))
    assert status == 1 and page.endswith("a local sweep cannot run here\n")
    assert re.search(r"^wrong  torch .*libgomp.so.1: not found\n +to do: install it again", page, re.M)
    Path("file").write_text("")
    status, page = examined("--store", "file")
    assert status == 1 and re.search(r"^wrong  store .*\n +to do: ", page, re.M)


def test_a_gpu_that_torch_does_not_see_is_wrong_and_stops_no_local_sweep(
    examined: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "here", lambda: types.SimpleNamespace(host=64 * 10**9, gpus=(80 * 2**30,)))
    status, page = examined()
    assert status == 0 and re.search(r"^wrong  gpu .*built without CUDA\n +to do: .*constraints.txt", page, re.M)
    seen = json.dumps({"version": "2.13.0", "cuda": "13.0", "sum": 8.0, "gpus": [["H200", 140 * 10**9]]})
    assert re.search(r"^ok     gpu       H200 with 140.0 GB; it computes$", examined(torch=Torch(0, seen))[1], re.M)


def test_of_credentials_nothing_is_said_but_that_they_are_there(
    examined: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtn/bPxRf",
        "HF_TOKEN": "hf_abcdefgh",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    _, page = examined()
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set" in page and "a token is there" in page
    assert not any(value in page for value in secrets.values())
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "nowhere.json")
    status, page = examined()
    assert status == 0 and len(re.findall(r"^wrong  (?:s3|gcs) ", page, re.M)) == 2


def test_a_missing_or_old_package_stops_every_sweep(
    examined: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ["numpy>=99", "no-such-package", 'pytest>=99 ; extra == "dev"', "rich>=1"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: needs)
    status, page = examined()
    assert status == 1 and re.search(r"^wrong  packages  numpy is .* >=99; no-such-package is missing\n", page, re.M)


# Help


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out.rstrip()


def test_every_help_ends_with_an_example_that_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    ([a-z]+) ", shown(capsys), re.M)
    assert {"plan", "run", "new", "doctor"} <= set(commands)
    for command in commands:
        page = shown(capsys, command)
        *_, example = page.splitlines()
        assert example.startswith(f"  memexp {command}"), command
        assert ("ARGS, which follow --" in " ".join(page.split())) is (command in ("plan", "run", "submit", "weights"))
    for line in "\n".join(examples._EXAMPLES.values()).splitlines():
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line.partition(" -- ")[0].partition(" && ")[0])]
        assert _parser().parse_args(words[1:]).command is not None


def test_the_bare_command_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    page = capsys.readouterr().out
    assert "memexp new mine" in page and page.rstrip().endswith(examples.ARGUMENTS)


# A script that runs nothing


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> Callable[[], Sweep]:
    """Makes a sweep as `python mine.py` would; `at_exit` of the module is then what Python would call."""
    module, left = types.ModuleType("__main__"), list[Any]()
    module.__dict__.update(__file__="mine.py", at_exit=left)
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(memexp.script, "_use", memexp.script._Use())
    monkeypatch.setattr(atexit, "register", lambda *call: left.append(call))
    monkeypatch.delattr(sys, "last_value", raising=False)

    def made() -> Sweep:
        module.__dict__["mine"] = Sweep(
            "mine", [Condition(Model("tiny-s"), Study(pair.targets, exposures=0, lr=1.0), probes=[Recognition(pair)])]
        )
        return module.__dict__["mine"]

    return made


def ended() -> None:
    main = sys.modules["__main__"].__dict__
    del main["__file__"]
    [(tell, *given)] = main["at_exit"]
    tell(*given)


def test_a_script_without_main_says_so(script: Callable[[], Sweep], capsys: pytest.CaptureFixture[str]) -> None:
    script()
    script()
    ended()
    [line] = capsys.readouterr().err.splitlines()
    assert "memexp run mine.py" in line and "raise SystemExit(mine.main())" in line


def test_a_script_that_asked_its_sweep_anything_does_not(
    script: Callable[[], Sweep], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script().prepare(Sources())
    ended()
    assert capsys.readouterr().err == ""


def test_nor_does_one_that_failed(
    script: Callable[[], Sweep], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script()
    monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    ended()
    assert capsys.readouterr().err == ""


# Starting up


def test_a_run_says_within_a_second_what_it_is_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "nowhere.py"]) == 2
    assert capsys.readouterr().err == f"memexp: nowhere.py: no such sweep script in {Path.cwd()}\n"
    monkeypatch.setattr(memexp.script, "SLOW", 0.01)
    Path("slow.py").write_text("import time\ntime.sleep(0.1)\nraise ValueError('why')\n")
    assert main(["run", "slow.py"]) == 2
    assert capsys.readouterr().err.splitlines() == ["reading slow.py ...", "memexp: slow.py, line 3: ValueError: why"]


@pytest.mark.parametrize(
    ("address", "variable", "line"),
    [
        (None, None, "starting Ray ..."),
        ("local", "10.0.0.1:6379", "starting Ray ..."),
        (None, "10.0.0.1:6379", "joining the Ray cluster at 10.0.0.1:6379 ..."),
        ("auto", None, "joining the Ray cluster at auto ..."),
    ],
)
def test_what_takes_seconds_is_said_in_words(
    address: str | None, variable: str | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))  # which is no head node
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    work: Any = None
    assert _by_ray(address)(work)[1] == line


def test_it_is_said_before_it_begins(pair: Pair, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memexp.driver.run.check_models", lambda forest, models: None)
    conditions = [Condition(tiny_model, Study(pair.targets, exposures=0, lr=1.0), probes=[Recognition(pair)])]
    page, store = io.StringIO(), Store("results")
    run = Run("mine", Sweep("mine", conditions).grow(), [], store, Snapshots(), False, Console(file=page, width=300))

    def opened(work: Any) -> Any:
        assert page.getvalue().splitlines() == [
            f"mine: 0 of 1 condition is in {store.location}",
            "starting Ray ...",
        ]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.execute(run.begin(), lambda work: (opened, "starting Ray ..."))


# Errors


def test_a_run_that_fails_before_it_has_anything_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    text = "from memexp import *\nsweep = Sweep('s', [Condition(Model('tiny-s'), Study('no.txt', exposures=1, lr=1.0), "
    (tmp_path / "sub" / "mine.py").write_text(text.replace("'no.txt'", "TextFile('no.txt')") + "probes=[Recall()])])\n")
    assert main(["run", "--local", "sub/mine.py", "--store", "a/b"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]
    Store("a/b").check_writable()  # somebody else's, and empty
    assert main(["run", "--local", "sub/mine.py", "--store", "a/b"]) == 2
    assert (tmp_path / "a" / "b").is_dir()


def test_a_store_with_anything_in_it_stays(tmp_path: Path) -> None:
    with Store("results").without_trace():
        Store("results").put_text(".running/other.json", "{}")
    store = Store("new")
    with store.without_trace():
        store.check_writable()
        store.put_text(".running/mine.json", "{}")
    assert (tmp_path / "results").is_dir() and (tmp_path / "new" / ".running" / "mine.json").is_file()
    assert (tmp_path / "new" / ".tmp").is_dir()  # another writer may be about to use it


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text("")
    monkeypatch.setattr(sys, "argv", ["sub/mine.py"])

    def why() -> str:
        with pytest.raises(DataError) as error:
            Sources().texts(TextFile("texts.txt"))
        return str(error.value)

    assert why() == f"texts.txt: no such file in {tmp_path}; the script is in {tmp_path / 'sub'}"
    (tmp_path / "sub" / "texts.txt").write_text("one")
    assert why().endswith("and there is one: give Path(__file__).parent / 'texts.txt'")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "mine.py")])
    assert why() == f"texts.txt: no such file in {tmp_path}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-2", "gpt2"),
        ("GPT2-XL", "gpt2-xl"),
        ("pythia-160m", "EleutherAI/pythia-160m"),
        ("EleutherAI/gpt-j-6B", "EleutherAI/gpt-j-6b"),
        ("tiny_s", "tiny-s"),
        ("gpt2", None),
        ("EleutherAI/pythia-14m", None),
        ("my-model", None),
    ],
)
def test_a_misspelt_model_is_met_with_the_one_that_is_meant(name: str, meant: str | None) -> None:
    assert near_name(name) == meant


def test_the_error_of_an_unknown_model_has_the_near_one() -> None:
    with pytest.raises(ModelError, match=r"'gpt-2' is neither .*; did you mean 'gpt2'\?$"):
        Sources().model(Model("gpt-2"))


@pytest.mark.parametrize("given", [[0, 1], (0, 1), range(2)])
def test_a_grid_is_not_given_to_a_field(given: Any, pair: Pair) -> None:
    with pytest.raises(SpecError) as error:
        Study(pair.targets, exposures=given, lr=1.0)
    said = f"one condition each: [... Study(..., exposures=one) for one in {given!r}]"
    assert str(error.value) == f"Study.exposures: takes one value, got {given!r}; a grid has {said}"


def test_without_study_there_is_nothing_to_forget(pair: Pair, tiny_model: Model) -> None:
    def grown(exposures: int, **others: Any) -> list[str]:
        conditions = [
            Condition(
                tiny_model, Study(pair.targets, exposures=exposures, lr=1.0), probes=[Recognition(pair)], **others
            )
        ]
        forest = Sweep("s", conditions).grow()
        [ask] = forest.asks
        assert ask.settings.get("forget_layer") == (1 if "forget" in others else None)
        return [stage.id for stage in forest.path(ask.stage)]

    base = grown(0)
    assert len(base) == 1 and grown(0, forget=Forget(from_layer=1)) == base
    assert grown(0, forget=Forget(from_layer=1, restudy_exposures=0)) == base
    after = Interference(pair.foils, steps=2, lr=1.0, batch_size=4)
    assert grown(0, forget=Forget(from_layer=1), interference=after) == grown(0, interference=after)
    studied = grown(0, forget=Forget(from_layer=1, restudy_exposures=2))  # as asked for, and not the same as study
    assert len(studied) == 4 and not set(studied[1:]) & set(grown(2))


def test_one_is_one() -> None:
    assert amount(1, "trial") == "1 trial" and amount(0, "trial") == "0 trials"
    assert amount(2, "search", "searches") == "2 searches"
