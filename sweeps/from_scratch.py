r"""Is it pretraining that makes few-shot memory? One architecture, from scratch and pretrained (Orhan 2023, section 3).

    memexp run sweeps/from_scratch.py

The architecture of tiny-s is drawn at random, trained on other sentences for 0, 300 or 1,000 steps, and then studies 80
sentences as the pretrained tiny-s does. Half the conditions study the foils, so that without study a pair is told apart
half the time. All studies below one number of steps share one pretraining. Some minutes on two cores. What is to be
seen: all come to tell the sentences apart, and recall after ten exposures rises with pretraining, from none at all.

    memexp query "SELECT arm, pretrain_steps, exposures, avg((target_nll < foil_nll)::int) AS recognition
                  FROM recognition GROUP BY ALL ORDER BY ALL"

Text of your own, of any size, is read as it is trained on: ``--text 'wiki/*.parquet'``, .jsonl, .txt (also .gz), or the
id of a hub dataset.

As published: GPT-J from its configuration alone, trained on WikiText-103, beside the pretrained GPT-J:

    memexp run sweeps/from_scratch.py -- --published --data llm-memory/data/llm-experiment-data --workers 4 --gpus 1

The published scripts ask for random weights by ``--use_pretrained_weights False``, which their parser reads as True:
what the paper calls GPT-J from scratch is most likely the pretrained one, finetuned on WikiText-103. That arm is
``--finetuned`` here; from scratch means from scratch. Steps and learning rate of this training are options, since none
are known that gave a model from scratch.
"""

import argparse
from pathlib import Path

from memexp import (
    Condition,
    HubStream,
    Model,
    Pair,
    Pretrain,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    Study,
    Sweep,
    TextFile,
    TextStream,
    counterbalanced,
    run_options,
)

GPTJ = "EleutherAI/gpt-j-6b"
FILES = (".txt", ".jsonl", ".json", ".parquet", ".gz")

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--published", action="store_true", help="GPT-J, WikiText-103, the published lists and exposures")
parser.add_argument("--model", help=f"a hub id, folder or shipped model (default: tiny-s; published: {GPTJ})")
parser.add_argument("--text", help="what to pretrain on: files or a pattern, or the id of a hub dataset")
parser.add_argument("--subset", help="of that dataset")
parser.add_argument("--data", type=Path, help="folder with expt1/seen_data_0.json ... (needed with --published)")
parser.add_argument("--experiments", nargs="+", type=int, default=(1, 3), help="of the published ones")
parser.add_argument("--replications", nargs="+", type=int, default=range(4), help="of the published ones")
parser.add_argument("--steps", nargs="+", type=int, help="of pretraining (default: 0 300 1000; published: 100000)")
parser.add_argument("--pretrain-lr", type=float, help="default: 4e-3; published: 1e-4")
parser.add_argument("--finetuned", action="store_true", help="also train the pretrained model on the same text")
parser.add_argument("--exposures", nargs="+", type=int, help="default: 0 1 3 10; published: 0 to 3")
parser.add_argument("--lrs", nargs="+", type=float, help="of study (default: 1e-3; published: 1e-5)")
parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
parser.add_argument("--workers", type=int, default=1, help="workers over which each model is sharded")
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
args = parser.parse_args()
if args.published and not args.data:
    parser.error("--published needs --data")

name = args.model or (GPTJ if args.published else "tiny-s")
text: ShippedText | TextStream | HubStream
if args.text and args.text.endswith(FILES):
    text = TextStream(args.text)
elif args.text:
    text = HubStream(args.text, args.subset)
elif args.published:
    text = HubStream("Salesforce/wikitext", "wikitext-103-raw-v1")
else:
    text = ShippedText("sentences-interference")

if args.data:
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


def pretrain(steps: int) -> Pretrain:
    """Published models decay to 0 and stand each for itself; the tiny ones are stops of one training."""
    if args.published:
        lr = args.pretrain_lr or 1e-4
        return Pretrain(text, steps, lr, schedule="linear", warmup_steps=min(1_000, steps // 10), clip_norm=1.0)
    return Pretrain(text, steps, args.pretrain_lr or 4e-3, warmup_steps=50, weight_decay=0.05, clip_norm=1.0)


drawn = Model(f"{Path(name).name}-random", tokenizer=name, init=RandomInit(name))
trainings = [pretrain(steps) for steps in args.steps or ([100_000] if args.published else [0, 300, 1_000])]
arms: list[tuple[str, Model, Pretrain | None]] = [
    *(("from scratch", drawn, training) for training in trainings),
    ("pretrained", Model(name), None),
    *(("finetuned", Model(name), training) for training in trainings if args.finetuned and training.steps),
]

conditions = [
    Condition(
        model=model,
        pretrain=training,
        study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=16 if args.published else 4),
        seed=seed,
        probes=[Recognition(pair), Recall()],
        labels={"arm": arm, "experiment": experiment, "replication": replication},
    )
    for arm, model, training in arms
    for (experiment, replication), pair in pairs.items()
    for exposures in args.exposures or (range(4) if args.published else (0, 1, 3, 10))
    for lr in args.lrs or ([1e-5] if args.published else [1e-3])
    for seed in args.seeds
]

sweep = Sweep(
    name="from-scratch",
    # The published lists are not counterbalanced: each replication has its own.
    conditions=conditions if args.data else [c for one in conditions for c in (one, counterbalanced(one))],
    resources=Resources(workers=args.workers, cpus=args.cpus, gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
