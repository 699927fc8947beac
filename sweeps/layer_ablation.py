r"""Which blocks hold what was learned? (Zhang, Li & Wu 2024, arXiv 2409.14057, section 4)

    memexp run sweeps/layer_ablation.py

A tiny model learns facts from narrative or referencing text. Then what it has learned is taken away block by block:
from the first block up ("lower": blocks < k and all outside of the blocks) and from the last block down ("upper":
blocks >= k). It is asked each time, freely and by choice; "none" has all it learned. Some minutes on two cores.

    memexp query "SELECT method, text, task, ablated_side, ablated_layer, avg(correct::int) AS correct
                  FROM ablation GROUP BY ALL ORDER BY ALL"

As published:

    memexp run sweeps/layer_ablation.py -- --published --models meta-llama/Meta-Llama-3-8B --methods full \
        --workers 4 --gpus 1
"""

from fact_learning import closed_test, methods, models, open_test, options, parsed, rates, resources, study

from memexp import Condition, LayerAblation, Model, Sweep

parser = options(__doc__, seeds=(0,), tiny=("tiny-s",))
parser.set_defaults(corpora=("narrative", "referencing"))
args = parsed(parser)

sweep = Sweep(
    name="layer-ablation",
    conditions=[
        Condition(
            model=Model(name),
            study=study(args, seed, corpus, method, lr),
            method=method,
            seed=seed,
            probes=[
                LayerAblation(open_test(args, seed, "Eval_QA")),
                LayerAblation(closed_test(args, seed, "Eval_multiple_choice")),
            ],
            labels={"text": corpus},
        )
        for name in models(args)
        for method in methods(args, name)
        for corpus in args.corpora
        for lr in rates(args, method)
        for seed in args.seeds
    ],
    resources=resources(args),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
