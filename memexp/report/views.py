"""Ready-made views of a store, tables in SQL beside those of its files: each declared here, with a line that lists it.

    memexp query --views
    memexp query recognition_by_condition
    memexp query "SELECT model, lr, recognition FROM recognition_by_condition WHERE exposures = 3"

A view is plain SQL over the store's tables, made for the columns that these have: labels differ between sweeps. Means
are over items; seeds and study lists are taken together and counted, everything else is a row of its own. For intervals
see `memexp.stats`, ``memexp report`` and ``memexp compare``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from memexp.probes.constant import constant_columns
from memexp.records import BARE, MADE_WITH, SETTINGS, measured_by
from memexp.store import Store
from memexp.store.closed import identifier
from memexp.store.query import quoted

__all__ = ["View", "by_condition", "views_of"]

Columns = Mapping[str, Sequence[Sequence[str]]]
"""By kind, for each group of files that have the same ones, the names of their columns."""

BY_CONDITION = "_by_condition"
AVERAGED = ("corpus", "seed", "init_seed", "lora_seed", "counterbalanced")
"""What a mean may be taken over, as in the tables after a run."""
_TOLD_BY_OTHERS = ("condition_id", "stage_id", "probe_id", "probe_settings", "corpus_id", "model_id")
APART = ("corpus", "probe_settings", "model_id")
"""What tells conditions apart where nothing else does; NULL elsewhere."""
FIRST = ("model", "method", "lr", "batch_size")
LAST = ("forget_side", "forget_layer", "restudy_exposures", "exposures", "unlearn_steps", "retention_steps")

MEANS: Mapping[str, Mapping[str, str]] = {
    "recognition": {
        "recognition": "(target_nll < foil_nll)::int",
        "target_nll": "target_nll",
        "foil_nll": "foil_nll",
    },
    "recall": {
        "completion_rouge2": "completion_rouge2",
        "exact": "exact::int",
        "sentence_rouge2": "sentence_rouge2",
    },
    "qa": {"exact": "exact::int", "f1": "f1"},
    "choice": {"correct": "correct::int", "chance": "1 / len(choices)"},
    "ablation": {"correct": "correct::int", "f1": "f1"},
    "ratios": {"log_comparison_ratio": "log_comparison_ratio", "log_negation_ratio": "log_negation_ratio"},
    "lm_eval": {"value": "value"},
    "extraction": {
        name: f"CASE WHEN coalesce(member, true) THEN {name}{cast} END"
        for name, cast in {"exact": "::int", "matching": "", "strength": "", "probability": ""}.items()
    },
    "membership": {
        "loss": "loss",
        "zlib": "zlib",
        "min_k": "min_k",
        "min_k_plus": "min_k_plus",
        "reference": "reference",
    },
    "exposure": {"exposure": "exposure", "fitted": "fitted"},
    "spans": {"per_token": "per_token", "exact": "exact::int"},
    "prefix_offset": {"matching": "matching", "exact": "exact::int", "strength": "strength"},
    "priming": {"ratio": "ratio"},
    "base_forgetting": {"cross_entropy": "cross_entropy", "kl": "kl", "loss": "loss"},
    "capacity": {"stored": "stored", "gained": "gained", "bits": "bits"},
}
"""Of memexp's own kinds what is averaged, by the name of the column; the first is what stands for the kind."""
PARTS: Mapping[str, Sequence[str]] = {
    "qa": ["task"],
    "choice": ["task"],
    "ablation": ["task", "ablated_side", "ablated_layer"],
    "ratios": ["relation"],
    "lm_eval": ["task", "filter", "metric"],
    "extraction": ["prefix_tokens", "suffix_tokens"],
    "membership": ["member"],
    "spans": ["depth"],
    "capacity": ["part"],
    "prefix_offset": ["offset_tokens", "prefix_tokens", "suffix_tokens"],
    "quantized": ["probe", "task", "bits", "group_size", "prefix_tokens"],
    "truth_ratio": ["task"],
    "continuation": ["task"],
}
"""Columns of items over which no mean is taken."""
ITEMS: Mapping[str, str] = {
    "recognition": "target AS item_text, target_nll < foil_nll AS recognized, target_nll, foil_nll",
    "recall": "target AS item_text, completion, completion_rouge2, exact",
    "qa": "prompt AS item_text, answer, prediction, exact, f1",
    "choice": "prompt AS item_text, correct",
}
"""What the history of an item shows of each kind."""


@dataclass(frozen=True)
class View:
    """A table made of others."""

    name: str
    says: str
    """What its rows are, in a line."""
    reads: Sequence[str]
    """The kinds that it is made of, as far as the store has them."""
    sql: Callable[[Columns], str | None]
    """Its SELECT for tables with these columns; None where they lack what it needs."""
    shown: Sequence[str] = ()
    """Columns that are never left out of a narrow table."""


def views_of(store: Store) -> dict[str, View]:
    """The views that a store can give, by name. A table of the store goes before a view of its name."""
    kinds = store.kinds()
    results = [kind for kind in kinds if kind not in BARE]
    found = [_by_condition(store, kind) for kind in results]
    found += [view for view in OTHERS if set(view.reads) & set(kinds)]
    return {view.name: view for view in found if view.name not in kinds}


def by_condition(kind: str) -> str:
    """The name of the view that has the means of a kind."""
    return f"{kind}{BY_CONDITION}"


# ---------------------------------------------------------------------------------------------------------
# Means


COUNTS = ("n", "seeds", "lists")
TAKEN = {
    *COUNTS,
    *(name for means in MEANS.values() for name in means),
    *("study list", "measure", "mean", "kind", "item", "item_text", "recognized", "completion", "answer", "prediction"),
    *("best_lr", "best_batch_size", "points", "at_edge"),
}
"""Columns that views have beside settings and labels."""


def _says(names: Iterable[str]) -> str:
    return f"mean {', '.join(names)} of each condition; n items, seeds and lists taken together"


def _by_condition(store: Store, kind: str) -> View:
    """The means of one kind."""
    name = by_condition(kind)
    if kind in MEANS:
        means = MEANS[kind]
        return View(name, _says(means), [kind], lambda columns: _means(kind, columns, means), (*COUNTS, *means))

    def sql(columns: Columns) -> str | None:
        said = measured_by(store.schema(kind, max(store.names(kind))))
        return None if said is None or said.headline is None else _means(kind, columns, {kind: said.headline.mean})

    return View(name, _says([kind]), [kind], sql, (*COUNTS, kind))


def _means(kind: str, columns: Columns, means: Mapping[str, str]) -> str | None:
    """One row for all rows that differ in no more than `AVERAGED`.

    A column of lists, probes or models joins them where a mean would else be over what has only the name in common: two
    columns of one file, two probes of one condition, two models.
    """
    have = _names(columns[kind])
    if not have.keys() >= {"condition_id", "probe_id", "corpus", "seed", "model_id"}:
        return None
    chosen = [*_conditions(kind, columns[kind]), *(name for name in PARTS.get(kind, ()) if name in have)]
    by = _listed(_called(chosen))
    averaged = [name for name in AVERAGED if name in have]
    over = f"PARTITION BY {', '.join([by, *(identifier(name) for name in averaged if name != 'corpus')])}"
    several = {
        "corpus": f"count(DISTINCT corpus) OVER ({over}, {_FILE})",
        "probe_settings": f"count(DISTINCT probe_id) OVER (PARTITION BY condition_id, {by})",
        "model_id": f"count(DISTINCT model_id) OVER ({over})",
    }
    several = {name: several[name] for name in APART if name in have}
    kept = _listed(dict.fromkeys([*averaged, "condition_id", "probe_id", *several]))
    only = ", ".join(f'CASE WHEN max("several {name}") OVER () > 1 THEN {name} END AS {name}' for name in several)
    return f"""
        WITH results AS (SELECT {_as_called(chosen)}, {kept}, {_sums(means)} FROM {identifier(kind)} GROUP BY ALL),
        counted AS (
            SELECT *, corpus AS "study list", {", ".join(f'{sql} AS "several {name}"' for name, sql in several.items())}
            FROM results
        ),
        told AS (SELECT * REPLACE ({only}) FROM counted)
        SELECT {by}, {", ".join(several)}, sum({identifier(f"count {next(iter(means))}")})::bigint AS n,
            count(DISTINCT seed) AS seeds, count(DISTINCT "study list") AS lists,
            {", ".join(_quotient(name) for name in means)}
        FROM told GROUP BY ALL ORDER BY {by}"""


_FILE = r"regexp_replace(corpus, '([^/.:]+):[^:@\s][^:@]*($|@[0-9a-f]{40}$)', '\1\2')"
"""The file or dataset of a corpus, without the column that was taken from it."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(identifier, names))


def _called(names: Iterable[str]) -> list[str]:
    """What views call settings and labels: a label of a name that they have a use for gives way."""
    return [f"{name}_label" if name.lower() in TAKEN else name for name in names]


def _as_called(names: Sequence[str]) -> str:
    named = zip(names, _called(names), strict=True)
    return ", ".join(f"{identifier(name)} AS {identifier(called)}" for name, called in named)


def _sums(means: Mapping[str, str]) -> str:
    return ", ".join(
        f"sum({sql})::double AS {identifier(f'sum {name}')}, count({sql}) AS {identifier(f'count {name}')}"
        for name, sql in means.items()
    )


def _quotient(name: str) -> str:
    total, count = identifier(f"sum {name}"), identifier(f"count {name}")
    return f"sum({total}) / nullif(sum({count}), 0) AS {identifier(name)}"


def _names(groups: Sequence[Sequence[str]]) -> dict[str, None]:
    """The columns that files have together; names that differ in case are one to SQL, which has the first spelling."""
    found: dict[str, str] = {}
    for name in (name for group in groups for name in group):
        found.setdefault(name.lower(), name)
    return dict.fromkeys(found.values())


def _conditions(kind: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """The settings and labels that tell conditions apart, in the order in which people read them."""
    without = {*AVERAGED, *_TOLD_BY_OTHERS, *MADE_WITH.names, *FIRST, *LAST}
    names = _names([constant_columns(kind, group) for group in groups])
    rest = [name for name in names if name not in without]
    labels = [name for name in rest if name not in SETTINGS.names]
    settings = [name for name in rest if name in SETTINGS.names]
    return [name for name in (*FIRST, *labels, *settings, *LAST) if name in names]


# ---------------------------------------------------------------------------------------------------------
# What is made of the means


def _of_means(columns: Columns, kinds: Sequence[str], select: Callable[[str, str, str], str]) -> str | None:
    """`select` of the columns of conditions, the measure that stands for a kind and its view, for all `kinds`."""
    parts = []
    for kind in kinds:
        if kind in columns and _means(kind, columns, MEANS[kind]) is not None:
            by = _called([*_conditions(kind, columns[kind]), *PARTS.get(kind, ())])
            by += [name for name in APART if name in _names(columns[kind])]
            rows = f"({_means(kind, columns, MEANS[kind])})"
            parts.append(select(_listed(by), next(iter(MEANS[kind])), rows))
    return f"SELECT * FROM ({' UNION ALL BY NAME '.join(parts)}) ORDER BY ALL" if parts else None


def _retention_curve(columns: Columns) -> str | None:
    def select(by: str, measure: str, rows: str) -> str:
        measured = f"SELECT {quoted(measure)} AS measure, {by}, n, seeds, lists, {measure} AS mean"
        return f"({measured} FROM {rows} WHERE retention_steps IS NOT NULL)"

    return _of_means(columns, MEASURED, select)


def _best_lr(columns: Columns) -> str | None:
    def select(by: str, measure: str, rows: str) -> str:
        others = ", ".join(name for name in by.split(", ") if name not in ('"lr"', '"batch_size"'))
        return f"""(
            SELECT {quoted(measure)} AS measure, {others}, arg_max(lr, {measure}) AS best_lr,
                arg_max(batch_size, {measure}) AS best_batch_size, max({measure}) AS mean, count(*) AS points,
                count(DISTINCT lr) > 1 AND arg_max(lr, {measure}) IN (min(lr), max(lr)) AS at_edge
            FROM {rows} WHERE exposures > 0 AND lr IS NOT NULL GROUP BY ALL HAVING count(*) > 1)"""

    return _of_means(columns, MEASURED, select)


def _fact_scores(columns: Columns) -> str | None:
    def select(by: str, measure: str, rows: str) -> str:
        chance = "chance" if measure == "correct" else "NULL::double AS chance"
        return (
            f"(SELECT {quoted(measure)} AS measure, {by}, n, seeds, lists, {measure} AS correct, {chance} FROM {rows})"
        )

    return _of_means(columns, ("qa", "choice"), select)


def _item_history(columns: Columns) -> str | None:
    parts = [
        f"(SELECT {quoted(kind)} AS kind, item, {items}, {_as_called(_conditions(kind, columns[kind]))}, corpus, seed"
        f" FROM {identifier(kind)})"
        for kind, items in ITEMS.items()
        if kind in columns
    ]
    order = "kind, corpus, item, model, lr, seed, exposures, retention_steps"
    return f"SELECT * FROM ({' UNION ALL BY NAME '.join(parts)}) ORDER BY {order}" if parts else None


LOSSES = """
    SELECT model, method, kind, corpus, batch_size, seed, stage_id, exposure, max(lr) AS highest_lr, count(*) AS steps,
        avg(loss) AS loss
    FROM training GROUP BY ALL ORDER BY model, kind, corpus, batch_size, highest_lr, seed, exposure"""
EFFORT = """
    SELECT sweep, model, kind, status, device, count(*) AS attempts, sum(steps)::bigint AS steps,
        sum(tokens)::bigint AS tokens, sum(seconds) / 3600 AS hours
    FROM stages WHERE status NOT IN ('begun', 'skipped') AND probe_id IS NULL GROUP BY ALL ORDER BY ALL"""
FAILURES = """
    SELECT sweep, model, kind, status, split_part(error, chr(10), 1) AS error, count(*) AS times, max(finished) AS last
    FROM stages WHERE status NOT IN ('complete', 'begun', 'stopped') GROUP BY ALL ORDER BY last DESC"""

MEASURED = ("recognition", "recall", "qa", "choice")
"""The kinds of which more is better."""
OTHERS = (
    View(
        "retention_curve",
        "mean of each condition by retention interval (retention_steps); measure says of what",
        MEASURED,
        _retention_curve,
        ("measure", "n", "seeds", "lists", "mean"),
    ),
    View(
        "best_lr",
        "learning rate and batch size with the best mean, chosen in-sample; at_edge: of the learning rates tried",
        MEASURED,
        _best_lr,
        ("measure", "best_lr", "best_batch_size", "mean", "points", "at_edge"),
    ),
    View(
        "fact_scores",
        "share of right answers to each test (task) of facts, with what guessing comes to",
        ("qa", "choice"),
        _fact_scores,
        ("measure", "task", "n", "seeds", "lists", "correct", "chance"),
    ),
    View(
        "item_history",
        "each item through exposures and retention intervals, condition by condition",
        tuple(ITEMS),
        _item_history,
        ("kind", "item"),
    ),
    View("loss_by_exposure", "mean loss of each exposure of each stretch of training", ("training",), lambda _: LOSSES),
    View("effort", "steps, tokens and hours by model, kind of stage and how it ended", ("stages",), lambda _: EFFORT),
    View("failures", "what failed, diverged or was skipped, how often and when last", ("stages",), lambda _: FAILURES),
)
"""Those that are of the same name in every store."""
