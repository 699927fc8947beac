"""Make the tiny models that ship with memexp: pretrain, check, write weights, tokenizer and model cards.

    python sweeps/pretrain_tiny.py --text wikitext-2 --out memexp/stimuli/weights

No sweep but what sweeps stand on: run it to make the shipped weights again, or models of your own in their manner.
`--text` is a folder with WikiText-2's valid.txt and test.txt (as published, a paragraph a line), or the hub id
Salesforce/wikitext. Half an hour on one core; a model that does not pass the gate at the end is not written.

Recipe: a curriculum. First the questions and statements of 40 invented countries alone, until the model answers;
then natural text joins while the world grows to 100 countries. (With all countries from the start, or text from
the start, it never learned to answer.) Every text is a sequence of its own, as in study.
"""

import argparse
import hashlib
import itertools
import math
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import torch
from datasets import load_dataset
from rich.console import Console
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from memexp import Condition, Model, Pair, Recall, Recognition, Resources, ShippedText, Study, Sweep
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.core.train import update
from memexp.stimuli import load_list
from memexp.stimuli.world import (
    ANIMALS,
    PRETRAINED,
    QUESTIONS,
    Country,
    documents,
    novel_countries,
    pretraining_countries,
    question,
    syllables,
)

VOCABULARY = 2048
BLOCK = 96
"""Tokens of the longest text; longer ones are cut."""


@dataclass(frozen=True)
class Size:
    """One of the models: its shape and how long it learns."""

    blocks: int
    width: int
    heads: int
    inner: int
    """Width of the feed-forward layer."""
    lr: float
    """Peak learning rate."""
    world_steps: int
    """Steps on 40 countries alone."""
    mixed_steps: int
    """Steps on the growing world and natural text together."""
    remark: str = ""
    """What its card has to say beside the figures."""


UNDERTRAINED = """It knows natural text best of the three, but its countries less surely
than the smaller ones do: for those it is undertrained."""
SIZES = {
    "tiny-s": Size(4, 96, 4, 256, 4e-3, 300, 1000),
    "tiny-m": Size(4, 192, 4, 512, 2.5e-3, 300, 1400),
    "tiny-l": Size(6, 288, 6, 768, 1.5e-3, 300, 1800, UNDERTRAINED),
}
FIRST_COUNTRIES = 40
WARM_UP = 50
WEIGHT_DECAY = 0.05
WORLD_TOKENS = {"alone": 1024, "mixed": 768}
TEXT_TOKENS = 768
"""Tokens in a step."""
HELD_OUT = "sentences-interference"
ASKED = ("capital", "animal", "person")
"""The questions of the gate: those that statements answer."""
LRS = (3e-4, 1e-3, 3e-3)
EXPOSURES = (0, 1, 3, 10)


# ---------------------------------------------------------------------------------------------------------
# Text and tokenizer


def natural_text(source: str) -> list[str]:
    """Sentences of WikiText-2's validation and test parts, in order, as English is written.

    Where a word was replaced by <unk> the sentence is cut; pieces of fewer than six words are left out.
    """
    try:
        if Path(source).is_dir():
            files = [Path(source) / f"{part}.txt" for part in ("valid", "test")]
            lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        else:
            lines = load_dataset(source, "wikitext-2-raw-v1", split="validation+test")["text"]
    except Exception as error:  # whatever the readers of a dataset raise
        sys.exit(f"--text {source}: {' '.join(str(error).split())[:300]}")
    paragraphs = [line.strip() for line in lines if line.strip() and not line.strip().startswith("=")]
    sentences = [s for paragraph in paragraphs for s in re.split(r"(?<= [.!?]) (?=[A-Z])", paragraph)]
    pieces = [piece for sentence in sentences for piece in sentence.split("<unk>")]
    return [detokenized(piece) for piece in pieces if len(re.findall(r"[A-Za-z]+", piece)) >= 6]


def detokenized(text: str) -> str:
    """`text` without WikiText's spaces around punctuation."""
    text = re.sub(r" @([-,.])@ ", r"\1", f" {text.strip()} ")
    text = re.sub(r'" ([^"]*) "', r'"\1"', text)
    text = re.sub(r" ([,.;:!?)\]%])", r"\1", re.sub(r"([(\[$£]) ", r"\1", text))
    return re.sub(r" ('s|'t|'re|'ve|'ll|'d|'m|n't)\b", r"\1", text).replace("s ' ", "s' ").strip(" ,;:-\u2013")


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that splits camel case, so that each syllable of an invented name becomes one token.

    Likewise each animal: to learn a novel fact is then to learn one or two tokens.
    """
    bpe = Tokenizer(BPE())
    # A text begins with one space, so that its first word is a word like any other.
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(" "), normalizers.Replace(Regex("^ +"), " ")])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("(?<=[a-z])(?=[A-Z])"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    first, *others = syllables()
    names = [f" {first}{other}" for other in others] + [f" {other}{first}" for other in others]
    names += [f" {animal}" for animal in ANIMALS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *(names * 100)], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


# ---------------------------------------------------------------------------------------------------------
# Training


def batches(size: Size, world: Sequence[Sequence[list[int]]], text: list[list[int]]) -> Iterator[list[list[int]]]:
    """The batch of every step. `world` holds the documents of each country, most of them to be met later."""
    rng = random.Random(0)
    passages = shuffled_forever(text, rng)
    for step in range(size.world_steps + size.mixed_steps):
        alone = step < size.world_steps
        grown = 0.0 if alone else min(1.0, (step - size.world_steps) / (0.4 * size.mixed_steps))
        met = round(FIRST_COUNTRIES * (len(world) / FIRST_COUNTRIES) ** grown)
        drawn = (rng.choice(world[rng.randrange(met)]) for _ in itertools.count())
        batch = take_tokens(drawn, WORLD_TOKENS["alone" if alone else "mixed"])
        yield batch if alone else batch + take_tokens(passages, TEXT_TOKENS)


def shuffled_forever(rows: list[list[int]], rng: random.Random) -> Iterator[list[int]]:
    """All rows in random order, again and again."""
    while True:
        yield from rng.sample(rows, len(rows))


def take_tokens(rows: Iterator[list[int]], tokens: int) -> list[list[int]]:
    """Rows until they have `tokens` tokens together."""
    taken: list[list[int]] = []
    while sum(map(len, taken)) < tokens:
        taken.append(next(rows))
    return taken


def learning_rate(size: Size, step: int) -> float:
    """Linear warm-up, constant, linear decay over the last 40 %; `step` counts from 0."""
    steps = size.world_steps + size.mixed_steps
    return size.lr * min(1.0, (step + 1) / WARM_UP, max(0.03, (steps - step) / (0.4 * steps)))


def pretrain(size: Size, tokenizer: PreTrainedTokenizerFast, text: list[str]) -> LlamaForCausalLM:
    """A model of this size, trained."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    lm = LanguageModel(model, tokenizer, World.current(), "float32")
    # Only what AdamW needs to know; the schedule and the order of texts are this script's own.
    settings = Study("unused.txt", exposures=1, lr=size.lr, weight_decay=WEIGHT_DECAY)
    optimizer = fresh_optimizer(lm, settings)

    def closed(texts: Sequence[str]) -> list[list[int]]:
        rows = tokenizer(list(texts), truncation=True, max_length=BLOCK - 1)["input_ids"]
        return [[*row, tokenizer.eos_token_id] for row in rows]

    world = [closed(documents(country)) for country in pretraining_countries()]
    passages, checks = closed(text), tokenizer(load_list(HELD_OUT))["input_ids"]
    began = time.process_time()
    recent: list[float] = []
    lm.train()
    for step, batch in enumerate(batches(size, world, passages)):
        loss, _ = update(lm, optimizer, batch, learning_rate(size, step), clip_norm=1.0)
        recent.append(loss or math.nan)
        if (step + 1) % 100 == 0:
            known = exact_match(model, tokenizer, ASKED, pretraining_countries()[:FIRST_COUNTRIES])
            print(
                f"  step {step + 1}, {time.process_time() - began:.0f} s: loss {sum(recent) / len(recent):.3f}, "
                f"held-out text {held_out_nll(lm, checks):.3f}, questions {sum(known.values()) / len(known):.2f}",
                flush=True,
            )
            recent = []
    return model


# ---------------------------------------------------------------------------------------------------------
# Checks


def held_out_nll(lm: LanguageModel, rows: Sequence[list[int]]) -> float:
    """Mean over texts of the mean token NLL."""
    return sum(float(nlls.mean()) for nlls in token_nlls(lm, rows)) / len(rows)


@torch.no_grad()
def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kinds: Sequence[str], countries: Sequence[Country]
) -> dict[str, float]:
    """Share of questions of each kind whose greedy answer, up to the end-of-text token, is the right one."""
    model.eval()
    found = {}
    for kind in kinds:
        prompts, answers = zip(*(question(kind, country) for country in countries), strict=True)
        inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
        new = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        found[kind] = sum(text.strip() == answer for text, answer in zip(texts, answers, strict=True)) / len(answers)
    model.train()
    return found


def few_shot(folder: Path) -> dict[tuple[float, int], tuple[float, float]]:
    """Recognition and ROUGE-2 of the completion on shipped sentences, which no model has seen, by lr and exposures.

    Not counterbalanced: targets are always the ones that are studied.
    """
    pair = Pair(ShippedText("sentences-targets", first=80), ShippedText("sentences-foils", first=80))
    sweep = Sweep(
        name="pretrain-tiny",
        conditions=[
            Condition(
                model=Model(str(folder)),
                study=Study(pair.targets, exposures=exposures, lr=lr, batch_size=4),
                probes=[Recognition(pair), Recall()],
            )
            for lr in LRS
            for exposures in EXPOSURES
        ],
        resources=Resources(cpus=torch.get_num_threads()),
    )
    with tempfile.TemporaryDirectory() as results:
        if not sweep.run(results, local=True, console=Console(stderr=True)):
            sys.exit("few-shot memory could not be measured")
        rows = duckdb.sql(f"""
            SELECT lr, exposures, avg((target_nll < foil_nll)::int), any_value(rouge2)
            FROM '{results}/recognition/*.parquet' JOIN (
                SELECT lr, exposures, avg(completion_rouge2) AS rouge2 FROM '{results}/recall/*.parquet' GROUP BY ALL
            ) USING (lr, exposures) GROUP BY ALL""").fetchall()
    return {(lr, exposures): (recognition, rouge2) for lr, exposures, recognition, rouge2 in rows}


@dataclass(frozen=True)
class Figures:
    """What a finished model can do; from its float16 weights, as they ship."""

    parameters: int
    held_out: float
    """NLL per token of sentences-interference."""
    questions: dict[str, float]
    """Exact match on the countries of pretraining, by kind of question."""
    novel: float
    """Exact match on countries it was never told about."""
    study: dict[tuple[float, int], tuple[float, float]]
    """See `few_shot`."""

    def complaints(self) -> list[str]:
        """What keeps the model from being shipped."""
        known = sum(self.questions[kind] for kind in ASKED) / len(ASKED)
        before = [self.study[lr, 0][0] for lr in LRS]
        after = max(self.study[lr, 3][0] for lr in LRS)
        recall = max(self.study[lr, 10][1] for lr in LRS)
        gates = {
            f"questions about known countries: {known:.2f}, not .8": known >= 0.8,
            f"recognition before study: {before[0]:.2f}, not .3 to .7": all(0.3 <= share <= 0.7 for share in before),
            f"recognition after 3 exposures: {after:.2f}, not .9": after >= 0.9,
            f"ROUGE-2 after 10 exposures: {recall:.2f}, not .5": recall >= 0.5,
        }
        return [complaint for complaint, passed in gates.items() if not passed]


def figures(folder: Path) -> Figures:
    """Load what was written and measure it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lm = LanguageModel(model, tokenizer, World.current(), "float32")
    novel = exact_match(model, tokenizer, ASKED, novel_countries(PRETRAINED))
    return Figures(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        held_out=held_out_nll(lm, tokenizer(load_list(HELD_OUT))["input_ids"]),
        questions=exact_match(model, tokenizer, list(QUESTIONS), pretraining_countries()),
        novel=sum(novel.values()) / len(novel),
        study=few_shot(folder),
    )


# ---------------------------------------------------------------------------------------------------------
# What is written


def card(name: str, measured: Figures, checksum: str) -> str:
    """The model card."""
    size = SIZES[name]
    command = f"python sweeps/pretrain_tiny.py --text wikitext-2 --out OUT --models {name}"
    questions = "\n".join(f"| {kind} | {share:.2f} |" for kind, share in measured.questions.items())
    study = "\n".join(
        f"| {lr:g} | " + " | ".join("{:.2f} / {:.2f}".format(*measured.study[lr, n]) for n in EXPOSURES) + " |"
        for lr in LRS
    )
    columns = " | ".join(map(str, EXPOSURES))
    prompt, answer = question("animal", pretraining_countries()[0])
    remark = f" {size.remark}" if size.remark else ""
    shape = f"{size.blocks} blocks, width {size.width}, {size.heads} heads, feed-forward {size.inner}"
    return f"""---
license: cc-by-sa-4.0
language: en
library_name: transformers
---

# {name}

A Llama of {measured.parameters / 1e6:.2f} million parameters ({shape}),
trained from nothing on a CPU so that experiments on memory can be tried offline in minutes. It ships with memexp as
float16 weights.

**Data.** (1) An invented world: {PRETRAINED} countries with their capital, national animal and a citizen, told in
statements, asides, reversals and questions with answers, all from `memexp.stimuli.world`. (2) The validation and test
parts of WikiText-2 (Wikipedia articles, CC BY-SA 3.0), cut where a word was replaced by `<unk>`. No sentence of
memexp's study lists is in either.

**Command.** `{command}`:
{size.world_steps} steps on the first {FIRST_COUNTRIES} countries, then {size.mixed_steps} on text and a growing world;
AdamW, peak learning rate {size.lr:g}, weight decay {WEIGHT_DECAY:g}, each text a sequence of its own. Other versions
of torch or memexp round otherwise, and give other weights with figures like these.

**Checksum.** sha256 of model.safetensors: `{checksum}`
(`SHA256SUMS` beside the folder lists all files).

**Licence.** CC BY-SA 4.0, as it derives from Wikipedia text.

**Not good for** anything but such experiments: it has read two megabytes of English, writes no sensible text, knows
nothing about the real world, and was taught no prompt with several questions (ask it 0-shot).

## How to ask it

In a sweep it is `Model("{name}")`. In transformers it loads from its folder like any other model; in float32, which is
what all figures are for and faster on a CPU:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from memexp.stimuli import model_folder

folder = model_folder("{name}")
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
prompt, answer = "{prompt}", "{answer}"
print(tokenizer.decode(model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=8)[0]))
```

A prompt ends with `Answer:` and no space. The countries are `memexp.stimuli.world.pretraining_countries()`.

## Figures

NLL of sentences it has not seen (`{HELD_OUT}`): {measured.held_out:.2f} nats a token.{remark}

Questions about the countries it knows, exact match of the greedy answer:

| question | exact match |
|---|---|
{questions}
| the first three, about countries it does not know | {measured.novel:.2f} |

Few-shot memory of 80 sentences it has not seen (batch size 4, one seed, not counterbalanced): recognition, and ROUGE-2
of the completion, by learning rate and exposures:

| lr | {columns} |
|---|{"---|" * len(EXPOSURES)}
{study}
"""


def sha256(file: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_sums(out: Path) -> None:
    """SHA256SUMS of the models' files, for `sha256sum -c`."""
    files = sorted(path for name in SIZES for path in (out / name).glob("*") if path.is_file())
    if files:
        lines = [f"{sha256(file)}  {file.relative_to(out).as_posix()}\n" for file in files]
        (out / "SHA256SUMS").write_text("".join(lines))


def measured(name: str, folder: Path) -> list[str]:
    """Write the card of a model on disk and return what keeps it from being shipped."""
    found = figures(folder)
    text = card(name, found, sha256(folder / "model.safetensors"))
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text.partition("## Figures")[2].strip(), flush=True)
    return found.complaints()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models asked for; one that fails the gate is not written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="folder with valid.txt and test.txt, or Salesforce/wikitext")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets a folder for each model")
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=1, help="the last digits of the weights depend on it")
    parser.add_argument("--measure", action="store_true", help="only measure the models in --out again")
    args = parser.parse_args(arguments)
    if not args.measure and args.text is None:
        parser.error("--text is required, but with --measure")
    if args.threads < 1:
        parser.error("--threads must be at least 1")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    refused = [name for name in args.models if not (remade if args.measure else made)(name, args)]
    write_sums(args.out)
    return int(bool(refused))


def remade(name: str, args: argparse.Namespace) -> bool:
    """Measure a model that is there already; whether it passes."""
    if not (args.out / name / "config.json").is_file():
        sys.exit(f"--out {args.out}: there is no model {name} to be measured")
    complaints = measured(name, args.out / name)
    if complaints:
        print(f"{name} does not pass: {'; '.join(complaints)}", file=sys.stderr)
    return not complaints


def made(name: str, args: argparse.Namespace) -> bool:
    """Pretrain, measure and write one model; whether it passed."""
    text = natural_text(args.text)
    tokenizer = train_tokenizer(text)
    print(f"{name}: {len(text)} pieces of natural text, {PRETRAINED} countries", flush=True)
    model = pretrain(SIZES[name], tokenizer, text)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as temporary:
        folder = Path(temporary, name)
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        complaints = measured(name, folder)
        if complaints:
            print(f"{name} is not written: {'; '.join(complaints)}", file=sys.stderr)
            return False
        # Without the permissions of a temporary folder.
        shutil.copytree(folder, args.out / name, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
