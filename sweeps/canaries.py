"""How far ahead of all that it could have been is a random secret that a model has studied a few times?

    memexp run sweeps/canaries.py

Sixteen sentences with a four-digit code each, among sixty that have none, studied up to eight times (Carlini et al.
2019, arXiv 1802.08232). Each is ranked among the secrets that no canary has, all 9,984 of them. Three seeds. Minutes on
two cores.

What one sees: 1.8 bits before study, where ranks that are chance give 1.4 in the mean of many lists, then 2.2, 2.5, 3.8
and 5.8 bits after 1, 2, 4 and 8 exposures, of 13.3 that there could be; the fitted tail says 6.0 at eight. The
intervals over the sixteen canaries are wide (3.2 to 8.5 at eight), and hardly one is ever the first of all (1 of 48).

Conditions with ``own_numbers`` do it in one study: four canaries each are met 0, 1, 2 and 4 times, and have .8, 1.6,
4.2 and 5.9 bits (12 canaries over three seeds).

    memexp query "SELECT own_numbers, item_exposures, avg(exposure) AS bits, avg(fitted) AS fitted
                  FROM exposure GROUP BY ALL ORDER BY ALL"

``--published`` has the form and the size of the paper's: one nine-digit number, 1 to 8 exposures, ranked among a sample
and by the fitted tail, in GPT-2 on a list of your own instead of an LSTM on the Penn Treebank. A GPU is of use.
"""

import argparse

from memexp import Canaries, Condition, Exposure, InlineText, Model, Study, Sweep, run_options
from memexp.stimuli import load_list

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", help="default: tiny-m, with --published gpt2")
parser.add_argument("--exposures", nargs="+", type=int, default=(0, 1, 2, 4, 8))
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument("--published", action="store_true", help="the published format: one random number of nine digits")
args = parser.parse_args()

if args.published:
    canaries = Canaries("The random number is {secret}.", length=9, count=1)
    among, candidates, lr = load_list("sentences-targets"), 10_000, 3e-5
else:
    canaries = Canaries("The code of the vault is {secret}.", length=4, count=16)
    among, candidates, lr = load_list("sentences-targets")[:60], "all", 1e-3
listed = InlineText("canaries among sentences", [*canaries.corpus().texts, *among])
# In one study as well: canaries that are met 0, 1, 2 and 4 times in turn, among sentences that are met eight times.
own = [(0, 1, 2, 4)[number % 4] for number in range(canaries.count)] + [8] * len(among)

sweep = Sweep(
    name="canaries",
    conditions=[
        Condition(
            Model(name),
            Study(listed, exposures=n, lr=lr, batch_size=16, times=times),
            seed=seed,
            probes=[Exposure(canaries, candidates=candidates)],
            labels={"own_numbers": times is not None},
        )
        for name in args.models or (["gpt2"] if args.published else ["tiny-m"])
        for n, times in (*((n, None) for n in args.exposures), (8, own))
        for seed in args.seeds
    ],
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
