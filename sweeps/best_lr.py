r"""The best learning rate and batch size per model and experiment (as reported by Orhan 2023, arXiv 2303.17557).

    memexp run sweeps/best_lr.py

For each model and experiment a search of its own tries 8 points: any learning rate of its range, with one of the batch
sizes. What it asks for is recognition after one exposure. By default two tiny models and the six experiments on shipped
lists (see sweeps/six_experiments.py): twelve searches that fill the machine together, some minutes on two cores. The
best of each is told at the end, and again by

    memexp query "SELECT model, experiment, max(value) AS recognition, arg_max(lr, value) AS lr,
                         arg_max(batch_size, value) AS batch_size
                  FROM (SELECT model, experiment, lr, batch_size, avg((target_nll < foil_nll)::int) AS value
                        FROM recognition SEMI JOIN searches USING (condition_id) GROUP BY ALL)
                  GROUP BY ALL ORDER BY ALL"

More trials go on from those there are; with several exposures a search can give up early what is behind:

    memexp run sweeps/best_lr.py -- --trials 16
    memexp run sweeps/best_lr.py -- --exposures 1 2 3 --early

With the published study lists and models, of which the largest are sharded:

    memexp run sweeps/best_lr.py -- --data llm-memory --models gpt2 gpt2-medium gpt2-large gpt2-xl --trials 16 --gpus 1
    memexp run sweeps/best_lr.py -- --data llm-memory --models EleutherAI/gpt-j-6b --workers 4 --gpus 1

``--data`` is the folder of study lists from github.com/eminorhan/llm-memory, with exptE/seen_data_R.json and
exptE/unseen_data_R.json. Published were the best of lr 1e-4, 3e-5 and 1e-5 with batches of 1, 4 and 16.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from memexp import (
    ASHA,
    Choices,
    Condition,
    InlineText,
    Model,
    Pair,
    Recognition,
    Resources,
    Search,
    ShippedText,
    Study,
    Sweep,
    TextFile,
    Uniform,
    run_options,
)
from memexp.stimuli import load_list, random_words, scrambled

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", default=("tiny-s", "tiny-m"), help="names, hub ids, folders")
parser.add_argument("--data", type=Path, help="folder with expt1 to expt6; default: the shipped lists")
parser.add_argument("--experiments", nargs="+", type=int, choices=range(1, 7), default=range(1, 7), help="1 to 6")
parser.add_argument("--replication", type=int, default=0, help="of the published lists, 0 to 3")
parser.add_argument("--exposures", nargs="+", type=int, default=(1,), help="ascending; the last one counts")
parser.add_argument("--early", action="store_true", help="give up what is behind after fewer exposures (ASHA)")
parser.add_argument("--trials", type=int, default=8, help="of each search")
parser.add_argument("--lowest", type=float, help="learning rate (default: 3e-5, with --data 3e-6)")
parser.add_argument("--highest", type=float, help="learning rate (default: 3e-2, with --data 3e-4)")
parser.add_argument("--batch-sizes", nargs="+", type=int, help="default: 4 and 16, with --data 1, 4 and 16")
parser.add_argument("--seed", type=int, default=0, help="of training and of the samplers")
parser.add_argument("--workers", type=int, default=1, help="workers over which each model is sharded")
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
args = parser.parse_args()


def shipped() -> dict[int, Pair]:
    """The six experiments on the lists that ship with memexp."""
    sentences, studied = ShippedText("sentences-targets"), random_words(240)
    words = InlineText("random-words", studied)
    return {
        1: Pair(sentences, ShippedText("sentences-foils")),
        2: Pair(sentences, ShippedText("sentences-paraphrases")),
        3: Pair(sentences, ShippedText("sentences-synonyms")),
        4: Pair(words, InlineText("other-random-words", random_words(240, seed=1, unlike=studied))),
        5: Pair(words, sentences),
        6: Pair(InlineText("scrambled-sentences", scrambled(load_list("sentences-targets"))), sentences),
    }


def published(folder: Path, experiment: int) -> Pair:
    """The lists of the paper's repository."""
    seen, unseen = (
        folder / f"expt{experiment}" / f"{name}_data_{args.replication}.json" for name in ("seen", "unseen")
    )
    return Pair(TextFile(seen), TextFile(unseen))


pairs = {e: published(args.data, e) for e in args.experiments} if args.data else shipped()


def studied(name: str, experiment: int) -> Callable[..., list[Condition]]:
    """What a search of one model and experiment tries: a point's conditions, after more and more exposures."""
    pair = pairs[experiment]

    def conditions(lr: float, batch_size: int) -> list[Condition]:
        return [
            Condition(
                model=Model(name),
                study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=batch_size),
                seed=args.seed,
                probes=[Recognition(pair)],
                labels={"experiment": experiment, "replication": args.replication},
            )
            for exposures in args.exposures
        ]

    return conditions


sweep = Sweep(
    name="best-lr",
    searches=[
        Search(
            name=f"{Path(name).name}-e{experiment}",
            condition=studied(name, experiment),
            space={
                "lr": Uniform(
                    args.lowest or (3e-6 if args.data else 3e-5),
                    args.highest or (3e-4 if args.data else 3e-2),
                    log=True,
                ),
                "batch_size": Choices(args.batch_sizes or ([1, 4, 16] if args.data else [4, 16])),
            },
            metric="SELECT avg((target_nll < foil_nll)::int) FROM recognition",
            mode="max",
            trials=args.trials,
            seed=args.seed,
            stopping=ASHA() if args.early else None,
        )
        for name in args.models
        for experiment in args.experiments
    ],
    resources=Resources(workers=args.workers, cpus=args.cpus, gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
