"""The lists of 240 keep what they promise; every check is also shown a broken copy and has to object to it."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable
from importlib.resources import files

import pytest

from memexp.stimuli import load_list

Lists = dict[str, list[str]]
Check = Callable[[Lists], list[str]]  # what is wrong, nothing if all is well
Fault = Callable[[Lists], object]  # breaks the copy it is given
Measure = Callable[[str], float]

KINDS = ["targets", "foils", "paraphrases", "synonyms", "interference"]
LISTS: Lists = {kind: load_list(f"sentences-{kind}") for kind in KINDS}


def words(sentence: str) -> list[str]:
    return [word.strip(".,:;?").lower() for word in sentence.split()]


def shared(first: str, second: str) -> float:
    """Share of the words of the first that are also in the second."""
    return len(set(words(first)) & set(words(second))) / len(set(words(first)))


def pairs(lists: Lists, kind: str) -> list[tuple[str, str]]:
    return list(zip(lists["targets"], lists[kind], strict=False))  # the counts have a check of their own


def pool(lists: Lists) -> list[str]:
    return lists["targets"] + lists["foils"]


def wrong_counts(lists: Lists) -> list[str]:
    return [f"{kind}: {len(lists[kind])}" for kind in KINDS if len(lists[kind]) != 240]


def not_plain(lists: Lists) -> list[str]:
    def plain(sentence: str) -> bool:
        tidy = sentence == " ".join(sentence.split()) and sentence.isascii() and sentence.isprintable()
        return tidy and '"' not in sentence and sentence[0].isupper() and sentence.endswith((".", "?"))

    return [sentence for kind in KINDS for sentence in lists[kind] if not plain(sentence)]


def wrong_lengths(lists: Lists) -> list[str]:
    return [sentence for kind in KINDS for sentence in lists[kind] if not 12 <= len(sentence.split()) <= 30]


def narrow_lengths(lists: Lists) -> list[str]:
    lengths = {kind: [len(sentence.split()) for sentence in lists[kind]] for kind in KINDS}
    return [kind for kind, values in lengths.items() if not 3 <= statistics.stdev(values) <= 5.5]


def repeated_sentences(lists: Lists) -> list[str]:
    # compared by words: a change of case or of a comma would not make another item
    counts = Counter(" ".join(words(sentence)) for kind in KINDS for sentence in lists[kind])
    return [sentence for sentence, count in counts.items() if count > 1]


def repeated_openings(lists: Lists) -> list[str]:
    counts = Counter(words(sentence)[0] for sentence in pool(lists) + lists["interference"])
    return [word for word, count in counts.items() if count > 720 / 5]


def foils_of_another_length(lists: Lists) -> list[str]:
    return [foil for target, foil in pairs(lists, "foils") if abs(len(foil.split()) - len(target.split())) > 2]


def related_foils(lists: Lists) -> list[str]:
    return [foil for target, foil in pairs(lists, "foils") if shared(target, foil) > 1 / 2]


def related_interference(lists: Lists) -> list[str]:
    sets = [set(words(sentence)) for sentence in pool(lists)]
    found = [(sentence, set(words(sentence))) for sentence in lists["interference"]]
    return [sentence for sentence, own in found if any(len(own & other) > len(own | other) / 3 for other in sets)]


def not_one_word_apart(lists: Lists) -> list[str]:
    def one_apart(target: str, synonym: str) -> bool:
        before, after = target.split(), synonym.split()
        if len(before) != len(after):
            return False
        places = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        # a change of punctuation or of case alone would not be another word
        return len(places) == 1 and words(before[places[0]]) != words(after[places[0]])

    return [synonym for target, synonym in pairs(lists, "synonyms") if not one_apart(target, synonym)]


def wrong_articles(lists: Lists) -> list[str]:
    """A new word after `a` or `an` has to take the same article, as judged by its first letter."""
    found = []
    for target, synonym in pairs(lists, "synonyms"):
        old, new = words(target), words(synonym)
        for place in range(1, min(len(old), len(new))):
            if old[place] != new[place] and new[place - 1] in ("a", "an"):
                found += [synonym] * ((new[place - 1] == "an") != (new[place][0] in "aeiou"))
    return found


def paraphrases_of_another_length(lists: Lists) -> list[str]:
    return [text for target, text in pairs(lists, "paraphrases") if abs(len(text.split()) - len(target.split())) > 4]


def near_copies(lists: Lists) -> list[str]:
    return [text for target, text in pairs(lists, "paraphrases") if shared(target, text) >= 0.8]


def strangers(lists: Lists) -> list[str]:
    """Lists whose item i shares no more with target i than with the target after it."""

    def gain(kind: str) -> float:
        shifted = lists["targets"][1:] + lists["targets"][:1]
        own = statistics.fmean(shared(target, text) for target, text in pairs(lists, kind))
        return own - statistics.fmean(map(shared, shifted, lists[kind]))

    return [kind for kind in ("paraphrases", "synonyms") if gain(kind) < 0.1]


def biases(lists: Lists) -> list[str]:
    """Measures in which targets and foils differ by more than 1.5 standard errors, and what is plainly too large."""
    counts = Counter(word for sentence in pool(lists) for word in words(sentence))
    measures: dict[str, Measure] = {
        "characters": len,
        "words": lambda sentence: len(sentence.split()),
        "commonness": lambda sentence: statistics.fmean(math.log(counts[word]) for word in words(sentence)),
        "articles": lambda sentence: sum(word in ("a", "an", "the") for word in words(sentence)),
        "commas": lambda sentence: sentence.count(","),
        "questions": lambda sentence: sentence.endswith("?"),
    }
    found = []
    for name, measure in measures.items():
        differences = [float(measure(target) - measure(foil)) for target, foil in pairs(lists, "foils")]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        limit = min(1.5 * error, {"characters": 2.0, "words": 0.25}.get(name, math.inf))
        found += [name] * (abs(statistics.fmean(differences)) > limit)
    return found


def put(kind: str, change: Callable[[str], str], item: int = 100) -> Fault:
    """A fault in one sentence."""

    def fault(lists: Lists) -> None:
        lists[kind][item] = change(lists[kind][item])

    return fault


def choose(measure: Callable[[str], float]) -> Fault:
    """A choice of targets that looks at the sentences, where a coin should."""

    def fault(lists: Lists) -> None:
        chosen = [sorted(pair, key=measure) for pair in pairs(lists, "foils")]
        lists["targets"], lists["foils"] = [pair[0] for pair in chosen], [pair[1] for pair in chosen]

    return fault


def rotate(kind: str) -> Fault:
    return lambda lists: lists[kind].append(lists[kind].pop(0))


def copy(source: str, target: str, change: Callable[[str], str] = str) -> Fault:
    return lambda lists: lists[target].__setitem__(100, change(lists[source][100]))


def all_open_alike(lists: Lists) -> None:
    lists["targets"] = [f"The {sentence}" for sentence in lists["targets"]]


def all_of_one_length(lists: Lists) -> None:
    lists["interference"] = [" ".join(sentence.split()[:12]) for sentence in lists["interference"]]


def with_article(lists: Lists) -> None:
    lists["targets"][0], lists["synonyms"][0] = "She found a coin.", "She found a ounce."


CASES: list[tuple[Check, Fault]] = [
    *((wrong_counts, lambda lists, kind=kind: lists[kind].pop()) for kind in KINDS),
    (not_plain, put("targets", lambda sentence: sentence.replace("e", "\u00e9"))),
    (not_plain, put("foils", lambda sentence: sentence.replace(" ", "  ", 1))),
    (not_plain, put("foils", lambda sentence: sentence.replace(" ", "\t", 1))),
    (not_plain, put("interference", lambda sentence: sentence[:-1])),
    (not_plain, put("paraphrases", lambda sentence: sentence.lower())),
    (not_plain, put("synonyms", lambda sentence: f'{sentence[:-1]}".')),
    (wrong_lengths, put("targets", lambda sentence: " ".join(sentence.split()[:11]))),
    (wrong_lengths, put("interference", lambda sentence: f"{sentence} {sentence} {sentence}")),
    (narrow_lengths, all_of_one_length),
    (repeated_sentences, copy("targets", "foils")),
    (repeated_sentences, copy("foils", "interference", str.upper)),
    (repeated_sentences, copy("targets", "paraphrases")),
    (repeated_sentences, copy("targets", "synonyms", lambda sentence: sentence.replace(" ", ", ", 1))),
    (repeated_sentences, lambda lists: lists["targets"].__setitem__(7, lists["targets"][8])),
    (repeated_openings, all_open_alike),
    (foils_of_another_length, put("foils", lambda sentence: f"It is true and well known that {sentence}")),
    (related_foils, copy("synonyms", "foils")),
    (related_interference, copy("synonyms", "interference")),
    (not_one_word_apart, copy("targets", "synonyms")),
    (not_one_word_apart, copy("targets", "synonyms", str.swapcase)),
    (not_one_word_apart, copy("targets", "synonyms", lambda sentence: f"Today {sentence}")),
    (not_one_word_apart, put("synonyms", lambda sentence: f"Zebra zebra {' '.join(sentence.split()[2:])}")),
    (wrong_articles, with_article),
    (paraphrases_of_another_length, put("paraphrases", lambda sentence: f"{sentence} {sentence}")),
    (near_copies, copy("synonyms", "paraphrases")),
    (strangers, rotate("paraphrases")),
    (strangers, rotate("synonyms")),
    (biases, choose(len)),
    (biases, choose(lambda sentence: -len(sentence.split()))),
    (biases, choose(lambda sentence: sum(word in ("a", "an", "the") for word in words(sentence)))),
    (biases, choose(lambda sentence: sentence.count(","))),
    (biases, choose(lambda sentence: sentence.endswith("?"))),
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_one_sentence_each(kind: str) -> None:
    lines = (files("memexp.stimuli") / f"sentences-{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"sent"} for line in lines)


@pytest.mark.parametrize("check", sorted({check for check, _ in CASES}, key=lambda check: check.__name__))
def test_lists_keep_their_promise(check: Check) -> None:
    assert check(LISTS) == []


@pytest.mark.parametrize(("check", "fault"), CASES)
def test_a_fault_would_be_seen(check: Check, fault: Fault) -> None:
    broken = {kind: list(sentences) for kind, sentences in LISTS.items()}
    fault(broken)
    assert check(broken) != []
