"""The quickstart: three small models study 64 sentences, and recognition rises with exposures. Offline, in minutes.

    memexp run sweeps/quickstart.py        (or: python sweeps/quickstart.py)

The models are drawn at random, so all they know is what they study here: enough to recognise a sentence, far too little
to recall one. Half the conditions are counterbalanced: they
study the foils, so that a list that is easier to predict favours neither side and zero exposures give one half.
"""

from memexp import (
    Condition,
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
    counterbalanced,
)

pair = Pair(ShippedText("sentences-targets", first=64), ShippedText("sentences-foils", first=64))
tokenizer = TrainedTokenizer([pair.targets, pair.foils], vocab_size=1024)


def llama(name: str, blocks: int, width: int) -> Model:
    """A small Llama with random weights."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": blocks,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    return Model(name, tokenizer=tokenizer, init=RandomInit(config))


models = [llama("small", 2, 64), llama("medium", 4, 128), llama("large", 4, 256)]

conditions = [
    Condition(
        model=model,
        study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=4),
        probes=[Recognition(pair), Recall()],
        labels={"counterbalanced": False},
    )
    for model in models
    for lr in (1e-3, 3e-3)
    for exposures in (0, 1, 3, 10)
]

sweep = Sweep(
    name="quickstart",
    conditions=[*conditions, *map(counterbalanced, conditions)],
    resources=Resources(cpus=1),
)

if __name__ == "__main__":
    raise SystemExit(sweep.main())
