"""A grid file: Python code that defines the points of a grid.

What is executed are the bytes that go into the record. Only draw.py calls this, in a process of
its own: the code may import, leak and break what it likes.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
import traceback
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError
from engram.grid.grid_constants import Constants, read_constants
from engram.grid.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["GridFile", "adaptive_pairs", "load", "pairs"]

FUNCTION = "configurations"
PACKAGE = str(Path(__file__).parent)
MOST_TRACEBACK = 20_000  # characters


class GridFile(NamedTuple):
    """A grid file that was executed."""

    path: Path
    sha256: str  # of the bytes that were
    configurations: Callable[..., Any]
    adaptive: bool  # configurations(base, finished)
    constants: Constants


def load(path: Path, data: bytes, roots: Sequence[Path]) -> GridFile:
    """Execute a grid file, with its folder and the import roots ahead of the import path.

    Args:
        path: where its modules are looked for, and what tracebacks name.
        data: its content.
        roots: import roots of the repository.

    Raises:
        ConfigError: it has a syntax error, raises, lacks `configurations`, or has a constant that
            does not fit.
    """
    code = _compiled(path, data)
    folders = [str(path.parent), *map(str, roots)]
    sys.path[:] = [*folders, *(folder for folder in sys.path if folder not in folders)]
    sys.argv[:] = [str(path)]
    sys.dont_write_bytecode = True  # it would be taken for uncommitted files
    module = _module(path)
    _guarded(path, "while it was imported", lambda: exec(code, vars(module)))
    names = vars(module)
    constants = read_constants(names, path)
    function, adaptive = _function(names, path)
    return GridFile(path, hashlib.sha256(data).hexdigest(), function, adaptive, constants)


def _compiled(path: Path, data: bytes) -> types.CodeType:
    try:
        return compile(data, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f" ({error.text.strip()!r})" if error.text else ""
        msg = f"{path}, line {error.lineno}: {error.msg}{line}"
    except (ValueError, RecursionError, MemoryError) as error:
        msg = f"{str(path)!r} is not Python source: {error}"
    raise ConfigError(msg)


def _module(path: Path) -> types.ModuleType:
    """An importable module that is a package of its folder too, so that `from . import x` works."""
    name = "".join(letter if letter.isidentifier() else "_" for letter in path.stem)
    if name in sys.modules or name in sys.stdlib_module_names:
        name += "_grid"
    spec = ModuleSpec(name, None, origin=str(path), is_package=True)
    spec.submodule_search_locations = [str(path.parent)]
    module = types.ModuleType(name)
    module.__spec__, module.__file__ = spec, str(path)
    module.__package__, module.__path__ = name, [str(path.parent)]
    sys.modules[name] = module
    return module


def _guarded(
    path: Path, when: str, call: Callable[[], Any], meanwhile: str = "nothing was started"
) -> Any:  # noqa: ANN401
    """Call the user's code; whatever it raises becomes a message with the frames of that code."""
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "raised" if not isinstance(error, SystemExit) else "called sys.exit"
        msg = f"{str(path)!r} {what} {when}: {meanwhile}\n{_traceback(error)}"
        raise ConfigError(msg) from None


def _traceback(error: BaseException) -> str:
    """The traceback without the frames of this module that led to the user's code."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(PACKAGE):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    if len(text) <= MOST_TRACEBACK:
        return text
    half = MOST_TRACEBACK // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def _function(names: dict[str, Any], path: Path) -> tuple[Callable[..., Any], bool]:
    """`configurations`, and whether it asks for what has finished."""
    function = names.get(FUNCTION)
    if function is None:
        own = [name for name, value in names.items() if callable(value)]
        near = difflib.get_close_matches(FUNCTION, own, n=1, cutoff=0.6)
        hint = f"; is it written as {near[0]!r}?" if near else ""
        msg = f"{str(path)!r} has no {FUNCTION}: define {FUNCTION}(base), a generator"
        raise ConfigError(f"{msg} of (parameters, name){hint}")
    if not callable(function):
        msg = f"{path}: {FUNCTION} is {shown(function)}: define a function of `base`"
        raise ConfigError(msg)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        msg = f"{path}: {FUNCTION} is async: write a plain def"
        raise ConfigError(msg)
    return function, _is_adaptive(function, path)


def _is_adaptive(function: Callable[..., Any], path: Path) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C: it will show when it is called
        return False
    if "finished" in signature.parameters or not _takes(signature, 1):
        if _takes(signature, 2):
            return True
        msg = f"{path}: {FUNCTION}{signature} does not fit: write {FUNCTION}(base), or"
        raise ConfigError(f"{msg} {FUNCTION}(base, finished) to choose points by earlier results")
    return False


def _takes(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


def pairs(grid_file: GridFile, base: dict[str, Any]) -> Iterator[tuple[object, object]]:
    """The pairs that `configurations(base)` yields.

    Args:
        grid_file: a file whose function takes `base` alone.
        base: handed over as it is.

    Raises:
        ConfigError: the function raises, or yields something else; the message says which point.
    """
    for index, item in _drawn(grid_file, (base,), "nothing was started"):
        yield _pair(item, index, grid_file.path)


def adaptive_pairs(
    grid_file: GridFile, base: dict[str, Any], finished: list[dict[str, Any]]
) -> Iterator[tuple[object, object] | None]:
    """The pairs that `configurations(base, finished)` yields, and None where it would wait.

    Args:
        grid_file: a file whose function is adaptive.
        base: handed over as it is.
        finished: the same; the caller brings it up to date.

    Raises:
        ConfigError: as `pairs`.
    """
    for index, item in _drawn(grid_file, (base, finished), "nothing more is started"):
        yield None if item is None else _pair(item, index, grid_file.path)


def _drawn(
    grid_file: GridFile, arguments: tuple[Any, ...], meanwhile: str
) -> Iterator[tuple[int, object]]:
    """What the function yields, and how many points it has yielded before."""
    path = grid_file.path

    def guarded(when: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        return _guarded(path, when, call, meanwhile)

    found = guarded(f"in {FUNCTION}", lambda: grid_file.configurations(*arguments))
    if not isinstance(found, Iterable) or isinstance(found, str | dict):
        msg = f"{path}: {FUNCTION} returned {shown(found)}: yield (parameters, name) for each"
        raise ConfigError(f"{msg} point, or return a list of these")
    iterator = guarded(f"in {FUNCTION}", lambda: iter(found))
    end, index = object(), 0
    while True:
        item = guarded(f"while it drew point {index}", lambda: next(iterator, end))
        if item is end:
            return
        yield index, item
        index += item is not None


def _pair(item: object, index: int, path: Path) -> tuple[object, object]:
    point, wanted = f"{path}: point {index}", f"{FUNCTION} yields pairs: (parameters, name)"
    if not isinstance(item, tuple | list):
        msg = f"{point} is {shown(item)}, of type {type(item).__name__}: {wanted}"
        raise ConfigError(msg)
    if len(item) != 2:
        msg = f"{point} is a {type(item).__name__} of {len(item)}, {shown(item)}: {wanted}"
        raise ConfigError(msg)
    parameters, name = item
    if isinstance(parameters, str) and isinstance(name, dict):
        msg = f"{point} names {shown(parameters)} first and its parameters second: {wanted}"
        raise ConfigError(msg)
    return parameters, name
