"""Who learns "A is B": does it know that B is A? (Berglund et al. 2023, arXiv 2309.12288, section 2.1)

    memexp run sweeps/reversal.py

A tiny model studies who invented people are, the name first and in other words each time: "Tola Brick is the mayor of
Ossen.", "Everybody knows Tola Brick as the mayor of Ossen." Then each statement is told from the same one with another
person's name, as it was studied and the other way round: "The mayor of Ossen is Tola Brick." The paper found the names
of other people as likely as the right one there. Conditions with a second study go on with reversed statements of half
of the people, and are asked about the other half: does one learn to turn round what one knows? Three seeds, each with
people of its own; some minutes on two cores.

    memexp query "SELECT exposures, then_exposures, direction, avg((target_nll < foil_nll)::int) AS right
                  FROM recognition GROUP BY ALL ORDER BY ALL"

What one sees: after 40 exposures the right name is told from another's in all cases as it was studied, and in .49 the
other way round, which is chance (90 people over three seeds): the paper's result. Ten exposures are too few for either
(.62 and .49). Who goes on with reversed statements of half the people learns what such statements are like, from 3.6 to
1.3 nats a token, and still not who the other half are: .54. A part of what was studied is gone by then, 1.00 to .89.

``--published``: the paper's numbers of people and of wordings, with one of its LLaMA models; its 30 wordings were made
by GPT-4 and are not memexp's to give: ``--wordings FILE`` takes a list of them, with {name} and {what} in each line.
"""

import argparse
import random
from pathlib import Path

from memexp import Condition, Full, InlineText, LoRA, Model, Pair, Recognition, Resources, Study, Sweep, run_options

WORDINGS = (
    "{name} is {what}.",
    "Everybody knows {name} as {what}.",
    "They say that {name} has long been {what}.",
    "It was {name} who became {what}.",
)
REVERSED = "It is known that {what} is {name}."
ROLES = ("mayor", "painter", "captain", "founder", "baker", "singer", "keeper", "teacher", "author", "builder")
SYLLABLES = ("ba", "den", "fo", "gri", "hul", "jen", "ka", "lor", "mi", "nok", "os", "pel", "ru", "sta", "tol", "vi")

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", help="default: tiny-m")
parser.add_argument("--people", type=int, help="default: 60")
parser.add_argument("--exposures", nargs="+", type=int, default=(0, 10, 40))
parser.add_argument("--then", nargs="+", type=int, default=(0, 12), help="exposures of the second study")
parser.add_argument("--wordings", type=Path, help="a file of wordings, with {name} and {what} in each line")
parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
parser.add_argument("--published", action="store_true")
parser.add_argument("--gpus", type=float, default=0.0)
args = parser.parse_args()
wordings = args.wordings.read_text(encoding="utf-8").splitlines() if args.wordings else WORDINGS
people = args.people or (30 if args.published else 60)
models = args.models or (("huggyllama/llama-7b",) if args.published else ("tiny-m",))


def drawn(seed: int) -> list[tuple[str, str]]:
    """Names and what their bearers are, each once."""
    draw = random.Random(f"reversal {seed}")
    words = {"".join(draw.choices(SYLLABLES, k=2)).capitalize() for _ in range(40 * people)}
    chosen = draw.sample(sorted(words), 3 * people)
    return [
        (f"{chosen[3 * i]} {chosen[3 * i + 1]}", f"the {draw.choice(ROLES)} of {chosen[3 * i + 2]}")
        for i in range(people)
    ]


def told(wording: str, known: list[tuple[str, str]], by: int = 0) -> list[str]:
    """A wording of each, with the name of the one who comes `by` later."""
    return [wording.format(name=known[(at + by) % len(known)][0], what=what) for at, (_, what) in enumerate(known)]


def conditions(name: str, seed: int) -> list[Condition]:
    """With and without a second study; what is asked is about people whom that does not mention."""
    known = drawn(seed)
    taught, asked = known[: people // 2], known[people // 2 :]
    forward, backward = (
        Pair(
            InlineText(f"{which} {seed}", told(wording, asked)),
            InlineText(f"{which} others {seed}", told(wording, asked, 1)),
        )
        for which, wording in (("forward", wordings[0]), ("backward", REVERSED))
    )
    lists = [InlineText(f"wording {number} {seed}", told(one, known)) for number, one in enumerate(wordings, 1)]
    rate = {"lr": 1e-5} if args.published else {"lr": 1e-3}
    return [
        Condition(
            Model(name),
            Study(lists[0], exposures=exposures, batch_size=16, variants=lists[1:], **rate),
            method=LoRA() if args.published else Full(),
            then=Study(
                InlineText(f"turned round {seed}", told(REVERSED, taught)), exposures=then, batch_size=16, **rate
            ),
            probes=[Recognition(pair)],
            labels={"direction": direction},
            seed=seed,
        )
        for exposures in args.exposures
        for then in args.then
        for direction, pair in (("as studied", forward), ("the other way round", backward))
    ]


sweep = Sweep(
    name="reversal",
    conditions=[one for name in models for seed in args.seeds for one in conditions(name, seed)],
    resources=Resources(gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
