"""What a table says, apart from how its file is packed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api import types

if TYPE_CHECKING:
    from collections.abc import Callable


def content_hash(table: pd.DataFrame) -> str:
    """Hash the sorted rows and values of a table.

    Equal for equal content, whatever the order of rows and columns, the width of integers, the
    kind of missing value, and the compression of the file the table came from. A named index counts
    as a column, an unnamed one (row numbers) does not count.

    Args:
        table: columns of whole numbers, floats, booleans or strings.

    Returns:
        A sha256 in hexadecimal.

    Raises:
        TypeError: a column holds something else.
    """
    named = table.index.name is not None
    columns = table.reset_index() if named else table.reset_index(drop=True)
    columns = columns[sorted(columns.columns)]
    texts = [_texts(columns[name]) for name in columns]
    digest = hashlib.sha256(json.dumps(list(columns.columns)).encode())
    for row in sorted(map(json.dumps, zip(*texts, strict=True))):
        digest.update(f"\n{row}".encode())
    return digest.hexdigest()


def _texts(column: pd.Series) -> list[str | None]:
    """Write each value as text that no value of another kind has; missing is None."""
    write = _writer(column)
    missing = column.isna()
    return [
        None if gone else write(value)
        for value, gone in zip(column.tolist(), missing.tolist(), strict=True)
    ]


def _writer(column: pd.Series) -> Callable[[Any], str]:
    if types.is_bool_dtype(column.dtype):
        return lambda value: f"bool {value}"
    if types.is_integer_dtype(column.dtype):
        return lambda value: f"int {value}"
    if types.is_float_dtype(column.dtype):
        # The exact value, not a rounded decimal; adding 0 makes -0 and 0 one.
        return lambda value: f"float {(value + 0.0).hex()}"
    if types.infer_dtype(column, skipna=True) in ("string", "categorical", "empty"):
        return lambda value: f"str {value}"
    msg = f"column {column.name!r} has dtype {column.dtype}, which has no content hash"
    raise TypeError(msg)
