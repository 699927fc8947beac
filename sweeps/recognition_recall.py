r"""The published few-shot memory grid (Orhan 2023, arXiv 2303.17557): six experiments, 0 to 3 exposures, many models.

On a laptop, with small models drawn at random, one replication of two experiments:

    memexp run sweeps/recognition_recall.py -- --data llm-memory --models random-small --experiments 1 3 \
        --replications 0 --lrs 1e-3

On a cluster, everything that was published (19 models, four replications, three learning rates, three batch sizes):

    memexp run sweeps/recognition_recall.py -- --data llm-memory --gpus 1

``--data`` is the folder of study lists from github.com/eminorhan/llm-memory, with exptE/seen_data_R.json and
exptE/unseen_data_R.json. Models are hub ids, local folders, or random-small and random-medium.
"""

import argparse
from pathlib import Path

from memexp import (
    Condition,
    Model,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    Study,
    Sweep,
    TextFile,
    TrainedTokenizer,
    run_options,
)

PUBLISHED = (
    *("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    *("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neo-2.7B", "EleutherAI/gpt-j-6b"),
    *(f"facebook/opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b")),
    *(f"bigscience/bloom-{size}" for size in ("560m", "1b1", "1b7", "3b", "7b1")),
)
SHARDED = ("EleutherAI/gpt-j-6b", "facebook/opt-6.7b", "facebook/opt-13b", "bigscience/bloom-7b1")
"""Published on four GPUs each."""
RANDOM = {"random-small": (2, 128), "random-medium": (4, 256)}
"""Blocks and width of GPT-2s with random weights, for trying the sweep out where no hub is in reach."""

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--data", type=Path, required=True, help="folder with expt1 to expt6")
parser.add_argument("--models", nargs="+", default=PUBLISHED, help="hub ids, folders, random-small, random-medium")
parser.add_argument("--experiments", nargs="+", type=int, default=range(1, 7), help="1 to 6")
parser.add_argument("--replications", nargs="+", type=int, default=range(4), help="0 to 3")
parser.add_argument("--exposures", nargs="+", type=int, default=range(4))
parser.add_argument("--lrs", nargs="+", type=float, default=(1e-4, 3e-5, 1e-5))
parser.add_argument("--batch-sizes", nargs="+", type=int, default=(1, 4, 16))
parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
parser.add_argument("--workers", type=int, default=4, help="workers over which the largest models are sharded")
args = parser.parse_args()

pairs = {
    (experiment, replication): Pair(
        TextFile(args.data / f"expt{experiment}" / f"seen_data_{replication}.json"),
        TextFile(args.data / f"expt{experiment}" / f"unseen_data_{replication}.json"),
    )
    for experiment in args.experiments
    for replication in args.replications
}


def model(name: str) -> Model:
    """A pretrained model by hub id or folder, or one of `RANDOM`."""
    if name not in RANDOM:
        return Model(name)
    blocks, width = RANDOM[name]
    config = {"model_type": "gpt2", "n_layer": blocks, "n_embd": width, "n_head": width // 32, "n_positions": 128}
    lists = {corpus.path: corpus for pair in pairs.values() for corpus in (pair.targets, pair.foils)}
    return Model(name, tokenizer=TrainedTokenizer(list(lists.values()), vocab_size=4096), init=RandomInit(config))


def resources(model: Model) -> Resources:
    """One worker, or for the largest models as many as were published."""
    return Resources(workers=args.workers if model.name in SHARDED else 1, cpus=args.cpus, gpus=args.gpus)


sweep = Sweep(
    name="recognition-recall",
    conditions=[
        Condition(
            model=model(name),
            study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=batch_size),
            seed=seed,
            probes=[Recognition(pair), Recall()],
            labels={"experiment": experiment, "replication": replication},
        )
        for name in args.models
        for (experiment, replication), pair in pairs.items()
        for exposures in args.exposures
        for lr in args.lrs
        for batch_size in args.batch_sizes
        for seed in args.seeds
    ],
    resources=resources,
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
