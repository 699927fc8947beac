r"""The six kinds of the published recognition experiments (Orhan 2023, arXiv 2303.17557) on shipped lists, offline.

    memexp run sweeps/six_experiments.py

240 pairs each; the label ``experiment`` tells them apart:

| experiment | studied                          | foil                                             |
|------------|----------------------------------|--------------------------------------------------|
| 1          | sentence                         | sentence on another subject                      |
| 2          | the same sentence                | its paraphrase                                   |
| 3          | the same sentence                | the same with one word replaced by a synonym     |
| 4          | 25 random words                  | 25 other random words                            |
| 5          | the same random words            | sentence                                         |
| 6          | scrambled sentence               | the sentence it was made from                    |

Experiments 1, 2 and 3 study one list, 4 and 5 another, 6 a third: three trajectories for each model, learning rate,
batch size and seed, whose stops after 0, 1, 2 and 3 exposures answer all six.

Only experiments 1 and 4 begin near one half. A pretrained model finds random words and scrambled sentences less likely
than any sentence, so 5 and 6 begin near zero, and of two wordings of one thing it may prefer either (2 and 3): compare
each experiment with its own zero exposures.

    memexp query "SELECT experiment, model, exposures, avg((target_nll < foil_nll)::int) AS recognition
                  FROM recognition GROUP BY ALL ORDER BY ALL"

Other models are hub ids and local folders, or random-small, a Llama with random weights that needs nothing at all:

    memexp run sweeps/six_experiments.py -- --models random-small --experiments 1 3 6
"""

import argparse

from memexp import (
    Condition,
    InlineText,
    Model,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    Study,
    Sweep,
    TrainedTokenizer,
    run_options,
)
from memexp.stimuli import load_list, random_words, scrambled

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[run_options()]
)
parser.add_argument("--models", nargs="+", default=("tiny-s", "tiny-m", "tiny-l"), help="names, folders, random-small")
parser.add_argument("--experiments", nargs="+", type=int, choices=range(1, 7), default=range(1, 7), help="1 to 6")
parser.add_argument("--exposures", nargs="+", type=int, default=range(4))
parser.add_argument("--lrs", nargs="+", type=float, default=(1e-3,))
parser.add_argument("--batch-sizes", nargs="+", type=int, default=(16,))
parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
parser.add_argument("--cpus", type=float, default=1, help="CPUs of each trial")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each trial")
args = parser.parse_args()

sentences = ShippedText("sentences-targets")
studied_words = random_words(240)
words = InlineText("random-words", studied_words)
other_words = InlineText("other-random-words", random_words(240, seed=1, unlike=studied_words))
mixed = InlineText("scrambled-sentences", scrambled(load_list("sentences-targets")))

pairs = {
    1: Pair(sentences, ShippedText("sentences-foils")),
    2: Pair(sentences, ShippedText("sentences-paraphrases")),
    3: Pair(sentences, ShippedText("sentences-synonyms")),
    4: Pair(words, other_words),
    5: Pair(words, sentences),
    6: Pair(mixed, sentences),
}


def model(name: str) -> Model:
    """A pretrained model by name, or one with random weights."""
    if name != "random-small":
        return Model(name)
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    lists = [pairs[1].targets, pairs[1].foils, words, other_words, mixed]
    return Model(name, tokenizer=TrainedTokenizer(lists, vocab_size=1024), init=RandomInit(config))


sweep = Sweep(
    name="six-experiments",
    conditions=[
        Condition(
            model=model(name),
            study=Study(pairs[experiment].targets, exposures=exposures, lr=lr, batch_size=batch_size),
            seed=seed,
            probes=[Recognition(pairs[experiment]), Recall()],
            labels={"experiment": experiment},
        )
        for name in args.models
        for experiment in args.experiments
        for exposures in args.exposures
        for lr in args.lrs
        for batch_size in args.batch_sizes
        for seed in args.seeds
    ],
    resources=Resources(cpus=args.cpus, gpus=args.gpus),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(args))
