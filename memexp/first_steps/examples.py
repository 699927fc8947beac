"""The end of every ``--help``: an example of the command, and what is not to be seen from its options."""

from __future__ import annotations

__all__ = ["ARGUMENTS", "BEGIN", "ending"]

ARGUMENTS = """ARGS, which follow --, are the sweep script's own arguments: it finds them in
sys.argv, and memexp reads none of them."""
"""Of the commands that take a sweep."""

BEGIN = f"""begin with:
  memexp doctor                        is everything here that a sweep needs?
  memexp new mine                      writes mine.py, a sweep with comments, and mine.csv
  memexp run mine.py --local           runs it, in half a minute
  memexp COMMAND --help                options, and an example, of each command

with arguments: memexp run SWEEP -- ARGS
{ARGUMENTS}"""

_EXAMPLES = {
    "plan": "memexp plan sweeps/quickstart.py\n  memexp plan sweeps/facts.py -- --published --methods full",
    "run": "memexp run sweeps/quickstart.py\n"
    "  memexp run sweeps/recognition_recall.py --store s3://bucket/here -- --data ~/llm-memory --models gpt2",
    "submit": "memexp submit sweeps/quickstart.py --store s3://bucket/here",
    "logs": "memexp logs --follow",
    "stop": "memexp stop quickstart-0a1b2c",
    "weights": "memexp weights sweeps/quickstart.py 0a1b2c3d weights && ls weights",
    "compare": "memexp compare results other-results --kind recognition --by model,lr",
    "status": "memexp status --watch",
    "query": "memexp query recognition_by_condition --sweep quickstart\n"
    '  memexp query "SELECT model, avg(f1) FROM qa GROUP BY ALL" --output f1.csv',
    "prune": "memexp prune --store results\n  memexp prune --store results --remove",
    "report": "memexp report --sweep quickstart --out quickstart.html",
    "plot": "memexp plot retention --by model --out retention.pdf --width 12cm",
    "verify": "memexp verify --store s3://bucket/here",
    "compact": "memexp compact --incremental --out results-compacted",
    "import": "memexp import llm-memory ~/downloads/llm-memory",
    "new": "memexp new mine && memexp run mine.py --local",
    "doctor": "memexp doctor --store s3://bucket/here",
}


def ending(command: str, takes_sweep: bool) -> str | None:
    """What ``memexp COMMAND --help`` ends with; None of a command that has no example yet."""
    if command not in _EXAMPLES:
        return None
    return f"{ARGUMENTS if takes_sweep else ''}\n\nexample:\n  {_EXAMPLES[command]}".lstrip()
