"""Which columns files of different ages have together, as DuckDB's union_by_name has them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from memexp.store.medium import explained

__all__ = ["unified", "with_columns"]


def unified(doing: str, schemas: Iterable[pa.Schema], exact: bool = False) -> pa.Schema:
    """The columns of tables with these ones, each as wide as the widest.

    Args:
        doing: what an error says could not be done.
        schemas: of each table; equal ones are looked at once.
        exact: whether names that differ in case are two columns, which they are not to SQL.

    Raises:
        StoreError: one has a list where another has a single value.
    """
    different: list[pa.Schema] = []
    for schema in schemas:
        if not any(schema.equals(known) for known in different):
            different.append(schema)
    names: dict[str, str] = {}
    types: dict[str, pa.DataType] = {}
    for field in (field for schema in different for field in schema):
        name = field.name if exact else names.setdefault(field.name.lower(), field.name)
        with explained(f"{doing}: column {field.name!r}"):
            types[name] = _wider(types.get(name, pa.null()), field.type)
    return pa.schema(list(types.items()))


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that both can be cast to. Raises ArrowTypeError for a list against a scalar."""
    pair = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other)]
    numbers = [kind for kind in pair if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    if len(numbers) == 1 and any(map(pa.types.is_boolean, pair)):
        return numbers[0]
    try:
        schemas = [pa.schema([("column", kind)]) for kind in pair]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        if any(pa.types.is_nested(kind) for kind in pair):
            raise
        return pa.string()


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    own = {name.lower(): name for name in table.column_names}
    found = [own.get(field.name.lower()) for field in schema]
    columns = [
        pa.nulls(table.num_rows, field.type) if name is None else table[name].cast(field.type, safe=False)
        for name, field in zip(found, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)
