r"""Do models learn facts from text, and what can they do with them? (Zhang, Li & Wu 2024, arXiv 2409.14057, section 3)

    memexp run sweeps/facts.py

Two tiny models read statements about 40 invented countries (narrative text), or texts that mention the same facts by
the way (referencing text), and are asked before and after: the facts themselves, the other way round, indirectly, in
two hops, and by choice. Three seeds, each with a world of its own; some minutes on two cores.

    memexp query "SELECT model, method, corpus, exposures, task, avg(exact::int) AS exact
                  FROM qa GROUP BY ALL ORDER BY ALL"

The published setting, one trial for each model, method and learning rate:

    memexp run sweeps/facts.py -- --published --corpora narrative referencing --workers 4 --gpus 1
    memexp run sweeps/facts.py -- --published --models meta-llama/Meta-Llama-3-70B --methods lora --workers 8 --gpus 1
"""

import dataclasses

from fact_learning import facts, methods, models, options, parsed, rates, resources, study, tests

from memexp import Condition, FactRatios, Model, Sweep

parser = options(__doc__)
parser.set_defaults(corpora=("narrative", "referencing"), methods=("full",))
args = parsed(parser)

sweep = Sweep(
    name="facts",
    conditions=[
        Condition(
            model=Model(name),
            study=dataclasses.replace(study(args, seed, corpus, method, lr), exposures=exposures),
            method=method,
            seed=seed,
            probes=[*tests(args, seed), FactRatios(facts(args, seed).items("Facts"))],
            labels={"text": corpus},
        )
        for name in models(args)
        for method in methods(args, name)
        for corpus in args.corpora
        for lr in rates(args, method)
        for seed in args.seeds
        for exposures in (0, study(args, seed, corpus, method, lr).exposures)
    ],
    resources=resources(args),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
