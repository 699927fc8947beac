#!/usr/bin/env bash
# memexp on the nodes that SLURM gives a job: Ray on all of them while it lasts, the driver of the sweep on the first.
#
#   sbatch --nodes=2 --cpus-per-task=16 --gpus-per-node=4 \
#       clusters/slurm.sh sweeps/facts.py --store /shared/results -- --gpus 1
#
# What comes after the name of this file is what `memexp run` takes. All nodes have to see the present folder, its
# environment .venv (`make setup`; another one: MEMEXP_VENV=FOLDER), the store and HF_HOME.
#
# Two minutes before the time of the job is over its trials save what they have trained, and the job is queued again: it
# goes on where it was. `scancel` ends it for good; the same sbatch goes on later.

#SBATCH --job-name=memexp
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=memexp-%j.log
#SBATCH --open-mode=append

set -euo pipefail

. "${MEMEXP_VENV:-.venv}/bin/activate"

# A secret of this job: without it whoever reaches the ports might run code here. Neither it nor what follows is logged.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
RAY_FOLDER=/tmp/ray-$SLURM_JOB_ID # short: a socket's path has 107 characters
# The first node, on which this script runs, and a port that two jobs on it do not share.
ADDRESS=$(python -c 'import ray; print(ray.util.get_node_ip_address())'):$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_FOLDER ADDRESS RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # at the end nothing is left to be saved

# `memexp_driver` is what the driver of a trial of several workers holds, on the first node.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" bash -c '
  ulimit -n "$(ulimit -Hn)"
  trap : TERM
  ray=(ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --dashboard-agent-listen-port=0)
  if [ "$SLURM_PROCID" = 0 ]; then
    "${ray[@]}" --head --port="${ADDRESS#*:}" --temp-dir="$RAY_FOLDER" --dashboard-host=127.0.0.1 \
      --resources="{\"memexp_driver\": 1000}" || status=$? # which ends all: others are of no use without it
  else
    until ray health-check --address "$ADDRESS" 2> /dev/null; do sleep 1; done
    "${ray[@]}" --address="$ADDRESS"
  fi
  rm -rf "$RAY_FOLDER"
  exit "${status:-0}"
' > "memexp-$SLURM_JOB_ID-ray.log" 2>&1 &
servers=$!

python - "$SLURM_JOB_NUM_NODES" "$servers" << 'END'
"""Waits until Ray is on all nodes."""
import os, sys, time
import ray

nodes, servers = int(sys.argv[1]), int(sys.argv[2])
end, found = time.monotonic() + 600, 0
while time.monotonic() < end and os.path.exists(f"/proc/{servers}"):
    try:
        if not ray.is_initialized():
            ray.init(os.environ["ADDRESS"], logging_level="ERROR", log_to_driver=False)
        found = sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError):
        pass  # not yet
    if found == nodes:
        sys.exit()
    time.sleep(1)  # for ten minutes at most, or until Ray has ended
sys.exit(f"Ray came up on {found} of {nodes} nodes: memexp-{os.environ['SLURM_JOB_ID']}-ray.log says why")
END

over=
trap 'kill -TERM "$driver"' TERM
trap 'over=1; kill -TERM "$driver"' USR1
memexp run --address "$ADDRESS" "$@" &
driver=$!
status=0
while kill -0 "$driver" 2> /dev/null; do # a signal ends `wait` before the driver ends
  wait "$driver" && status=0 || status=$?
done
trap - TERM USR1

scancel --signal=TERM "$SLURM_JOB_ID.0" && wait "$servers" || true
if [ -n "$over" ] && [ "$status" = 143 ]; then # stopped, and not done
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
