"""Does it matter how exposures lie in time? The same number of them, massed, spaced, expanding and interleaved.

    memexp run sweeps/spacing.py

A tiny model studies 80 sentences four times: one exposure right after the other, with twenty steps of other text
between them, with gaps that double, or with other text in every batch. Then it goes on with other text, and recognition
and recall are measured at equal delays since the last exposure. People remember spaced material better (Cepeda et al.
2006); this design is memexp's own, and none that was published. Three seeds, and half the conditions study the foils,
so that without study a pair is told apart half the time. Some minutes on two cores.

What one sees: a hundred steps after the last exposure pairs are told apart in .99 (spaced), .98 (expanding) and .93
(massed) of all cases, and in .88 where other text was in every batch. Verbatim recall is next to nothing in all.

    memexp query "SELECT way, retention_steps, avg((target_nll < foil_nll)::int) AS recognition
                  FROM recognition GROUP BY ALL ORDER BY ALL"
    memexp plot retention --x retention_steps --y recognition --by way

What schedules have in common is trained once: four times massed, and what is spaced as far as the gaps agree.
``--replay 0.05`` gives texts of the study list one place in twenty of what comes afterwards.
"""

import argparse

from memexp import (
    Condition,
    Interference,
    Model,
    Pair,
    Recall,
    Recognition,
    ShippedText,
    Spaced,
    Study,
    Sweep,
    counterbalanced,
    run_options,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", default=("tiny-m",), help="default: tiny-m")
parser.add_argument("--exposures", type=int, default=4)
parser.add_argument(
    "--gap", type=int, default=20, help="steps of other text between two exposures that are evenly spaced"
)
parser.add_argument(
    "--delays", nargs="+", type=int, default=(0, 10, 30, 100), help="steps of other text after the last"
)
parser.add_argument("--replay", type=float, default=0.0, help="share of studied texts in what comes after the last")
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
args = parser.parse_args()

pair = Pair(ShippedText("sentences-targets", first=80), ShippedText("sentences-foils", first=80))
other = ShippedText("sentences-interference")
# The gaps of three evenly spaced intervals and of three that double come to about as many steps.
ways = {
    "massed": None,
    "spaced": Spaced(other, gap=args.gap),
    "expanding": Spaced(other, gap=max(1, round(args.gap * 3 / 7)), factor=2),
    "interleaved": Spaced(other, gap=0, beside=16),
}

conditions = [
    Condition(
        model=Model(name),
        study=Study(pair.targets, exposures=args.exposures, lr=1e-3, batch_size=16, presentation=way),
        interference=Interference(other, steps=delay, lr=1e-3, batch_size=16, replay=args.replay),
        probes=[Recognition(pair), Recall()],
        seed=seed,
        labels={"way": label},
    )
    for name in args.models
    for label, way in ways.items()
    for delay in args.delays
    for seed in args.seeds
]
sweep = Sweep(name="spacing", conditions=[twin for one in conditions for twin in (one, counterbalanced(one))])

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
