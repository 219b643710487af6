"""Is this file an experiment script? Its syntax tree tells, without running a line."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from engram.errors import ScriptError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["PARAMETERS", "check_script"]

PARAMETERS = ("input_dir", "output_dir", "params_file", "wandb_config", "resume_from")
SIGNATURE = "main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None)"


def check_script(path: Path, text: bytes | None = None) -> None:
    """Refuse a script that could not be run.

    A main that is imported, assigned or decorated is accepted as it is: what it takes shows only
    when it is called.

    Args:
        path: the script, read unless `text` is given, and named in messages.
        text: its content, where that is known already.

    Raises:
        ScriptError: it cannot be read, has a syntax error (with its line), has no main, or a main
            that does not take the five arguments by keyword.
    """
    tree = _parse(path, _read(path) if text is None else text)
    found = list(_definitions(tree.body))
    if not found:
        msg = f"{str(path)!r} has no main: define {SIGNATURE} at its top level{_elsewhere(tree)}"
        raise ScriptError(msg)
    main = found[-1]
    if isinstance(main, ast.AsyncFunctionDef):
        _refuse(path, main, "is async: engram calls it and waits; write a plain def")
    if isinstance(main, ast.FunctionDef) and not main.decorator_list:
        _check_signature(path, main)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read the script {str(path)!r}: {error.strerror}: check the key 'script'"
        raise ScriptError(msg) from error


def _parse(path: Path, text: bytes) -> ast.Module:
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        line = f" ({error.text.strip()!r})" if error.text else ""
        msg = f"{str(path)!r}, line {error.lineno}: {error.msg}{line}"
    except (ValueError, RecursionError, MemoryError) as error:
        msg = f"{str(path)!r} is not Python source: {error}"
    raise ScriptError(msg)


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that give an imported module its name `main`, in order."""
    for statement in body:
        if _names_main(statement):
            yield statement
        elif not _is_main_guard(statement):
            for inner in ("body", "handlers", "orelse", "finalbody"):
                if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield from _definitions(getattr(statement, inner, ()))


def _names_main(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name == "main"
    if isinstance(statement, ast.Import | ast.ImportFrom):
        # A star import may bring a main; only running it would tell.
        return any((alias.asname or alias.name) in ("main", "*") for alias in statement.names)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [node for target in targets for node in ast.walk(target)]
        return any(isinstance(node, ast.Name) and node.id == "main" for node in names)
    return False


def _is_main_guard(statement: ast.stmt) -> bool:
    """Whether this is `if __name__ == "__main__":`, whose body an imported module never runs."""
    if not isinstance(statement, ast.If) or not isinstance(statement.test, ast.Compare):
        return False
    sides = [statement.test.left, *statement.test.comparators]
    return any(isinstance(side, ast.Constant) and side.value == "__main__" for side in sides)


def _elsewhere(tree: ast.Module) -> str:
    """Where a function of that name, or nearly, is found instead."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.lower() == "main":
            return f" (line {node.lineno} defines {node.name!r}, but not there or not by that name)"
    return ""


def _check_signature(path: Path, main: ast.FunctionDef) -> None:
    arguments = main.args
    named = [argument.arg for argument in arguments.args + arguments.kwonlyargs]
    positional = [argument.arg for argument in arguments.posonlyargs]
    blocked = [name for name in positional if name in PARAMETERS]
    if blocked:
        _refuse(path, main, f"takes {_listed(blocked)} by position only: remove the `/`")
    missing = [name for name in PARAMETERS if name not in named]
    if missing and arguments.kwarg is None:
        _refuse(path, main, f"does not take {_listed(missing)}")
    extra = [name for name in _required(arguments) if name not in PARAMETERS]
    if extra:
        _refuse(path, main, f"asks for {_listed(extra)}, which engram does not give: add a default")
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(main)):
        _refuse(path, main, "contains yield, so that calling it runs nothing: use a plain function")


def _required(arguments: ast.arguments) -> list[str]:
    """The parameters without a default."""
    positional = arguments.posonlyargs + arguments.args
    count = len(positional) - len(arguments.defaults)
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [argument.arg for argument in positional[:count]] + [
        argument.arg for argument, default in keyword if default is None
    ]


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own_nodes(node)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _refuse(path: Path, main: ast.AST, what: str) -> None:
    msg = f"{str(path)!r}, line {getattr(main, 'lineno', 0)}: main {what}; expected {SIGNATURE}"
    raise ScriptError(msg)
