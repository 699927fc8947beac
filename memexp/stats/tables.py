"""Columns of Arrow, pandas and polars tables as numbers, and as codes that tell rows apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memexp.errors import SpecError

__all__ = [
    "SEEDS",
    "TWINS",
    "Codes",
    "Floats",
    "Names",
    "Units",
    "arrow",
    "as_array",
    "codes",
    "column",
    "dense",
    "names_of",
    "numbers",
    "rows_of_each",
    "units_of",
    "unstudied",
    "values_of",
]

Codes = NDArray[np.int64]
"""Numbers from 0 that are equal where what they stand for is, shape (rows,)."""
Floats = NDArray[np.float64]
Names = str | Sequence[str] | None
"""A column, or several that tell things apart together; None for the usual ones, () for none."""

SEEDS = ("seed", "init_seed", "lora_seed", "pretrain_seed")
TWINS = "counterbalanced"
"""Where it is True the study list is the foils of the others: the items, which are pairs, are the same."""

SPARSE = 8
"""From that many possible numbers a row on, codes are looked up in a hash table instead of a plain one."""
LONGEST = 2**31 - 1
"""Bytes of the texts of one piece of a column of strings."""

_TWO = re.compile(r"\s*(\w+)\s*(<=|>=|<|>|==|-)\s*(\w+)\s*")
_OPERATORS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "-": np.subtract,
}


@dataclass(frozen=True)
class Units:
    """Which item, under which seed, of which list each row is about; shapes (rows,), None where it is not known."""

    items: Codes
    """Different between lists."""
    seeds: Codes | None
    lists: Codes | None

    def take(self, rows: NDArray[Any]) -> Units:
        """Those of some rows."""
        seeds, lists = (None if part is None else part[rows] for part in (self.seeds, self.lists))
        return Units(self.items[rows], seeds, lists)


def arrow(table: Any) -> pa.Table:
    """Any table as Arrow's. Raises SpecError for what is none."""
    if isinstance(table, pa.Table):
        return table
    if not (isinstance(table, dict) or hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__")):
        hint = "; collect() it first" if hasattr(table, "collect") else ""
        raise SpecError(f"table: takes an Arrow, pandas or polars table, not {type(table).__name__}{hint}")
    found = pa.table(table)
    # What polars gives: rows of such columns cannot be taken.
    views = {field.name: pa.large_string() for field in found.schema if pa.types.is_string_view(field.type)}
    fields = [pa.field(field.name, views.get(field.name, field.type)) for field in found.schema]
    return found.cast(pa.schema(fields)) if views else found


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Raises SpecError with the columns that hold something."""
    if name not in table.column_names:
        there = [one for one in table.column_names if table.column(one).null_count < table.num_rows]
        raise SpecError(f"there is no column {name!r}; there are {', '.join(there) or 'none'}")
    return table.column(name)


def values_of(table: pa.Table, value: Any) -> Floats:
    """A column, two with an operator between them, or an array, as numbers: NaN where a row has none."""
    if not isinstance(value, str):
        found = numbers(value, "value")
        if len(found) != table.num_rows:
            raise SpecError(f"value: has {len(found)} entries for {table.num_rows} rows")
        return found
    two = _TWO.fullmatch(value)
    if value in table.column_names or two is None:
        return numbers(column(table, value), value)
    left, right = (numbers(column(table, two[part]), two[part]) for part in (1, 3))
    found = _OPERATORS[two[2]](left, right).astype(np.float64)
    found[np.isnan(left) | np.isnan(right)] = np.nan
    return found


def numbers(data: Any, name: str) -> Floats:
    """Numbers or booleans, NULL as NaN. Raises SpecError, which calls them `name`, for anything else."""
    array = as_array(data)
    if not _is_number(array.type):
        raise SpecError(f"{name}: holds {array.type}, which has no mean")
    found: Floats = pc.cast(whole(array), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def unstudied(rows: pa.Table, exposures: str) -> NDArray[np.bool_]:
    """Which rows are of a model that has studied nothing: no exposure (of the column `exposures`), no part of one, not
    again after forgetting, and no second list."""
    found: NDArray[np.bool_] = numbers(column(rows, exposures), exposures) == 0
    for name in ("further_batches", "restudy_exposures", "then_exposures"):
        if name in rows.column_names:
            found = found & ~(numbers(rows[name], name) > 0)
    return found


def codes(columns: Iterable[Any], rows: int) -> Codes:
    """What tells rows apart by all of `columns` together; NULL is a value."""
    found = np.zeros(rows, np.int64)
    for data in columns:
        array = as_array(data)
        if len(array) != rows:
            raise SpecError(f"columns differ in length: {len(array)} and {rows}")
        indices = _indices(whole(array))
        found, _ = dense(found * (indices.max(initial=-1) + 2) + indices + 1)
    return found


def _indices(array: pa.Array) -> Codes:
    """Numbers that are equal where values are, from 0; -1 for NULL."""
    if pa.types.is_signed_integer(array.type) and array.null_count == 0 and len(array):
        numbers: Codes = array.to_numpy().astype(np.int64)
        least, most = int(numbers.min()), int(numbers.max())
        if most - least < SPARSE * len(numbers):  # as they are: no table of those there are
            return numbers - least
    found: Codes = array.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def whole(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """In one piece."""
    if isinstance(array, pa.Array):
        return array
    if pa.types.is_string(array.type) and array.nbytes > LONGEST:
        array = array.cast(pa.large_string())
    return array.combine_chunks()


def dense(numbers: Codes) -> tuple[Codes, Codes]:
    """Codes without gaps for numbers that are not negative, in no promised order, and what each code stands for."""
    width = int(numbers.max(initial=0)) + 1
    if width > SPARSE * len(numbers) + SPARSE:
        encoded = pa.array(numbers).dictionary_encode()
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_numpy()
    there = np.flatnonzero(np.bincount(numbers, minlength=width))
    code = np.zeros(width, np.int64)
    code[there] = np.arange(len(there))
    return code[numbers], there


def rows_of_each(codes: Codes, count: int) -> list[Codes]:
    """The rows that have each code, from 0 to `count`; negative ones are of no account."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(count + 1)))[1:-1]


def units_of(table: pa.Table, items: Names, seeds: Names, lists: Names, apart: Sequence[str] = ()) -> Units:
    """The units of a table's rows. By default of columns that memexp's rows have, without those in `apart`."""
    named = names_of(table, items, seeds, lists, apart)
    rows = table.num_rows
    of_list, of_item, of_seed = ([column(table, name) for name in named[part]] for part in ("lists", "items", "seeds"))
    found = codes([*of_list, *of_item], rows) if of_item else np.arange(rows)
    return Units(found, codes(of_seed, rows) if of_seed else None, codes(of_list, rows) if of_list else None)


def names_of(
    table: pa.Table, items: Names, seeds: Names, lists: Names, apart: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Which columns tell items, seeds and lists. Columns that are all NULL tell nothing."""
    usual = {"items": ["task", "item"], "seeds": list(SEEDS), "lists": ["replication", *_corpus(table)]}
    found = {}
    for part, given in (("items", items), ("seeds", seeds), ("lists", lists)):
        if given is None:
            given = [name for name in usual[part] if name in table.column_names and name not in apart]
        else:
            given = [given] if isinstance(given, str) else list(given)
        found[part] = [name for name in given if column(table, name).null_count < table.num_rows]
    return found


def _corpus(table: pa.Table) -> list[str]:
    """The column that tells study lists apart."""
    have = table.column_names
    if TWINS in have and pc.any(pc.equal(table.column(TWINS), True)).as_py():
        return []
    known = [name for name in ("corpus_id", "corpus") if name in have and not table.column(name).null_count]
    return known[:1]


def as_array(data: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return data
    if hasattr(data, "__arrow_c_stream__"):
        return pa.chunked_array(data)
    try:
        return pa.array(np.asarray(data) if not isinstance(data, list | tuple) else data, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise SpecError(f"a column must be a list or an array of one dimension: {error}") from error


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)
