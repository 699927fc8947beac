"""What facts.py, active_forgetting.py and layer_ablation.py share: models, hyperparameters, corpora and tests.

Two settings. The first needs nothing from outside and takes minutes: the tiny models that ship with memexp, on invented
countries they have never met, asked without shots. The other, ``--published``, has the models, dataset and
hyperparameters of Zhang, Li & Wu 2024 (arXiv 2409.14057), asked after five shots.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from memexp import QA, Choice, FactDataset, FactWorld, Full, LoRA, Probe, Resources, Study, run_options

OPEN = ["Eval_QA", "Eval_reverse", "Eval_indirect_reasoning", "Eval_animal_commonsense", "Eval_2hop_reasoning_raw"]
CLOSED = ["Eval_multiple_choice", "Eval_2hop_reasoning"]
"""The tests of the dataset, and of the invented world: to be answered freely, and by choice."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LARGEST = "meta-llama/Meta-Llama-3-70B"


def options(
    description: str | None, seeds: Sequence[int] = (0, 1, 2), tiny: Sequence[str] = ("tiny-s", "tiny-m")
) -> argparse.ArgumentParser:
    """The options that the three sweeps have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
    )
    parser.add_argument("--published", action="store_true", help="the published models, dataset and hyperparameters")
    parser.add_argument("--models", nargs="+", help=f"default: {' '.join(tiny)}; published: Llama 3 8B, Gemma 7B")
    parser.set_defaults(tiny=tiny)
    parser.add_argument("--methods", nargs="+", choices=("full", "lora"), default=("full", "lora"))
    parser.add_argument("--corpora", nargs="+", choices=("narrative", "referencing"), default=("narrative",))
    parser.add_argument(
        "--data", help="hub id or folder of a dataset of the published kind (default: an invented world)"
    )
    parser.add_argument("--revision", help="its branch, tag or commit")
    parser.add_argument("--older", action="store_true", help="its Eval_2hop_reasoning has open questions")
    parser.add_argument(
        "--entities", type=int, default=40, help="countries of the invented world; each seed has another"
    )
    parser.add_argument(
        "--exposures", type=int, help="passes over the corpus (default: 15, adapters 20; published: 10)"
    )
    parser.add_argument("--lrs", nargs="+", type=float, help="instead of the defaults of model and method")
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds)
    parser.add_argument("--shots", type=int, help="answered questions before each question (default: 0; published: 5)")
    parser.add_argument("--workers", type=int, default=1, help="workers over which each model is sharded")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; ends with a line where one of a dataset has no dataset to be of."""
    args = parser.parse_args()
    for option, given in (("--revision", args.revision), ("--older", args.older)):
        if given and not (args.data or args.published):
            parser.error(f"{option} is of a dataset: it needs --data or --published")
    return args


def models(args: argparse.Namespace) -> list[str]:
    """Names of the models; the largest published one only where it is named."""
    return args.models or (["meta-llama/Meta-Llama-3-8B", "google/gemma-7b"] if args.published else args.tiny)


def methods(args: argparse.Namespace, model: str) -> list[Full | LoRA]:
    """Full finetuning and adapters, as far as asked for; of the largest model adapters only."""
    adapters = LoRA(r=16, alpha=8, rslora=True)
    if args.published:
        adapters = LoRA(r=64, alpha=16, rslora=True, targets=PROJECTIONS)
    return [Full() if name == "full" else adapters for name in args.methods if (name, model) != ("full", LARGEST)]


def rates(args: argparse.Namespace, method: Full | LoRA) -> list[float]:
    """Learning rates."""
    full = isinstance(method, Full)
    return args.lrs or [(1e-5 if full else 1e-4) if args.published else (2e-3 if full else 3e-3)]


def facts(args: argparse.Namespace, seed: int) -> FactDataset | FactWorld:
    """The published dataset or another of its kind, or an invented world, another one for each seed."""
    if args.data or args.published:
        return FactDataset(args.data or "xiaozeroone/Country-city-animals", revision=args.revision)
    return FactWorld(entities=args.entities, seed=seed)


def study(args: argparse.Namespace, seed: int, corpus: str, method: Full | LoRA, lr: float) -> Study:
    """As published: a linear schedule with warm-up, clipped gradients; tiny models need dropout not to forget how to
    answer questions while they learn from plain statements."""
    return Study(
        facts(args, seed).corpus(f"Corpus_{corpus}"),
        exposures=args.exposures or (10 if args.published else 15 if isinstance(method, Full) else 20),
        lr=lr,
        batch_size=16 if args.published else 64 if isinstance(method, Full) else 32,
        block_size=1024 if args.published else 96,
        schedule="linear",
        warmup_ratio=0.1,
        clip_norm=1.0,
        dropout=None if args.published else 0.3,
        dtype="bfloat16" if args.published else "float32",
    )


def shots(args: argparse.Namespace) -> int:
    """Answered questions before each question. The tiny models have never seen a prompt with several."""
    return args.shots if args.shots is not None else (5 if args.published else 0)


def open_test(args: argparse.Namespace, seed: int, subset: str) -> QA:
    """A test whose questions are answered freely."""
    return QA(facts(args, seed).items(subset), shots=shots(args))


def closed_test(args: argparse.Namespace, seed: int, subset: str) -> Choice:
    """A test of multiple choice: among letters as published, which mean nothing to tiny models, or among texts."""
    formulation = "letters" if args.published else "cloze"
    return Choice(facts(args, seed).items(subset), formulation=formulation, shots=shots(args))


def tests(args: argparse.Namespace, seed: int) -> list[Probe]:
    """All tests."""
    moved = ["Eval_2hop_reasoning"] if args.older else []
    return [
        *(open_test(args, seed, subset) for subset in [*OPEN, *moved]),
        *(closed_test(args, seed, subset) for subset in CLOSED if subset not in moved),
    ]


def resources(args: argparse.Namespace) -> Resources:
    """What each trial holds."""
    return Resources(workers=args.workers, cpus=args.cpus, gpus=args.gpus)
