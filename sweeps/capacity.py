"""How many bits can a model hold, of random strings and of invented people?

    memexp run sweeps/capacity.py

A tiny architecture from scratch studies 20 or 80 random strings, or as many biographies, up to sixty times; what
it saves in coding them is what it holds (Morris et al. 2025, arXiv 2505.24832; Allen-Zhu & Li 2024, arXiv 2404.05405).
Three seeds. Some minutes on two cores.

What one sees: untrained models code both far worse than evenly (below 0 bits). After sixty exposures 80 strings are
held with 4,400 of their 5,120 bits and 80 people with 5,000 of 5,990; of 20 texts, which make a quarter of the
optimizer steps, only 560 of 1,280 and, for people, still less than nothing. So few texts fill no model: this shows how
bits are learned, not how many there is room for; for that give ``--texts 1000 --exposures 300`` and an hour.

    memexp query "SELECT texts, source, exposures, sum(stored) / count(DISTINCT seed) AS bits
                  FROM capacity GROUP BY ALL ORDER BY ALL"

``--published`` is bioS of the second paper: 10,000 to 100,000 people, 1,000 exposures each, GPT-2 of 124 million
parameters drawn at random. Days on a GPU.
"""

import argparse

from memexp import Biographies, Canaries, Capacity, Condition, Model, RandomInit, Study, Sweep, run_options

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--architecture", help="default: tiny-s, with --published gpt2")
parser.add_argument("--texts", nargs="+", type=int, help="default: 20 and 80, with --published 10,000 to 100,000")
parser.add_argument(
    "--exposures", nargs="+", type=int, help="default: 0, 10, 30 and 60, with --published 100 and 1,000"
)
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument("--published", action="store_true", help="bioS: so many people, 1,000 exposures")
args = parser.parse_args()

architecture = args.architecture or ("gpt2" if args.published else "tiny-s")
texts = args.texts or ((10_000, 20_000, 50_000, 100_000) if args.published else (20, 80))
exposures = args.exposures or ((100, 1000) if args.published else (0, 10, 30, 60))
sources = {
    (count, kind): source
    for count in texts
    for kind, source in (
        ("strings", Canaries("Note: {secret}", alphabet="abcdefghijklmnop", length=16, count=count)),
        ("people", Biographies(count)),
    )
    if kind == "people" or not args.published
}

sweep = Sweep(
    name="capacity",
    conditions=[
        Condition(
            Model("from scratch", tokenizer=architecture, init=RandomInit(architecture, seed=seed)),
            Study(
                source.corpus(),
                exposures=n,
                lr=1e-3 if args.published else 3e-3,
                batch_size=96 if args.published else 20,
                block_size=128,
            ),
            seed=seed,
            probes=[Capacity(source, reference=False)],
            labels={"texts": count, "source": kind},
        )
        for (count, kind), source in sources.items()
        for n in exposures
        for seed in args.seeds
    ],
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
