r"""Active forgetting: reset the blocks from k upward, study again (Zhang, Li & Wu 2024, arXiv 2409.14057, section 5).

    memexp run sweeps/active_forgetting.py

A tiny model learns facts about invented countries. Then, for every block k of it, the blocks >= k get back what they
had before, and it studies once more, or not at all: the reset alone. Two controls that the paper lacks stand beside
them: the second pass with nothing reset, and the lower blocks reset instead. With full finetuning and with adapters;
all conditions of a method and seed fork from one first pass. Several minutes on two cores for each seed.

    memexp query "SELECT method, forget_side, forget_layer, restudy_exposures, task, avg(exact::int) AS exact
                  FROM qa GROUP BY ALL ORDER BY ALL"

As published, adapters reset from block 10 of 32 upward, with the controls:

    memexp run sweeps/active_forgetting.py -- --published --models meta-llama/Meta-Llama-3-8B --methods lora \
        --layers 10 --workers 2 --gpus 1
"""

from fact_learning import methods, models, options, parsed, rates, resources, study, tests

from memexp import Condition, Forget, Model, Sweep, depth

parser = options(__doc__, seeds=(0,), tiny=("tiny-s",))
parser.add_argument("--layers", nargs="+", type=int, help="forgetting layers k (default: all of the model)")
parser.add_argument("--no-lower", action="store_true", help="leave out the control that resets the lower blocks")
args = parsed(parser)


def forgettings(name: str) -> list[Forget | None]:
    """The first pass, and everything that forks from it."""
    layers = args.layers or range(depth(name) + 1)
    upper = args.layers or layers[:-1]  # from beyond the last block nothing would be reset
    lower = [k for k in layers if k > 0 and not args.no_lower]
    sides = [{}, *({"from_layer": k} for k in upper), *({"below_layer": k} for k in lower)]
    again = [Forget(**side) for side in sides]
    alone = [Forget(**side, restudy_exposures=0) for side in sides if side]
    return [None, *again, *alone]


forks = {name: forgettings(name) for name in models(args)}

sweep = Sweep(
    name="active-forgetting",
    conditions=[
        Condition(
            model=Model(name),
            study=study(args, seed, corpus, method, lr),
            method=method,
            seed=seed,
            probes=tests(args, seed),
            forget=forget,
            labels={"text": corpus},
        )
        for name in models(args)
        for method in methods(args, name)
        for corpus in args.corpora
        for lr in rates(args, method)
        for seed in args.seeds
        for forget in forks[name]
    ],
    resources=resources(args),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
