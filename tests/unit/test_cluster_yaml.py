"""cluster.yaml is accepted by Ray's own validator, by EC2's parameter model and by `ray start`, all without a network.

Ray's validator lets any key pass inside `provider` and `node_config`, so these are checked here: the first against what
Ray's AWS provider reads, the second against the model of RunInstances that botocore ships.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import start as ray_start

from memexp import ClusterError, Resources
from memexp.cluster import connect

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")

PROVIDER_KEYS = {  # what ray/autoscaler/_private reads of `provider` for AWS, as of Ray 2.60
    "availability_zone",
    "aws_credentials",
    "cache_stopped_nodes",
    "cloudwatch",
    "disable_launch_config_check",
    "disable_node_updaters",
    "foreground_node_launch",
    "key_pair",
    "region",
    "security_group",
    "type",
    "use_external_head_ip",
    "use_internal_ips",
    "worker_liveness_check",
}

Config = dict[str, Any]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a network call: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def config() -> Config:
    loaded: Config = yaml.safe_load(TEXT)
    return loaded


def check(config: Config) -> None:
    """Raise whatever is wrong with a cluster configuration; ValueError for what Ray would only notice on AWS."""
    validate_config(prepare_config(copy.deepcopy(config)))
    unknown = set(config["provider"]) - PROVIDER_KEYS
    if unknown:
        raise ValueError(f"provider: unknown {sorted(unknown)}")
    run_instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in config["available_node_types"].items():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1} | node["node_config"], run_instances)
        if report.has_errors():
            raise ValueError(f"{name}: {report.generate_report()}")


def started_with(commands: list[str]) -> Config:
    """Options of the one `ray start` among the commands, parsed by Ray's own command line and not executed."""
    (command,) = [command for command in commands if "ray start" in command]
    arguments = shlex.split(command.partition("ray start")[2])
    options: Config = ray_start.make_context("ray start", arguments).params
    return options


def test_ray_and_ec2_accept_it(config: Config) -> None:
    check(config)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("min_worker", 0, "min_worker"),  # Ray knows every name at the top and in a node type
        ("available_node_types.gpu.resource", {"GPU": 1}, "resource"),
        ("head_node_type", "heads", "head_node_type"),
        ("max_workers", "eight", "eight"),
        ("max_workers", None, "None"),
        ("provider.regoin", "us-west-2", "regoin"),  # from here on Ray would notice on AWS only
        ("available_node_types.gpu.node_config.InstanceTyp", "g5.xlarge", "InstanceTyp"),
        ("available_node_types.gpu.node_config.InstanceMarketOptions", {"MarketTyp": "spot"}, "MarketTyp"),
        ("available_node_types.head.node_config.BlockDeviceMappings", [{"Ebs": {"VolumeSize": "100"}}], "VolumeSize"),
    ],
)
def test_a_broken_copy_is_refused(config: Config, path: str, value: object, complaint: str) -> None:
    *parents, last = path.split(".")
    target = config
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises((ValidationError, ValueError), match=complaint):
        check(config)


def test_the_network_guard_works() -> None:
    with pytest.raises(AssertionError, match="network"):
        socket.create_connection(("localhost", 9))


def test_head_holds_the_drivers_and_no_trials(config: Config) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    options = started_with(config["head_start_ray_commands"])
    assert head["max_workers"] == 0
    assert head["resources"] == {"CPU": 0, "memexp_driver": 1000}
    # said twice, to the autoscaler and to the node: they must agree
    assert {"CPU": options["num_cpus"]} | json.loads(options["resources"]) == head["resources"]
    assert options["head"]
    assert options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_nodes_have_one_gpu_or_several_and_scale_from_none(config: Config) -> None:
    workers = {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}
    assert workers
    for node in workers.values():
        assert node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"]
    assert sorted(node["resources"]["GPU"] for node in workers.values()) == [1, 1, 4, 4, 8, 8]  # for trials, for groups
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False


def test_published_large_models_have_a_node_each(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(TEXT)
    monkeypatch.setattr(connect, "BOOTSTRAPPED", str(file))
    cluster = connect._autoscaled(connect.Cluster((config["available_node_types"]["head"]["resources"],)))
    for workers, slots in ((4, 2 * (2 + 2)), (8, 2 * 1)):
        group = Resources(workers=workers, cpus=4, gpus=1)
        cluster.check(group)
        assert cluster.slots(group) == slots  # two nodes of four GPUs and one of eight, on spot or not
    with pytest.raises(ClusterError, match="no node has room for all 9 workers together"):
        cluster.check(Resources(workers=9, gpus=1))
    assert cluster.total("GPU") == 2 * 8 + 4 * 4 + 2, "eight nodes in all"


def test_every_ray_process_asks_for_the_token(config: Config) -> None:
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert [re.search(r"\bRAY_AUTH_MODE=token ray start\b", command) is not None for command in commands] == [
            "ray start" in command for command in commands
        ]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"])
    assert "RAY_AUTH_TOKEN=" not in TEXT  # the secret itself is never written here


@pytest.mark.parametrize(("gpus", "name"), [(1, "gpu"), (4, "gpus"), (8, "gpus8")])
def test_spot_instances_come_first_and_others_where_there_are_none(config: Config, gpus: int, name: str) -> None:
    """By the scheduler of Ray's autoscaler, which takes a group on one node for one request."""
    kinds = AutoscalingConfig(config, skip_content_hash=True).get_node_type_configs()
    wanted = ResourceRequestUtil.make({"GPU": gpus, "CPU": 4 * gpus})
    for failed, started in ({}, f"{name}-spot"), ({f"{name}-spot": 0.0}, name):
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=kinds,
            max_num_nodes=config["max_workers"],
            resource_requests=ResourceRequestUtil.group_by_count([wanted]),
            recoverable_resource_availabilities=failed,
        )
        reply = ResourceDemandScheduler(AutoscalerEventLogger(logging.getLogger())).schedule(request)
        launched = {one.instance_type: one.count for one in reply.to_launch}
        assert {started: 1}.items() <= launched.items() and launched.keys() <= {started, "head"}


def test_dashboard_listens_on_loopback_only(config: Config) -> None:
    assert started_with(config["head_start_ray_commands"])["dashboard_host"] == "127.0.0.1"


def test_workers_join_the_head(config: Config) -> None:
    options = started_with(config["worker_start_ray_commands"])
    head = started_with(config["head_start_ray_commands"])
    assert options["address"] == f"$RAY_HEAD_IP:{head['port']}"
    assert not options["head"]


def test_what_is_installed_is_mounted_and_pinned(config: Config) -> None:
    installs = [command for command in config["setup_commands"] if "pip install" in command]
    assert installs and all("-c constraints.txt" in command for command in installs)
    assert "pip" not in " ".join(config["head_setup_commands"])  # Ray's default there is an unpinned boto3
    mounts = {remote: local for remote, local in config["file_mounts"].items() if remote.startswith("~/memexp/")}
    assert {"memexp", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= set(mounts.values())
    for remote, local in mounts.items():
        assert remote == f"~/memexp/{local}"
        assert not Path(local).is_absolute()


def test_what_is_mounted_exists(config: Config) -> None:
    missing = [local for local in config["file_mounts"].values() if local[0] != "~" and not (ROOT / local).exists()]
    assert not missing


def test_no_path_of_a_machine_and_no_host(config: Config) -> None:
    allowed = ("/aws/service/", "/dev/sda1", "/dev/null", "/opt/dlami/nvme")  # the last of AWS' GPU images
    absolute = [word for word in re.findall(r"(?<![\w~.*$/-])/[\w.-]+[\w./-]*", TEXT) if not word.startswith(allowed)]
    assert not absolute
    assert "://" not in TEXT.replace("s3://", "")
    assert "0.0.0.0" not in json.dumps(config)


def set_up(config: Config, home: Path) -> subprocess.CompletedProcess[str]:
    """Execute the setup commands that come before any installation, as a node would, in a home of their own."""
    commands = config["setup_commands"]
    first = next(index for index, command in enumerate(commands) if "apt-get" in command)
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("not a token")
    script = "set -e\n" + "\n".join(f"({command})" for command in commands[:first])
    environment = {"HOME": str(home), "PATH": os.defpath}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_a_store_not_filled_in_stops_the_set_up(config: Config, tmp_path: Path) -> None:
    done = set_up(config, tmp_path)
    assert done.returncode == 1
    assert "FILL IN" in done.stderr


def test_store_and_token_reach_every_shell(config: Config, tmp_path: Path) -> None:
    config["setup_commands"][0] = config["setup_commands"][0].replace("YOUR-BUCKET", "some-bucket")
    done = set_up(config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    show = ". ~/.bashrc; echo $MEMEXP_STORE $RAY_AUTH_MODE $RAY_ADDRESS; echo $PATH"
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    shell = subprocess.run(["bash", "-c", show], env=environment, capture_output=True, text=True, check=True)
    settings, path = shell.stdout.splitlines()
    assert settings == "s3://some-bucket/memexp token auto"
    assert path.startswith(f"{tmp_path}/memexp-venv/bin:")
