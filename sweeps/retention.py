r"""How long do memories last? Study, then training on other text (Orhan 2023, arXiv 2303.17557, section 4).

    memexp run sweeps/retention.py

A tiny model studies 80 sentences ten times and then goes on with unrelated ones, for up to 1,000 steps. On the way
recognition and recall are measured: verbatim recall is gone within some 30 steps, recognition lasts. Half the
conditions study the foils, so that without study a pair is told apart half the time. Some minutes on two cores.

    memexp query "SELECT model, retention_steps, avg((target_nll < foil_nll)::int) AS recognition
                  FROM recognition GROUP BY ALL ORDER BY ALL"
    memexp query "SELECT model, retention_steps, avg(completion_rouge2) AS recall FROM recall GROUP BY ALL ORDER BY ALL"

As published, GPT-J after 3 exposures, with the study lists of the paper's repository and sentences of CNN/DailyMail in
files of your own (a text longer than 100 characters a line or row), read as they are trained on:

    memexp run sweeps/retention.py -- --published --data llm-memory/data/llm-experiment-data \
        --interference 'cnn/*.parquet' --workers 4 --gpus 1

Whole articles, cut at 128 tokens, stream from the hub: ``--interference abisee/cnn_dailymail --subset 3.0.0 --field
article``. Nothing is held in memory, and text that comes a second time is reported before anything is trained.
"""

import argparse
from pathlib import Path

from memexp import (
    Condition,
    HubStream,
    Interference,
    Model,
    Pair,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    Study,
    Sweep,
    TextFile,
    TextStream,
    counterbalanced,
    retention_steps,
    run_options,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--published", action="store_true", help="GPT-J, the published lists, steps and hyperparameters")
parser.add_argument("--models", nargs="+", help="default: tiny-m; published: EleutherAI/gpt-j-6b")
parser.add_argument("--data", type=Path, help="folder with expt1/seen_data_0.json ... (needed with --published)")
parser.add_argument("--interference", help="unrelated texts: files, a pattern, a hub id (needed with --published)")
parser.add_argument("--subset", help="of the hub dataset")
parser.add_argument("--field", help="the column of the unrelated texts (default: sent, text or the only one)")
parser.add_argument("--experiments", nargs="+", type=int, default=(1, 3), help="of the published ones")
parser.add_argument("--replications", nargs="+", type=int, default=range(4), help="of the published ones")
parser.add_argument("--exposures", nargs="+", type=int, help="default: 10; published: 3")
parser.add_argument("--until", type=int, default=1000, help="last retention interval (published: the published ones)")
parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
parser.add_argument("--workers", type=int, default=1, help="workers over which each model is sharded")
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
args = parser.parse_args()
if args.published and not (args.data and args.interference):
    parser.error("--published needs --data and --interference")

if args.published:
    pairs = {
        (experiment, replication): Pair(
            TextFile(args.data / f"expt{experiment}" / f"seen_data_{replication}.json"),
            TextFile(args.data / f"expt{experiment}" / f"unseen_data_{replication}.json"),
        )
        for experiment in args.experiments
        for replication in args.replications
    }
else:
    pairs = {(1, 0): Pair(ShippedText("sentences-targets", first=80), ShippedText("sentences-foils", first=80))}

unrelated: ShippedText | TextFile | TextStream | HubStream = ShippedText("sentences-interference")
if args.interference and args.interference.endswith(".csv"):
    unrelated = TextFile(args.interference, args.field)  # the one kind of file that is read as a whole
elif args.interference and args.interference.endswith((".txt", ".jsonl", ".json", ".parquet", ".gz")):
    unrelated = TextStream(args.interference, args.field)
elif args.interference:
    unrelated = HubStream(args.interference, args.subset, field=args.field)
steps = retention_steps("published") if args.published else retention_steps(args.until, per_decade=2)

conditions = [
    Condition(
        model=Model(name),
        study=Study(
            pair.targets,
            exposures=exposures,
            lr=1e-5 if args.published else 1e-3,
            batch_size=16 if args.published else 4,
        ),
        seed=seed,
        probes=[Recognition(pair), Recall()],
        interference=Interference(unrelated, steps=after, lr=1e-5 if args.published else 1e-3, batch_size=16),
        labels={"experiment": experiment, "replication": replication},
    )
    for name in args.models or (["EleutherAI/gpt-j-6b"] if args.published else ["tiny-m"])
    for (experiment, replication), pair in pairs.items()
    for exposures in args.exposures or ([3] if args.published else [10])
    for seed in args.seeds
    for after in steps
]

sweep = Sweep(
    name="retention",
    # The published lists are not counterbalanced: each replication has its own.
    conditions=conditions if args.published else [c for one in conditions for c in (one, counterbalanced(one))],
    resources=Resources(workers=args.workers, cpus=args.cpus, gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
