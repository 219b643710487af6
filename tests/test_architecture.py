"""Who may import whom, read from the syntax trees: nothing is imported or run."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "lib"

FOR_EXPERIMENTS = {"engram.checkpoint", "engram.metrics", "engram.progress"}
# Modules that cannot be imported without numpy, torch or rich, and those that may use torch at all.
NEEDING_PACKAGES = {
    "engram.checkpoint",
    "engram.checkpoint_state",
    "engram.compare_arrays",
    "engram.grid.view_terminal",
}
WITH_TORCH = {*NEEDING_PACKAGES, "engram.compare", "engram.compare_formats", "engram.loading"}
WITH_GIT = {"engram.repository", "engram.git", "engram.snapshot"}
# The layers of the science, lowest first; a layer may use itself and those before it.
LAYERS = (
    {"units", "whole_file"},
    {"recordings", "connectome", "spiking"},
    {"models", "losses", "metrics"},
    {"training", "plots", "export"},
)


@dataclass(frozen=True)
class Import:
    """One import statement: what it names, and when it is carried out."""

    target: str
    line: int
    at_import: bool
    guarded: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """A source file with its dotted name and imports."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    def where(self, found):
        return f"{self.path.relative_to(ROOT)}:{found.line} imports {found.target}"


def dotted_name(path):
    parts = path.relative_to(LIB if path.is_relative_to(LIB) else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named_targets(node, package):
    """The dotted names an import statement may load: `from a import b` may mean module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [submodule_or_package(base, alias.name) for alias in node.names]


def submodule_or_package(base, name):
    below = LIB.joinpath(*base.split("."), name)
    return f"{base}.{name}" if below.is_dir() or below.with_suffix(".py").exists() else base


def catches_import_error(node):
    if isinstance(node, ast.With):
        return any("ImportError" in ast.unparse(item.context_expr) for item in node.items)
    if not isinstance(node, ast.Try):
        return False
    caught = [handler.type for handler in node.handlers if handler.type is not None]
    names = {name.id for kind in caught for name in ast.walk(kind) if isinstance(name, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def find_imports(tree, package):
    found = []

    def visit(node, *, at_import=True, guarded=False, typing_only=False):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(
                Import(target, node.lineno, at_import, guarded, typing_only)
                for target in named_targets(node, package)
            )
        at_import = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    inside = field == "body"
                    visit(
                        child,
                        at_import=at_import,
                        guarded=guarded or (inside and catches_import_error(node)),
                        typing_only=typing_only or (inside and is_type_checking(node)),
                    )

    visit(tree)
    return tuple(found)


@cache
def read(folder):
    modules = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_bytes(), str(path))
        name = dotted_name(path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        modules.append(Module(name, path, tree, find_imports(tree, package)))
    return tuple(modules)


def offenders(modules, rule):
    return [module.where(found) for module in modules for found in module.imports if rule(found)]


def top(found):
    return found.target.partition(".")[0]


def test_engram_never_imports_neuro_or_experiments():
    assert offenders(read("lib/engram"), lambda found: top(found) in ("neuro", "experiments")) == []


def test_neuro_knows_no_runner():
    forbidden = ("engram", "wandb", "argparse", "experiments")

    assert offenders(read("lib/neuro"), lambda found: top(found) in forbidden) == []


def test_experiments_import_three_small_things_of_the_runner():
    modules = read("experiments")
    allowed = FOR_EXPERIMENTS

    assert modules
    assert (
        offenders(modules, lambda found: top(found) == "engram" and found.target not in allowed)
        == []
    )
    assert offenders(modules, lambda found: top(found).startswith("run_")) == []


def test_doors_import_engram_alone():
    doors = sorted(ROOT.glob("run_*.py"))

    assert ROOT / "run_experiment.py" in doors
    for path in doors:
        imports = find_imports(ast.parse(path.read_bytes()), "")
        assert {top(found) for found in imports} <= {"engram", *sys.stdlib_module_names}


def test_torch_stays_in_the_checkpoint_and_the_comparer():
    science = ("torch", "snntorch")
    others = [module for module in read("lib/engram") if module.name not in WITH_TORCH]

    assert offenders(others, lambda found: top(found) in science) == []


def is_hard(found):
    """Whether importing the module fails when the target is absent."""
    return found.at_import and not found.guarded and not found.typing_only


def is_ours_or_stdlib(found):
    return top(found) == "engram" or top(found) in sys.stdlib_module_names


def test_runner_needs_the_standard_library_only():
    """Optional packages are imported inside functions or guarded, a few modules apart."""
    runner = [module for module in read("lib/engram") if module.name not in NEEDING_PACKAGES]

    assert {"engram.cli", "engram.workflow", "engram.child"} <= {module.name for module in runner}
    assert offenders(runner, lambda found: is_hard(found) and not is_ours_or_stdlib(found)) == []
    assert (
        offenders(runner, lambda found: is_hard(found) and found.target in NEEDING_PACKAGES) == []
    )


def runs_git(tree):
    """Lines of a command list that begins with git, or of an import of GitPython."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple) and node.elts:
            first = node.elts[0]
            if isinstance(first, ast.Constant) and str(first.value).split("/")[-1] == "git":
                yield node.lineno
        if isinstance(node, ast.Constant) and str(node.value).startswith("git -"):
            yield node.lineno


def test_git_is_run_in_one_place():
    others = [module for module in read("lib/engram") if module.name not in WITH_GIT]
    others += read("lib/neuro") + read("experiments")

    assert offenders(others, lambda found: top(found) == "git") == []
    assert [
        f"{module.path.relative_to(ROOT)}:{line} runs git"
        for module in others
        for line in runs_git(module.tree)
    ] == []


def layer(name):
    part = name.split(".")[1]
    ranks = [rank for rank, names in enumerate(LAYERS) if part in names]
    if not ranks:
        pytest.fail(f"neuro.{part} has no layer: give it one in LAYERS")
    return ranks[0]


def test_science_is_layered():
    wrong = [
        module.where(found)
        for module in read("lib/neuro")
        if module.name != "neuro"
        for found in module.imports
        if found.target.startswith("neuro.") and layer(found.target) > layer(module.name)
    ]

    assert wrong == []


@pytest.mark.parametrize("folder", ["lib/engram", "lib/neuro"])
def test_module_level_imports_have_no_cycle(folder):
    modules = read(folder)
    names = {module.name for module in modules}
    edges = {
        module.name: {
            found.target
            for found in module.imports
            if found.at_import and not found.typing_only and found.target in names
        }
        - {module.name, module.name.partition(".")[0]}
        for module in modules
    }

    assert find_cycle(edges) is None


def find_cycle(edges):
    """The first cycle as a list of names, by removing leaves until none is left."""
    left = dict(edges)
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    if not left:
        return None
    path = [next(iter(left))]
    while path.count(path[-1]) == 1:
        path.append(next(target for target in sorted(left[path[-1]]) if target in left))
    return path[path.index(path[-1]) :]


def test_the_readers_of_imports_see_what_they_should():
    tree = ast.parse(
        "import os\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import tomli\nexcept ImportError:\n    import tomllib\n"
        "def f():\n    from . import errors\n"
    )
    hard = [found.target for found in find_imports(tree, "engram") if is_hard(found)]

    assert hard == ["os", "typing", "tomllib"]
    assert find_imports(tree, "engram")[-1].target == "engram.errors"
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b"}, "b": set()}) is None
    assert list(runs_git(ast.parse("run(['/usr/bin/git', 'status'])"))) == [1]
