"""Does a model go on with what it has studied, given the first tokens of it?

    memexp run sweeps/extraction.py

A tiny model studies 80 texts of two sentences up to thirty times, and is asked for the eight tokens after the first 8,
16 and 32 of each: by greedy completion (Carlini et al. 2022, arXiv 2202.07646) and by sampling (Hayes et al. 2024,
arXiv 2410.19482). Three seeds. Two minutes on one core.

What one sees: nothing is extracted before study or after three exposures (0 [0, .05] of suffixes, though .36 of their
tokens are the likeliest then, and .19 before), about a quarter after ten and all of it after thirty (1 [.95, 1]).
Longer prefixes do not show to help: after ten exposures it is .27 [.13, .48], .20 [.09, .41] and .24 [.11, .45] after
8, 16 and 32 tokens, where what follows is another part of the text each time. A hundred samples give .34, .20 and .33.

    memexp query "SELECT exposures, prefix_tokens, avg(exact::int) AS exact, avg(matching) AS matching,
                         avg(coalesce(queries <= 100, false)::int) AS in_100
                  FROM extraction GROUP BY ALL ORDER BY ALL"

``--published`` asks the published question: prefixes of 50 to 450 tokens and suffixes of 50, of GPT-Neo and the Pile's
own texts, given as a file with ``--texts``, without any study: these models have met them in pretraining.
"""

import argparse

from memexp import Condition, Extraction, InlineText, Model, Study, Sweep, TextFile, run_options
from memexp.stimuli import load_list

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", help="default: tiny-m, with --published GPT-Neo of three sizes")
parser.add_argument("--exposures", nargs="+", type=int, default=(0, 3, 10, 30))
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument(
    "--published", action="store_true", help="prefixes of 50 to 450 tokens, of what pretraining has met"
)
parser.add_argument("--texts", default="pile.jsonl", help="with --published: texts of at least 500 tokens")
args = parser.parse_args()

if args.published:
    models = args.models or [f"EleutherAI/gpt-neo-{size}" for size in ("125m", "1.3B", "2.7B")]
    corpus, exposures, seeds = TextFile(args.texts), (0,), (0,)
    probe, study = Extraction(prefixes=[50, 100, 200, 300, 450], suffix=50), {"lr": 1e-5, "block_size": 500}
else:
    models, exposures, seeds = args.models or ["tiny-m"], args.exposures, args.seeds
    sentences = load_list("sentences-targets")[:160]
    corpus = InlineText(
        "pairs-of-targets", [" ".join(two) for two in zip(sentences[::2], sentences[1::2], strict=True)]
    )
    probe, study = Extraction(prefixes=[8, 16, 32], suffix=8), {"lr": 1e-3, "block_size": 128}

sweep = Sweep(
    name="extraction",
    conditions=[
        Condition(Model(name), Study(corpus, exposures=n, batch_size=16, **study), seed=seed, probes=[probe])
        for name in models
        for n in exposures
        for seed in seeds
    ],
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
