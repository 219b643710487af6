"""points.parquet, written by pyarrow in a process of its own that ends at once.

dispatcher --fork--> writer

pyarrow starts threads, and takes longer to import than many a point to run. The dispatcher forks,
so it stays small and free of threads, and goes on meanwhile. A fork has the rows already.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from engram.errors import StoreError
from engram.files import write_atomic
from engram.grid import forked
from engram.grid.pace import Pace
from engram.grid.table_text import cell, encoded
from engram.record import store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = ["DOUBLE", "INTEGER", "TEXT", "Column", "ParquetFile", "encode", "installed"]

# Types of columns as Arrow calls them; there is bool too.
INTEGER, DOUBLE, TEXT = "int64", "double", "string"
LEAST_S = 2.0  # between two times that the file is written
LAST_BYTES = 4000  # of what a writer printed
EXPLAINED = 3  # exit code of a writer that has said all there is to say


class Column(NamedTuple):
    """One column.

    Attributes:
        name: its header.
        kind: INTEGER, DOUBLE or TEXT, where there are no values or they fit it; None for what the
            values are.
        values: of any types; None is missing.
    """

    name: str
    kind: str | None
    values: Sequence[Any]


def installed() -> bool:
    """Whether there is a pyarrow to write with."""
    return importlib.util.find_spec("pyarrow") is not None


class ParquetFile:
    """The file, and the process that writes it: one at a time. Without pyarrow there is neither."""

    def __init__(self, path: Path, columns: Callable[[], Iterable[Column]]) -> None:
        """Begin; nothing is touched yet.

        Args:
            path: of the file.
            columns: what it holds; called in the process that writes.
        """
        self.path = path
        self._possible = installed()
        self.stale = self._possible
        self.problem: StoreError | None = None  # why the file is not current
        self._columns = columns
        self._pace = Pace(LEAST_S)
        self._pid: int | None = None
        self._said = -1  # the file in memory that it prints to
        self._began = 0.0

    def touch(self) -> None:
        """Remember that rows have changed."""
        self.stale = self._possible

    def keep(self, *, force: bool = False) -> None:
        """Begin to write the file if it is due, without waiting for that.

        Args:
            force: whether it is due as soon as it is not current; waits for a process that writes.
        """
        self._reap(wait=force)
        if self.stale and self._pid is None and (force or self._pace.may()):
            try:
                self._start()
            except OSError as error:
                self._over(store_error(self.path, error))

    def wait(self) -> None:
        """Wait for the process that writes, if there is one."""
        self._reap(wait=True)

    def _start(self) -> None:
        """Fork.

        Raises:
            OSError: no more processes, memory or descriptors.
        """
        self._began = time.monotonic()
        said, parent = os.memfd_create("engram-parquet"), os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(said)
            raise
        if pid == 0:
            _write(self.path, self._columns, said, parent)
        self._pid, self._said, self.stale = pid, said, False

    def _reap(self, *, wait: bool) -> None:
        """Take note of the end of the process."""
        if self._pid is None:
            return
        try:
            pid, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
        except BaseException:  # Ctrl-C, a signal
            os.kill(self._pid, signal.SIGKILL)
            self._reap(wait=True)
            raise
        if pid:
            said = self._last_words()
            os.close(self._said)
            self._pid = None
            self._over(self._failure(status, said) if status else None)

    def _last_words(self) -> str:
        size = os.fstat(self._said).st_size
        data = os.pread(self._said, LAST_BYTES, max(0, size - LAST_BYTES))
        return data.decode("utf-8", "replace").strip()

    def _failure(self, status: int, said: str) -> StoreError:
        if os.waitstatus_to_exitcode(status) == EXPLAINED:
            return StoreError(said)
        how = f"the process that writes it ended {forked.how_ended(status)}"
        advice = "points.csv has the same rows"
        return StoreError(f"cannot write {str(self.path)!r}: {how}; {advice}\n{said}".rstrip())

    def _over(self, problem: StoreError | None) -> None:
        """Rest; what could not be written is tried again then."""
        self.problem = problem
        self.stale = self.stale or problem is not None
        self._pace.rest(time.monotonic() - self._began)


def _write(path: Path, columns: Callable[[], Iterable[Column]], said: int, parent: int) -> NoReturn:
    """Be the process that writes the file, to its end."""
    code = 1
    try:
        os.setsid()  # a Ctrl-C in the terminal is for the dispatcher
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((null, 0), (said, 1), (said, 2)):
            os.dup2(descriptor, number)
        forked.settle(parent)
        gc.freeze()  # looking at the dispatcher's objects would copy them
        os.environ["OMP_NUM_THREADS"] = "1"
        sys.meta_path.insert(0, WithoutPandas())
        write_atomic(path, encode(columns()))
        code = 0
    except OSError as error:
        os.write(2, encoded(str(store_error(path, error))))
        code = EXPLAINED
    except BaseException:
        import traceback

        os.write(2, encoded(traceback.format_exc()))
    finally:
        os._exit(code)


class WithoutPandas:
    """Finds no pandas: pyarrow would import it where it is, which takes longer than all else."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; leave other modules to others.

        Raises:
            ModuleNotFoundError: it is pandas.
        """
        if name == "pandas":
            raise ModuleNotFoundError(name)


def encode(columns: Iterable[Column]) -> bytes:
    """The bytes of a Parquet file.

    Args:
        columns: all of the same length.
    """
    import pyarrow as pa
    import pyarrow.parquet

    names, arrays = [], []
    for column in columns:
        names.append(encoded(column.name).decode())
        arrays.append(_array(pa, column))
    data = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(arrays, names=names), data)
    return bytes(data.getvalue())


def _array(pa: Any, column: Column) -> Any:  # noqa: ANN401 - an untyped library
    """A column for pyarrow; values that no other type holds as they are become text."""
    kind = _kind(column)
    if kind != TEXT:
        try:
            return pa.array(column.values, kind)
        except (pa.ArrowInvalid, OverflowError):  # integers that are too large
            pass
    texts = [None if value is None else cell(value) for value in column.values]
    return pa.array([text and encoded(text).decode() for text in texts], TEXT)


def _kind(column: Column) -> str:
    """The type that holds all values as they are; TEXT where there is none but text."""
    found = {type(value) for value in column.values if value is not None}
    if not found:
        return column.kind or TEXT
    if found == {bool}:
        return "bool"
    if found == {int}:
        return DOUBLE if column.kind == DOUBLE else INTEGER
    return DOUBLE if found <= {int, float} else TEXT
