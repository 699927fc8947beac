"""Can it be told from likelihoods which of two lists a model has studied?

    memexp run sweeps/membership.py

A tiny model studies 80 sentences up to three times; these and 80 others are scored one by one, as by Zhang et al. 2024
(arXiv 2404.02936), beside what the words alone give away. Three seeds, and half the conditions study the other list.
Minutes on two cores.

What one sees: after one exposure the difference to the model before study has an AUC of .93, every score that needs no
reference .74 to .79, Min-K%++ (.76) no better than the plain loss (.79); after three all have .99 or more. Without
study all are .5, and so are the words alone, by construction: every text is a member in one half of the conditions. AUC
with intervals:

    from memexp import stats
    stats.membership(sweep.results("membership").to_arrow(), by=["exposures"])

``--published`` asks Pythia about a benchmark without any study, as published: files of texts that pretraining has met
and has not, with ``--members`` and ``--others``, cut at 64 tokens.
"""

import argparse

from memexp import Condition, Membership, Model, Pair, ShippedText, Study, Sweep, TextFile, counterbalanced, run_options

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", help="default: tiny-m, with --published Pythia of three sizes")
parser.add_argument("--exposures", nargs="+", type=int, default=(0, 1, 3))
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument("--published", action="store_true", help="a benchmark of what pretraining has met, without study")
parser.add_argument("--members", default="members.jsonl", help="with --published: texts that pretraining has met")
parser.add_argument("--others", default="others.jsonl", help="with --published: texts that it has not")
args = parser.parse_args()

if args.published:
    models = args.models or [f"EleutherAI/pythia-{size}" for size in ("1.4b", "2.8b", "6.9b")]
    pair, exposures, seeds = Pair(TextFile(args.members), TextFile(args.others)), (0,), (0,)
    probe, study = Membership(pair, reference=False), {"lr": 1e-5, "block_size": 64}
else:
    models, exposures, seeds = args.models or ["tiny-m"], args.exposures, args.seeds
    pair = Pair(ShippedText("sentences-targets", first=80), ShippedText("sentences-foils", first=80))
    probe, study = Membership(pair), {"lr": 1e-3, "block_size": 64}

conditions = [
    Condition(Model(name), Study(pair.targets, exposures=n, batch_size=16, **study), seed=seed, probes=[probe])
    for name in models
    for n in exposures
    for seed in seeds
]
twins = [] if args.published else [counterbalanced(one) for one in conditions]
sweep = Sweep(name="membership", conditions=[*conditions, *twins])

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
