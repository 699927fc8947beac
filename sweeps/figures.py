r"""The figures of Orhan 2023 (arXiv 2303.17557) and of Zhang, Li & Wu 2024 (arXiv 2409.14057), from any store.

    python sweeps/figures.py --store results --out figures
    python sweeps/figures.py --store results --papers orhan --format pdf --width 17

Orhan 2023: recognition by experiment and model after one exposure, at the best learning rate and batch size of each
(chosen in-sample, as published), with the published means as crosses where they are known; retention. Zhang 2024:
answers by test, with chance; by forgetting layer, with both controls. What a store has nothing of is left out.

The published means are of 4 replications, computed from the author's files (github.com/eminorhan/llm-memory), which
``memexp import llm-memory DIR`` makes results of as well.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from memexp.errors import MemexpError
from memexp.figures.block_profiles import ablation_figure, forgetting_figure
from memexp.figures.fact_scores import fact_figure
from memexp.figures.figure import Figure
from memexp.figures.gathered import Gathered, Result, gathered
from memexp.figures.image_files import save
from memexp.figures.published import experiments_figure, retention_beside
from memexp.store import Store, default_store

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--store", help="folder, s3://... or gs://... (default: MEMEXP_STORE or results)")
parser.add_argument("--sweep", help="only this sweep, as it was last started")
parser.add_argument("--papers", nargs="+", choices=("orhan", "zhang"), default=("orhan", "zhang"))
parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the files")
parser.add_argument("--format", choices=("png", "svg", "pdf"), default="pdf")
parser.add_argument("--width", type=float, default=17, help="centimetres")


def orhan(found: Gathered) -> Iterator[tuple[str, Figure | None]]:
    """Sections 2 and 3, and section 4."""
    if "recognition" in found.kinds:
        measure = found.measures("recognition")["recognition"]
        yield "orhan-recognition", experiments_figure(found, measure)
        yield "orhan-retention", retention_beside(found, measure)


def zhang(found: Gathered) -> Iterator[tuple[str, Figure | None]]:
    """Section 3, and sections 4 and 5."""
    for kind in (kind for kind in ("qa", "choice", "ablation") if kind in found.kinds):
        measure = found.measures(kind)[kind]
        yield f"zhang-tests-{kind}", fact_figure(found.only(_nothing_reset), kind, measure)
        yield f"zhang-forgetting-{kind}", forgetting_figure(found, kind, measure)
        yield f"zhang-ablation-{kind}", ablation_figure(found, kind, measure)


def _nothing_reset(result: Result) -> bool:
    return "forget_side" not in result.settings


def main() -> int:
    """Write the files and say which."""
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = 0
    with gathered(Store(args.store or default_store()), args.sweep) as found:
        for paper in args.papers:
            for name, figure in (orhan if paper == "orhan" else zhang)(found):
                if figure is not None:
                    path = args.out / f"{name}.{args.format}"
                    save(figure, path, args.width)
                    print(f"{path}: {figure.caption}")
                    drawn += 1
    if not drawn:
        print("nothing to draw: the store has no results that these figures show")
    return 0 if drawn else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except MemexpError as error:
        raise SystemExit(f"figures.py: {error}") from error
