"""The files of clusters/ are what the tools they are for take: KubeRay's own schema, Kubernetes' for pods, hadolint.

kuberay.json is the operator's schema of a RayJob, without descriptions and pod templates. clusters/slurm.sh is tried on
a real SLURM (drills/test_slurm.py).
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.scripts.scripts import start as ray_start

from memexp.cluster.connect import DRIVER

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "kuberay.json").read_text(encoding="utf-8"))["schema"]
DOCKERFILE = (ROOT / "clusters" / "Dockerfile").read_text(encoding="utf-8")

Job = dict[str, Any]


@pytest.fixture
def job() -> Job:
    loaded: Job = yaml.safe_load((ROOT / "clusters" / "kuberay.yaml").read_text(encoding="utf-8"))
    return loaded


def closed(schema: Any) -> Any:
    """The same, without the fields that it does not name, which the API server would leave out without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        found.setdefault("additionalProperties", False)
    return found


def check(job: Job) -> None:
    """Raise whatever is wrong with a RayJob."""
    jsonschema.validate(job, closed(SCHEMA))
    for group in groups(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        unknown = {name.replace("-", "_") for name in group.get("rayStartParams", {})} - {
            option.name for option in ray_start.params
        }
        if unknown:
            raise ValueError(f"ray start has no {sorted(unknown)}")


def groups(job: Job) -> list[Job]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_kuberay_takes_it(job: Job) -> None:
    check(job)


def test_what_it_would_not_take_is_found(job: Job) -> None:
    cases = {
        "shutdownAfterJobFinish": lambda one: one["spec"].update(shutdownAfterJobFinish=True),
        "is not of type 'boolean'": lambda one: one["spec"].update(shutdownAfterJobFinishes="yes"),
        "is not one of": lambda one: one["spec"]["rayClusterSpec"]["authOptions"].update(mode="none"),
        "containerz": lambda one: groups(one)[1]["template"]["spec"].update(containerz=[]),
        "no_such": lambda one: groups(one)[0]["rayStartParams"].update({"no-such": "1"}),
    }
    for what, spoil in cases.items():
        spoiled = copy.deepcopy(job)
        spoil(spoiled)
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError, ValueError), match=what):
            check(spoiled)


def test_it_describes_the_cluster_that_memexp_expects(job: Job) -> None:
    head, *workers = groups(job)
    (given,) = shlex.split(head["rayStartParams"]["resources"])
    assert json.loads(given) == {DRIVER: 1000} and head["rayStartParams"]["num-cpus"] == "0"
    gpus = [one["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for one in workers]
    assert gpus == ["1", "8"] and [one["minReplicas"] for one in workers] == [0, 0]
    for one in workers:
        spec = one["template"]["spec"]
        drain = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        assert int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < spec["terminationGracePeriodSeconds"]


def test_its_command_is_one(job: Job) -> None:
    memexp, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert memexp == "memexp"
    rest = arguments[: arguments.index("--")]
    (script,) = [one for one in rest if one.endswith(".py")]
    assert (ROOT / script).is_file()
    planned = ["plan", script, *arguments[arguments.index("--") :], "--help"]  # the script's own options
    found = subprocess.run([sys.executable, "-m", "memexp.cli", *planned], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and "--gpus" in found.stdout, found.stderr


def test_ray_is_of_one_version_everywhere(job: Job) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    image = re.search(r"^FROM rayproject/ray:([0-9.]+)-py3", DOCKERFILE, re.MULTILINE)
    assert pinned is not None and image is not None
    assert pinned[1] == image[1] == job["spec"]["rayClusterSpec"]["rayVersion"]


def linted(text: str) -> tuple[int, str]:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True, check=False)
    return found.returncode, found.stdout + found.stderr


def test_the_dockerfile_is_one() -> None:
    assert linted(DOCKERFILE) == (0, "")
    assert linted(DOCKERFILE.replace("COPY", "COPPY"))[0] == 1
    assert linted(DOCKERFILE.replace(":2.60.0-py312-gpu", ":latest"))[0] == 1


def test_the_dockerfile_copies_what_there_is_and_docker_is_given_it() -> None:
    copied = [name for line in re.findall(r"^COPY \S+ (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    ignored = (ROOT / "clusters" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"memexp", "sweeps", "pyproject.toml", "constraints.txt"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in ignored
