"""A Parquet file with the checksum of all its bytes in its footer, so that a changed bit anywhere is noticed.

data = sealed(table)
check_seal(data)          # raises ValueError where a bit has changed

Pages have checksums of their own; names of columns, counts and statistics have none. Files of before have no seal.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["SEAL", "check_seal", "close_to_seal", "seal_file", "sealed", "to_be_sealed"]

SEAL = b"memexp.sha256"
"""Key in the metadata of the file."""
_BLANK = b"0" * 64
"""What stands in the place of the checksum while it is made."""
_BEFORE = SEAL + b"\x18\x40"
"""What stands before it, as Thrift writes a key and the length of a value."""


def sealed(table: pa.Table) -> bytes:
    """The bytes of a file with `table`. Equal tables, metadata included, give equal bytes."""
    # Copied rows bring the seal of the file that they were in.
    told = {key: value for key, value in (table.schema.metadata or {}).items() if key != SEAL}
    # Chunks with dictionaries of their own would show in the bytes.
    table = table.replace_schema_metadata(told or None).combine_chunks()
    sink = pa.BufferOutputStream()
    writer = to_be_sealed(sink, table.schema)
    writer.write_table(table)
    close_to_seal(writer)
    data: bytes = sink.getvalue().to_pybytes()
    before, _, after = data.rpartition(_BEFORE + _BLANK)
    return before + _BEFORE + hashlib.sha256(data).hexdigest().encode() + after


def to_be_sealed(where: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer as results are written with; to be closed with `close_to_seal`."""
    return pq.ParquetWriter(where, schema, compression="zstd", use_dictionary=True, write_page_checksum=True)


def close_to_seal(writer: pq.ParquetWriter) -> None:
    """Close `writer`, with a place for the seal."""
    writer.add_key_value_metadata({SEAL: _BLANK})
    writer.close()


def seal_file(path: Path) -> None:
    """Seal a file that `close_to_seal` has left and that nobody else has seen yet."""
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(data.rindex(_BEFORE + _BLANK) + len(_BEFORE))
        file.write(hashlib.sha256(data).hexdigest().encode())


def check_seal(data: bytes) -> None:
    """Raise ValueError where the bytes of a sealed file are not those that were sealed."""
    at = data.rfind(_BEFORE)
    if at < 0:
        return
    at += len(_BEFORE)
    digest = hashlib.sha256(data[:at])
    digest.update(_BLANK)
    digest.update(data[at + len(_BLANK) :])
    if digest.hexdigest().encode() != data[at : at + len(_BLANK)]:
        raise ValueError("its bytes are not those that were written")
