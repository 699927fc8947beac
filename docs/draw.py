"""Draw the picture of README.md and of docs/ again: `make pictures`.

    python docs/draw.py                       # from docs/pictures/quickstart-*.parquet
    python docs/draw.py --store results       # from what the quickstart measured there, which is kept

The picture is what `memexp report` shows of `sweeps/quickstart.py`. Beside it is what it was drawn from, numbers and
Vega-Lite specification: a test draws that again and compares, without rendering anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import textwrap
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.figures import style
from memexp.figures.gathered import gathered_rows
from memexp.figures.own import plotted
from memexp.results import open_store

PICTURES = Path(__file__).parent / "pictures"
PICTURE = PICTURES / "quickstart.png"
SPECIFICATION = PICTURES / "quickstart.vl.json"
KINDS = ("recognition", "recall")
NUMBERS = ("target_nll", "foil_nll", "exact", "completion_rouge2")
"""Columns of items that are kept; texts would be ten times as much."""
WIDTH, HEIGHT = 380, 180
"""Pixels of a panel, of which two are side by side."""
SCALE = 1.3
"""Pixels of the file for one of these."""
CHUNK = b"tEXt"
KEY = b"specification\0"


def main() -> int:
    """Draw, and say what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="take the numbers from the sweep quickstart of this store")
    options = parser.parse_args()
    if options.store:
        for kind in KINDS:
            keep(kind, open_store(options.store).results(kind, "quickstart", copies=True).to_arrow())
    text = written(specification())
    SPECIFICATION.write_text(text, encoding="utf-8")
    PICTURE.write_bytes(rendered(text))
    print(PICTURE)
    return 0


def keep(kind: str, rows: pa.Table) -> None:
    """Put rows of the quickstart beside the picture."""
    settings = rows.column_names[: rows.column_names.index("item") + 1]
    chosen = rows.select([*settings, *(name for name in NUMBERS if name in rows.column_names)])
    ordered = chosen.sort_by([(name, "ascending") for name in ("condition_id", "item")])
    pq.write_table(ordered, PICTURES / f"quickstart-{kind}.parquet", compression="zstd", compression_level=19)


def specification() -> dict[str, Any]:
    """What the code of today makes of these rows: a figure for each kind, one below the other."""
    found: dict[str, Any] = {"vconcat": [], "datasets": {}, "background": "white"}
    for kind in KINDS:
        with gathered_rows(kind, pq.read_table(PICTURES / f"quickstart-{kind}.parquet")) as rows:
            figure = plotted(rows, "exposures", y=kind)
        spec = figure.chart(WIDTH, HEIGHT, letters=0).to_dict()
        found["datasets"] |= {f"{kind}-{name}": values for name, values in spec.pop("datasets").items()}
        found |= {name: spec.pop(name) for name in ("$schema", "config")}
        title = {"text": figure.title, "subtitle": textwrap.wrap(figure.note, style.letters(2 * WIDTH, 11))}
        found["vconcat"].append(_renamed(spec, kind) | {"title": title | {"subtitleColor": style.INK}})
    found["config"] = style.config(ink=style.INK, font="sans-serif")
    return found


def _renamed(part: Any, kind: str) -> Any:
    """A specification whose data have names of their own."""
    if isinstance(part, list):
        return [_renamed(one, kind) for one in part]
    if not isinstance(part, dict):
        return part
    made = {name: _renamed(value, kind) for name, value in part.items()}
    if set(part.get("data", ())) == {"name"}:
        made["data"] = {"name": f"{kind}-{part['data']['name']}"}
    return made


def written(spec: dict[str, Any]) -> str:
    """A specification as text; of its numbers six digits, since the last ones differ between processors."""
    return json.dumps(_rounded(spec), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _rounded(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _rounded(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_rounded(value) for value in part]
    return float(f"{part:.6g}") if isinstance(part, float) else part


def rendered(text: str) -> bytes:
    """PNG of a specification, which says of which."""
    import vl_convert

    png = bytes(vl_convert.vegalite_to_png(text, scale=SCALE))
    body = CHUNK + KEY + digest(text).encode()
    chunk = struct.pack(">I", len(body) - len(CHUNK)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + chunk + png[-12:]  # before the last one, IEND


def drawn_from(png: bytes) -> str:
    """The digest of the specification that a PNG was made of; empty where it does not say."""
    return png.partition(CHUNK + KEY)[2][:64].decode("ascii", "replace")


def digest(text: str) -> str:
    """Of the text of a specification."""
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
