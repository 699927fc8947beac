"""The ``memexp`` command: reading options, and handing them to whatever carries the command out.

    memexp plan sweeps/quickstart.py
    memexp run sweeps/recognition_recall.py -- --data ~/llm-memory --models gpt2

A sweep is a Python file with a module attribute ``sweep``; what follows ``--`` are its own arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from memexp.first_steps.examples import BEGIN, ending
from memexp.loading import load
from memexp.options import add_comparison_options, add_prune_options, add_purchase_options, add_query_options
from memexp.script import add_run_options, carried_out, guarded, said_if_slow
from memexp.wording import amount

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command.

    Returns:
        The exit status: 0 done, 1 incomplete or broken, 2 bad input, 128 and the number of the signal that stopped it.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    return carried_out(lambda: _main(given), goes_on=given[:1] == ["run"], last=argv is None)


def _main(given: list[str]) -> int:
    cut = given.index("--") if "--" in given else len(given)
    options = _parser().parse_args(given[:cut])
    options.arguments = given[cut + 1 :]
    if options.command is None:
        _parser().print_help()
        raise SystemExit(2)
    return guarded(lambda: int(options.command(options)), options.debug)


def _parser() -> argparse.ArgumentParser:
    from memexp import __version__

    how = argparse.RawDescriptionHelpFormatter
    about = "Sweeps over memory in causal language models."
    parser = argparse.ArgumentParser(prog="memexp", description=about, epilog=BEGIN, formatter_class=how)
    parser.add_argument("--version", action="version", version=f"memexp {__version__}")
    parser.set_defaults(command=None, debug=False)
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, work: Any, text: str) -> argparse.ArgumentParser:
        about = text[0].upper() + text[1:] + "."
        end = ending(name, takes_sweep=work in (_plan, _run, _submit, _weights))
        sub = commands.add_parser(name, help=text, description=about, epilog=end, formatter_class=how)
        sub.set_defaults(command=work)
        sub.add_argument("--store", help="folder, s3://... or gs://... (default: MEMEXP_STORE or results)")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    _add_first_steps(command)
    _add_sweeps(command)
    add_comparison_options(command("compare", _compare, "differences of two stores or sweeps, with verdicts"))
    _add_status(command)
    add_query_options(command("query", _query, "ask the store in SQL, read-only; tables are named by kind"))
    _add_figures(command)
    command("verify", _verify, "read every file of a store to its last page")
    add_prune_options(command("prune", _prune, "show what no sweep refers to, and remove it where told to"))
    _add_exchange(command)
    return parser


Command = Callable[[str, Any, str], argparse.ArgumentParser]
"""Adds a command: its name, what carries it out, what its help says."""


def _add_first_steps(command: Command) -> None:
    """The commands of a user's first minutes."""
    new = command("new", _new, "write a sweep with comments, and its sentences, to begin with")
    new.add_argument("name", metavar="NAME", help="writes NAME.py and NAME.csv; overwrites nothing")
    doctor = command("doctor", _doctor, "what of this machine is in order; exit status 0 if a local sweep can run")
    doctor.add_argument("--ray", action="store_true", help="start Ray, or join the cluster, as a run would: seconds")


def _add_sweeps(command: Command) -> None:
    """The commands that take a sweep."""
    plan = command("plan", _plan, "what a sweep comes to, and what of it the store has")
    run = command("run", _run, "execute what of a sweep is missing; exit status 0 only if every condition is complete")
    for sub in (plan, run):
        sub.add_argument("sweep", metavar="SWEEP", help="Python file with a module attribute `sweep`")
        sub.usage = f"memexp {'plan' if sub is plan else 'run'} [options] SWEEP [-- ARGS]"
    plan.add_argument("--json", action="store_true", help="as one JSON object")
    add_purchase_options(plan)
    add_run_options(run)
    _add_jobs(command)
    weights = command("weights", _weights, "write the weights of one condition as a folder of transformers or PEFT")
    weights.usage = "memexp weights [options] SWEEP CONDITION DIR [-- ARGS]"
    weights.add_argument("sweep", metavar="SWEEP", help="Python file with a module attribute `sweep`")
    weights.add_argument("condition", metavar="CONDITION", help="its condition_id, or the beginning of it")
    weights.add_argument("folder", metavar="DIR", help="where to: not there yet, or empty")


def _add_jobs(command: Command) -> None:
    """Sweeps that a cluster executes by itself."""
    submit = command("submit", _submit, "have a cluster execute a sweep, whatever becomes of this machine")
    submit.usage = "memexp submit [options] SWEEP [-- ARGS]"
    submit.add_argument("sweep", metavar="SWEEP", help="Python file with a module attribute `sweep`")
    submit.add_argument("--dir", metavar="DIR", help="the folder that travels (default: this one, or SWEEP's)")
    submit.add_argument("--retry-diverged", action="store_true", help="as that of run")
    logs = command("logs", _logs, "what a submitted sweep has said")
    logs.add_argument("--follow", action="store_true", help="until it is over; exit status 0 if it is complete then")
    logs.add_argument("--probes", action="store_true", help="what probes of one's own printed, from the store")
    logs.add_argument("--sweep", metavar="NAME", help="with --probes: of this sweep only")
    stop = command("stop", _stop, "stop a submitted sweep; submitted again, it goes on")
    for sub in (logs, stop):
        sub.add_argument("job", metavar="JOB", nargs="?", help="as submit names it (default: the only one that runs)")
    for sub in (submit, logs, stop):
        sub.add_argument("--address", help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else here)")


def _add_status(command: Command) -> None:
    status = command("status", _status, "how far each sweep of a store is, and why conditions failed")
    status.add_argument("--watch", action="store_true", help="until no sweep runs, with the loss of each running trial")


def _add_exchange(command: Command) -> None:
    """What goes in and out."""
    few = command("compact", _compact, "export a store to few large files elsewhere, for fast queries")
    few.add_argument("--out", metavar="DIR", help="folder of the export (default: STORE-compacted)")
    few.add_argument("--incremental", action="store_true", help="read only what the export there does not have yet")
    load = command("import", _import, "turn published results into rows of the store")
    load.add_argument("format", metavar="FORMAT", choices=["llm-memory"], help="llm-memory: .npz files of Orhan 2023")
    load.add_argument("folder", metavar="DIR", help="folder with shot-1, shot-2, shot-3 or re-evals, or one of them")


def _add_figures(command: Command) -> None:
    """The commands that draw."""
    report = command("report", _report, "write one HTML page of what a sweep, or the whole store, found")
    report.add_argument("--out", metavar="FILE", help="where to (default: report.html in the store)")
    plot = command("plot", _plot, "draw one figure for a paper, as PNG, SVG or PDF")
    plot.add_argument(
        "kind", metavar="KIND", help="exposures, retention, gained, forgetting, ablation, facts, best or searches"
    )
    plot.add_argument("--x", metavar="COLUMN", help="what is on the horizontal axis (default: that of the kind)")
    plot.add_argument("--y", metavar="MEASURE", help="recognition, recall, qa ... or any column of numbers")
    plot.add_argument("--by", metavar="COLUMN", help="what has colours (default: the model)")
    plot.add_argument("--out", metavar="FILE", help="ends in .png, .svg or .pdf (default: KIND.pdf)")
    plot.add_argument("--width", default="8.5cm", help="of the whole, in centimetres (default: 8.5cm, one column)")
    plot.add_argument("--no-caption", dest="note", action="store_false", help="do not say n and intervals below")
    for sub in (report, plot):
        sub.add_argument("--sweep", metavar="NAME", help="only this sweep, as it was last started")


def _plan(options: argparse.Namespace) -> int:
    from memexp.driver.outlook import Purchase

    purchase = Purchase(options.memory, options.price, options.device)
    plan = load(options.sweep, options.arguments).plan(options.store, purchase)
    if options.json:
        print(plan.json())
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in plan.rows():
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    for line in plan.remarks:
        console.print(line, soft_wrap=True)
    return 0


def _run(options: argparse.Namespace) -> int:
    with said_if_slow(f"reading {options.sweep} ..."):  # which imports what takes a second or two
        sweep = load(options.sweep, options.arguments)
    return sweep.main(options)


def _weights(options: argparse.Namespace) -> int:
    with said_if_slow(f"reading {options.sweep} ..."):
        sweep = load(options.sweep, options.arguments)
    with said_if_slow("making the weights ..."):
        print(sweep.weights(options.condition, options.folder, options.store).absolute())
    return 0


def _submit(options: argparse.Namespace) -> int:
    from memexp.submission.commands import submit

    where = {"store": options.store, "address": options.address, "folder": options.dir}
    given = options.arguments
    return submit(options.sweep, given, lambda path: load(path, given), **where, retry_diverged=options.retry_diverged)


def _logs(options: argparse.Namespace) -> int:
    from memexp.submission.commands import print_log, print_probes

    if options.probes:
        return print_probes(_store(options), options.sweep)
    return print_log(options.job, options.address, options.follow)


def _stop(options: argparse.Namespace) -> int:
    from memexp.submission.commands import stop

    return stop(options.job, options.address)


def _new(options: argparse.Namespace) -> int:
    from memexp.first_steps.new import print_new

    return print_new(options.name)


def _doctor(options: argparse.Namespace) -> int:
    from memexp.first_steps.doctor import print_findings

    return print_findings(options.store, options.ray)


def _status(options: argparse.Namespace) -> int:
    from memexp.report.status import print_status
    from memexp.report.watching import watch

    store = _store(options)
    store.check_no_export()
    return watch(store) if options.watch else print_status(store)


def _query(options: argparse.Namespace) -> int:
    from memexp.errors import SpecError
    from memexp.report.answer import print_query, print_views

    if options.views:
        return print_views(_store(options))
    if options.sql is None:
        raise SpecError("give a SELECT, or the name of a table or view; `memexp query --views` lists views")
    return print_query(_store(options), options.sql, options.format, options.sweep, options.output, options.all_columns)


def _report(options: argparse.Namespace) -> int:
    from memexp.report.page import write_page

    print(write_page(_store(options), options.sweep, options.out))
    return 0


def _plot(options: argparse.Namespace) -> int:
    from memexp.report.plot import draw_file

    named = {name: getattr(options, name) for name in ("sweep", "x", "y", "by", "out", "width", "note")}
    print(draw_file(_store(options), options.kind, **named))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from memexp.report.verify import print_verification

    return print_verification(_store(options))


def _prune(options: argparse.Namespace) -> int:
    from memexp.driver.pruning import prune

    return prune(_store(options), options.remove)


def _compare(options: argparse.Namespace) -> int:
    from memexp.report.compared import print_comparison
    from memexp.store import Store, default_store

    asked = {name: getattr(options, name) for name in ("over", "margin", "level")}
    asked["by"] = options.by.split(",") if options.by else None
    store = Store(options.store or default_store())
    return print_comparison((options.a, options.b), store, options.kind, options.csv, **asked)


def _compact(options: argparse.Namespace) -> int:
    from memexp.exchange.compact import compact

    done = compact(_store(options), options.out, options.incremental)
    state = "" if done.new else " was up to date"
    print(f"{done.target}{state}: {amount(done.rows, 'row')} of {amount(done.sources, 'file')} in {done.files}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from memexp.exchange.llm_memory import import_results
    from memexp.store import Store, default_store

    done = import_results(options.folder, Store(options.store or default_store()))
    new = f"{amount(done.new, 'file')} new, {done.files - done.new} already there"
    print(f"{amount(done.files, 'file')}, {amount(done.items, 'item')}: {new}")
    return 0


def _store(options: argparse.Namespace) -> Any:
    """The store, which has to exist: asking after a misspelt folder is no empty answer."""
    import os

    from memexp.errors import StoreError
    from memexp.store import Store, default_store

    store = Store(options.store or default_store())
    if store.is_local and not os.path.isdir(store.location):
        raise StoreError(f"there is no store at {store.location}; name one with --store")
    return store


if __name__ == "__main__":
    sys.exit(main())
