"""Options of those commands of ``memexp`` that have many."""

from __future__ import annotations

import argparse

__all__ = ["add_comparison_options", "add_prune_options", "add_purchase_options", "add_query_options"]


def add_query_options(query: argparse.ArgumentParser) -> None:
    query.usage = "memexp query [options] SQL"
    query.add_argument("sql", metavar="SQL", nargs="?", help="one SELECT, or the name of a table or view: all of it")
    query.add_argument("--views", action="store_true", help="list the views there are beside the tables, and end")
    query.add_argument(
        "--format", choices=["table", "csv", "json", "parquet"], help="(default: a table, or what FILE ends in)"
    )
    query.add_argument("--csv", action="store_const", dest="format", const="csv", help="the same as --format csv")
    query.add_argument("--output", metavar="FILE", help="write to this file, whole or not at all")
    query.add_argument("--sweep", metavar="NAME", help="only what belongs to this sweep, as it was last started")
    query.add_argument(
        "--all-columns",
        action="store_true",
        help="in the table of a SELECT * also columns that are the same in all rows",
    )


def add_prune_options(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("--remove", action="store_true", help="remove it; results of no sweep, which are gone then")


def add_purchase_options(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--memory", type=float, metavar="GB", help="of a device: how many workers does each model take?")
    plan.add_argument("--price", type=float, help="of a device for an hour: what does it cost?")
    plan.add_argument("--device", help="to estimate time for, such as h100 or a100 (default: h100, or cpu)")


def add_comparison_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("a", metavar="A", help="a sweep of the store, or a store: a folder, s3://... or gs://...")
    compare.add_argument("b", metavar="B", help="the same; its means are taken from those of A")
    compare.add_argument("--kind", action="append", default=[], help="what to compare (default: all that both have)")
    compare.add_argument(
        "--by", metavar="COLUMNS", help="what makes a condition, such as model,lr (default: what varies)"
    )
    about = "what intervals are about (default: the widest that the rows allow)"
    compare.add_argument("--over", choices=["items", "seeds", "lists", "both"], help=about)
    compare.add_argument(
        "--margin", type=float, default=0.02, help="differences this small are equivalent (default: .02)"
    )
    compare.add_argument("--level", type=float, default=0.95, help="of the intervals (default: .95)")
    compare.add_argument("--csv", action="store_true", help="as CSV, with all columns")
