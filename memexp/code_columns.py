"""Columns of Arrow tables that execute something when they are looked at, refused wherever a file is opened.

A file may name any extension type for a column. Types that are written in Python and registered in this process then
make values of its bytes in their own way: that of ray.data, in every process that has imported Ray Tune, unpickles.

    if (column := code_column(file.schema_arrow)) is not None: refuse(column)
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["code_column"]


def code_column(schema: pa.Schema) -> str | None:
    """What is wrong with the first column that would execute code, None where there is none."""
    for field in schema:
        if kind := _written_in_python(field.type):
            return f"column {field.name!r} is of the type {kind.extension_name}, which executes code"
    return None


def _written_in_python(kind: pa.DataType) -> pa.ExtensionType | None:
    """Such a type, which `kind` is or has in it; those of Arrow itself are not."""
    if isinstance(kind, pa.ExtensionType):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return _written_in_python(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _written_in_python(kind.value_type)
    inner = (_written_in_python(kind.field(number).type) for number in range(kind.num_fields))
    return next((found for found in inner if found is not None), None)
