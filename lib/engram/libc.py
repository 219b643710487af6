"""Inside a warm interpreter: functions of the C library, without the Python front of ctypes.

That front would have to be hidden from the script again, and costs more than all of this.
"""

from __future__ import annotations

import _ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["address", "call"]

_word: Any = type("_word", (_ctypes._SimpleCData,), {"_type_": "P"})
"""An argument as wide as a pointer."""


def address(name: str) -> int:
    """Return where a function lies.

    Raises:
        OSError: this C library has none of that name.
    """
    return _ctypes.dlsym(_ctypes.dlopen(None, 0), name)  # type: ignore[arg-type]


def call(name: str, *arguments: int) -> int:
    """Call a function of numbers and pointers.

    Returns:
        What it returned, as a C int.

    Raises:
        OSError: this C library has none of that name.
    """
    return int(_ctypes.call_function(address(name), tuple(_word(value) for value in arguments)))
