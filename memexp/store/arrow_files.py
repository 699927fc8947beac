"""The files of a bucket for Arrow, which can read them in this way and do nothing else to them.

filesystem = pyarrow.fs.PyFileSystem(ArrowFiles(bucket.read, "bucket/results"))

A result file is small: it is fetched whole, in one request, where Arrow's own file system asks for its size, its end
and its columns one by one. What was fetched is kept for a while: first columns are looked at, then rows. A file that is
not there raises FileNotFoundError, and object storage that does not answer is waited for as everywhere.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType

__all__ = ["ArrowFiles"]

KEPT = 256 << 20
"""Bytes of files that are kept."""


class ArrowFiles(FileSystemHandler):  # type: ignore[misc] # untyped
    """What `pyarrow.fs.PyFileSystem` asks."""

    def __init__(self, read: Callable[[str], bytes], base: str) -> None:
        """`read`: the bytes of a file by its key; `base`: what paths have before keys."""
        self.read, self.base = read, base
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get_type_name(self) -> str:
        return "memexp"

    def normalize_path(self, path: str) -> str:
        return path

    def open_input_file(self, path: str) -> pa.BufferReader:
        return pa.BufferReader(self._fetched(path))

    open_input_stream = open_input_file

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [FileInfo(path, FileType.File, size=len(self._fetched(path))) for path in paths]

    def _fetched(self, path: str) -> bytes:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        data = self.read(path.removeprefix(f"{self.base}/"))
        with self._lock:
            if path not in self._kept:
                self._kept[path] = data
                self._size += len(data)
            while self._size > KEPT:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)
        return data

    def _refused(self, *arguments: Any) -> NoReturn:
        raise NotImplementedError("results are read only")

    def get_file_info_selector(self, selector: FileSelector) -> NoReturn:
        self._refused()

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refused
    move = copy_file = open_output_stream = open_append_stream = _refused
