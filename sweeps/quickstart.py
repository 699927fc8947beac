"""The quickstart: three tiny pretrained models study 80 sentences. Offline, in minutes.

    memexp run sweeps/quickstart.py        (or: python sweeps/quickstart.py)

What is to be seen: a model that has met a sentence once tells it from one it has not met, long before it can recall it.
The lower learning rate grades recognition, the higher one reaches recall. The second seed is counterbalanced: there the
foils are studied, so that a list that is easier to predict favours neither side and zero exposures give about one half.
"""

from memexp import (
    Condition,
    Model,
    Pair,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    Study,
    Sweep,
    counterbalanced,
)

pair = Pair(ShippedText("sentences-targets", first=80), ShippedText("sentences-foils", first=80))

plain, twins = (
    [
        Condition(
            model=Model(name),
            study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=4),
            seed=seed,
            probes=[Recognition(pair), Recall()],
            labels={"counterbalanced": False},
        )
        for name in ("tiny-s", "tiny-m", "tiny-l")
        for lr in (3e-4, 1e-3)
        for exposures in (0, 1, 3, 10)
    ]
    for seed in (0, 1)
)

sweep = Sweep(
    name="quickstart",
    conditions=[*plain, *map(counterbalanced, twins)],
    resources=Resources(cpus=1),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main())
