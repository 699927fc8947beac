"""Rows of an answer as CSV, JSON or Parquet.

    csv_text(["model", "exact"], [("gpt2", None)])     # "model,exact\\ngpt2,\\n"

| value | CSV | JSON | Parquet |
|---|---|---|---|
| NULL | nothing; an empty text is ``""`` | null | NULL |
| a list or struct | JSON | array, object | list, struct |
| a moment | ISO 8601, with its offset | the same, a string | timestamp |
| NaN, infinity | nan, inf | null: JSON has none | as they are |
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.errors import StoreError, one_line
from memexp.store.sql_text import told_apart

__all__ = ["csv_text", "json_text", "parquet_bytes", "plain"]


def csv_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A line of names, a line for each row; none is empty, since readers pass over those."""
    lines = (",".join(map(_csv_cell, row)) or EMPTY for row in (names, *rows))
    return "".join(f"{line}\n" for line in lines)


EMPTY = '""'


def _csv_cell(value: Any) -> str:
    """NULL is nothing, and nothing else is."""
    value = plain(value)
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | dict) else str(value)
    if text and not any(mark in text for mark in ',"\r\n'):
        return text
    inside = text.replace('"', '""')
    return f'"{inside}"'


def json_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An array of objects, one a line; the second column of a name `a` is ``a_1``."""
    keys = told_apart(names)
    lines = (
        json.dumps({key: _finite(plain(value)) for key, value in zip(keys, row, strict=True)}, ensure_ascii=False)
        for row in rows
    )
    inside = ",\n".join(lines)
    return f"[\n{inside}\n]\n" if inside else "[]\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return {key: _finite(one) for key, one in value.items()} if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """A value of DuckDB's as JSON could have it, but for what is not finite."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value)


def parquet_bytes(table: pa.Table) -> bytes:
    """One Parquet file. Raises StoreError for a type that it does not have."""
    page = io.BytesIO()
    try:
        pq.write_table(_storable(table), page)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise StoreError(f"Parquet cannot hold this: {one_line(error, 160)}; cast it in the SELECT") from error
    return page.getvalue()


def _storable(table: pa.Table) -> pa.Table:
    """With sums of integers as integers, where they are small enough: DuckDB's have 128 bits."""
    for at, field in enumerate(table.schema):
        if pa.types.is_decimal128(field.type) and field.type.precision == 38 and field.type.scale == 0:
            try:
                table = table.set_column(at, field.name, table.column(at).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue
        elif pa.types.is_null(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
    return table
