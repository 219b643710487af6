"""Found first on PYTHONPATH by the Python children of an experiment: audit them, step aside."""

# Runs at the start of every Python child: nothing is imported for comfort.
# ruff: noqa: PTH100, PTH120

import os
import sys
from _frozen_importlib_external import PathFinder, SourceFileLoader

TYPE_CHECKING = False  # typing's own costs every Python child an import
if TYPE_CHECKING:
    import types


def _load(name: str, path: str) -> "types.ModuleType":
    module = type(sys)(name)
    module.__file__ = path
    sys.modules[name] = module
    SourceFileLoader(name, path).exec_module(module)
    return module


def _hook(here: str) -> None:
    package = os.path.dirname(here)
    audit = _load("_engram_audit", package + "/audit.py")
    finder = _load("_engram_finder", package + "/finder.py")
    config = audit.Config.decode(os.environ[audit.VARIABLE])
    auditor = audit.install(config, "start")
    found = finder.install(config.snapshot, config.roots, config.bytecode)
    for name, path in finder.forget_live_modules(found, auditor.environment):
        auditor.module(name, path)
    import atexit

    atexit.register(auditor.finish)


def _chain(here: str) -> None:
    """Run the sitecustomize that the environment has of its own."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        own = type(sys)("sitecustomize")
        own.__file__, own.__spec__ = spec.origin, spec
        sys.modules["sitecustomize"] = own  # in place of this module
        spec.loader.exec_module(own)


_here = os.path.dirname(os.path.abspath(__file__))
if "ENGRAM_AUDIT" in os.environ:
    try:
        _hook(_here)
    except Exception as error:  # noqa: BLE001 - an unaudited child is a finding, a broken one a failure
        sys.stderr.write(f"engram: this process is not audited: {error!r}\n")
_chain(_here)
