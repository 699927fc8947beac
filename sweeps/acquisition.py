"""What does each exposure add to the probability of what a text says, and how long does it last?

    memexp run sweeps/acquisition.py

A tiny model studies passages on twenty invented countries up to four times, then goes on with other text; on the way it
is asked for words of the passages verbatim, in other words, and where two facts are to be put together (Chang et al.
2024, arXiv 2406.11813). Three seeds. A few minutes on two cores.

What one sees: the first exposure adds 3.4 nats per token verbatim, 3.1 reworded and 2.3 composed, later ones less and
less (.7, .8 and nothing at the fourth). A hundred steps later about .8 of it is left verbatim, half reworded and
nothing that is told from none composed, with ``outliers=1.5``; without, spans that gained next to nothing make the mean
of ratios meaningless. Hardly any span is ever the likeliest (.22 verbatim and reworded, .01 composed after four).

    memexp query "SELECT exposures, retention_steps, depth, avg(per_token) AS per_token, avg(exact::int) AS exact
                  FROM spans GROUP BY ALL ORDER BY ALL"

    from memexp import stats
    rows = sweep.results("spans").to_arrow()
    stats.effectivity(rows), stats.retainability(rows, window=0, outliers=1.5)

``--published`` takes the published texts, a local copy of kaist-ai/fictional-knowledge with ``--texts`` as an object a
line, and OLMo-1B; other text, between exposures and after the last, is of a list that ``--other`` names.
Their exposures are 100 steps of pretraining apart.
"""

import argparse

from memexp import (
    Condition,
    FactWorld,
    Interference,
    ItemFile,
    Model,
    ShippedText,
    Spaced,
    Spans,
    Study,
    Sweep,
    TextFile,
    run_options,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", help="default: tiny-m, with --published OLMo-1B")
parser.add_argument("--exposures", nargs="+", type=int, help="default: 0 to 4, with --published 0, 1, 5 and 10")
parser.add_argument("--steps", nargs="+", type=int, default=(0, 1, 2, 5, 10, 20, 50, 100), help="of other text")
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument("--published", action="store_true", help="the published texts and intervals")
parser.add_argument("--texts", default="fictional_knowledge.jsonl", help="with --published: texts with their spans")
parser.add_argument("--other", default="other.jsonl", help="with --published: other text")
args = parser.parse_args()

if args.published:
    models, exposures = args.models or ["allenai/OLMo-1B-hf"], args.exposures or (0, 1, 5, 10)
    corpus, items, other = TextFile(args.texts, field="train_context"), ItemFile(args.texts), TextFile(args.other)
    study = {"lr": 4e-4, "batch_size": 130, "block_size": 1024, "presentation": Spaced(other, gap=100)}
else:
    world = FactWorld(entities=20)
    models, exposures = args.models or ["tiny-m"], args.exposures or (0, 1, 2, 3, 4)
    corpus, items, other = world.passages(), world.spans(), ShippedText("sentences-interference")
    study = {"lr": 1e-3, "batch_size": 4, "block_size": 128}

sweep = Sweep(
    name="acquisition",
    conditions=[
        Condition(
            Model(name),
            Study(corpus, exposures=n, **study),
            interference=Interference(other, steps=steps, lr=study["lr"], batch_size=study["batch_size"]),
            seed=seed,
            probes=[Spans(items)],
        )
        for name in models
        for n in exposures
        for steps in (args.steps if n else (0,))
        for seed in args.seeds
    ],
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
