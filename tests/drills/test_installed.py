"""memexp from its wheel, outside the repository: the study lists, the tiny models and the quickstart travel with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import duckdb
import pytest

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with memexp's wheel; everything else it sees in the tests' own."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "memexp", source / "memexp", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    # Without isolation: an isolated build would fetch setuptools again.
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", made, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made / "venv"], check=True)
    (site,) = (made / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = made.glob("memexp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A folder in a .pth file is searched last, and its own .pth files, this repository's among them, are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return made / "venv" / "bin" / "python"


def outside(python: Path, folder: Path, *arguments: object) -> str:
    """What a command says in a folder with nothing of the repository in reach."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=folder,
        env=environment | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = outside(installed, tmp_path, "-c", "import memexp; print(memexp.__file__)").strip()
    assert Path(where).is_relative_to(installed.parent.parent)
    assert Path(where).with_name("py.typed").is_file()  # or type checkers would pass over all of it


def test_a_sweep_over_the_shipped_models_runs_there(installed: Path, tmp_path: Path) -> None:
    """The quickstart itself, but with fewer sentences and exposures."""
    script = (ROOT / "sweeps" / "quickstart.py").read_text(encoding="utf-8")
    short = re.sub(r"first=\d+", "first=8", script).replace("(0, 1, 3, 10)", "(0, 1)")
    assert short.count("first=8") == 2 and "(0, 1)" in short
    (tmp_path / "quickstart.py").write_text(short, encoding="utf-8")
    main = "import sys; from memexp.cli import main; sys.exit(main())"  # what the memexp command is
    said = outside(installed, tmp_path, "-c", main, "run", "--ray", "quickstart.py", "--store", "here")
    assert "tiny-l" in said
    rows = duckdb.sql(f"SELECT model, count(*) FROM '{tmp_path}/here/recall/*.parquet' GROUP BY ALL ORDER BY ALL")
    assert rows.fetchall() == [(f"tiny-{size}", 2 * 2 * 2 * 8) for size in "lms"]
