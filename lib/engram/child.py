"""Inside the child: wait for the spec, prepare, load the script, call main, say how it ended.

Started by hook/start.py, with the standard library only, from the RUNNING engram and never from the
snapshot. Everything slow that needs no spec is imported before the spec arrives. A warm child comes
here by fork instead, from zygote.py, and then does the same.
"""

# Text paths are what the import system and the audit compare.
# ruff: noqa: PTH100, PTH119, PTH120, PTH123

from __future__ import annotations

import _frozen_importlib as bootstrap
import _frozen_importlib_external as external
import faulthandler
import marshal
import os
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # the typing module would cost a quarter of the interpreter's start
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any

    from engram import audit, finder, seeding, zygote

HERE = os.path.dirname(os.path.abspath(__file__))
INTERRUPTED = 130
MOST_TRACEBACK = 100_000
MOST_BITS = 1024  # of a whole number in a summary; longer ones cannot even be printed


def _load(name: str) -> Any:  # noqa: ANN401
    """Load a file beside this one under a name that no script uses."""
    path = f"{HERE}/{name}.py"
    module = type(sys)(f"_engram_{name}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    external.SourceFileLoader(module.__name__, path).exec_module(module)
    return module


if not TYPE_CHECKING:
    audit = _load("audit")
    finder = _load("finder")
    seeding = _load("seeding")


def main(fd: int, warm: zygote.Zygote | None = None) -> int:
    """Run one experiment.

    Args:
        fd: where the spec arrives, marshalled, ended by the end of the pipe.
        warm: what this process was forked from, None after an exec.

    Returns:
        The exit code of the process.
    """
    environment = audit.environment_roots() if warm is None else ()
    try:
        load_while_waiting()
        spec = _read_spec(fd)
    except KeyboardInterrupt:
        return INTERRUPTED
    if spec is None:
        os._exit(0)  # the runner had nothing to run after all
    auditor, ground = _prepare(spec, environment) if warm is None else warm.prepare(spec)
    me = os.getpid()
    ending = _run(spec, ground)
    if os.getpid() == me:  # a process the script forked may fall through to here as well
        auditor.finish()
        _report(auditor, ending)
    return int(ending["code"])


def load_while_waiting() -> None:
    """Import what nearly every run needs, in time that is otherwise spent waiting for the spec."""
    import tomllib  # reads params_file

    del tomllib


def _read_spec(fd: int) -> dict[str, Any] | None:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    os.close(fd)
    return marshal.loads(b"".join(parts)) if parts else None


def zygote_loop(fd: int) -> tuple[int, zygote.Zygote]:
    """Be a zygote instead: returns in the children it forks, with what `main` wants."""
    return _load("zygote").serve(fd, sys.modules[__name__])  # type: ignore[no-any-return]


GROUND = ("script", "roots", "fallback", "snapshot", "bytecode")
"""What of a spec is the same for every run of an interpreter."""


class Ground:
    """What runs of one script stand on: sys.path, `__main__`, the finders. It needs no run."""

    def __init__(self, spec: dict[str, Any], environment: tuple[str, ...]) -> None:
        """Make the interpreter so.

        Args:
            spec: the entries GROUND of what the runner sends.
            environment: the folders of Python and its packages.
        """
        self.script = spec["script"]
        folder = os.path.dirname(self.script)
        self.roots = [folder, *(root for root in spec["roots"] if root != folder)]
        sys.argv[:] = [self.script]
        old = (entry for entry in sys.path if entry not in self.roots)
        sys.path[:] = [*self.roots, *old, *spec.get("fallback", [])]
        # Without a file: Python children must not run one again.
        sys.modules["__main__"] = type(sys)("__main__")
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable()
        found = finder.install(spec["snapshot"], self.roots, spec.get("bytecode") or "")
        self.foreign = finder.forget_live_modules(found, environment)
        self.after_import = seeding.AfterImport()
        sys.meta_path.insert(1, self.after_import)  # behind the snapshot's own modules

    def config(self, spec: dict[str, Any]) -> audit.Config:
        """Say what the audit of a run looks at."""
        ignored = [spec["output_dir"], *spec.get("ignored", [])]
        bytecode = spec.get("bytecode") or ""
        return audit.Config(spec["audit"], spec["snapshot"], bytecode, self.roots, ignored)

    def note(self, auditor: audit.Auditor) -> None:
        """Note the script, and what was imported before anybody could look."""
        for name, path in self.foreign:
            auditor.module(name, path)
        auditor.module(script_name(self.script), self.script)


def _prepare(spec: dict[str, Any], environment: tuple[str, ...]) -> tuple[audit.Auditor, Ground]:
    """Make the process what the spec says: environment, folder, import roots, audit."""
    if spec.get("live"):
        # Bytecode in the working tree would be taken for uncommitted files.
        sys.dont_write_bytecode = True
    ground = Ground(spec, environment)
    config = ground.config(spec)
    set_environ(spec, config)
    os.chdir(spec["output_dir"])
    auditor = audit.install(config, "main", environment)
    ground.note(auditor)
    return auditor, ground


def set_environ(spec: dict[str, Any], config: audit.Config) -> None:
    """Set the variables of the run, and those by which Python children find the audit."""
    for name, value in spec.get("environ", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)
    os.environ["PYTHONPATH"] = os.pathsep.join((f"{HERE}/hook", *config.roots))
    os.environ[audit.VARIABLE] = config.encode()
    if spec.get("seed") is not None:
        os.environ["ENGRAM_SEED"] = str(spec["seed"])
    if spec.get("live"):
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def _run(spec: dict[str, Any], ground: Ground) -> dict[str, Any]:
    """Load the script, call main and describe how that ended."""
    try:
        value = _call(spec, ground)
    except SystemExit as error:
        return {"at": time.monotonic(), **_exited(error)}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes the record's cause
        return {"at": time.monotonic(), **_raised(error, debug=bool(spec.get("pdb")))}
    summary, problem = flat_summary(value)
    at = time.monotonic()
    return {"at": at, "how": "returned", "code": 0, "summary": summary, "ignored": problem}


def _call(spec: dict[str, Any], ground: Ground) -> Any:  # noqa: ANN401
    seed = spec.get("seed")
    if seed is not None:
        seeding.start(seed, ground.after_import)
    module = _load_script(spec["script"])
    if seed is not None:
        seeding.seed_loaded(seed)  # whatever the script drew while it was imported
    return module.main(
        input_dir=_path(spec.get("input_dir")),
        output_dir=Path(spec["output_dir"]),
        params_file=_path(spec.get("params_file")),
        wandb_config=spec.get("wandb_config"),
        resume_from=_path(spec.get("resume_from")),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def script_name(path: str) -> str:
    """Return the name under which a script is imported."""
    return os.path.basename(path).rpartition(".")[0]


def _load_script(path: str) -> Any:  # noqa: ANN401
    """Import the script under its own name, so that what it pickles can be found again."""
    name = script_name(path)
    if name in sys.modules:
        name += "_script"
    spec = external.spec_from_file_location(name, path)
    module = bootstrap.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def flat_summary(value: Any) -> tuple[dict[str, Any] | None, str | None]:  # noqa: ANN401
    """Reduce what main returned to what a table can show.

    Returns:
        The entries that are numbers, strings, booleans or None under a string key (None when there
        is no such dict), and what had to be left out, in words.
    """
    if value is None:
        return None, None
    if not isinstance(value, dict):
        return None, f"main returned {type(value).__name__}, not a flat dict of numbers and strings"
    kept, dropped = {}, []
    for key, entry in value.items():
        plain, fits = _scalar(entry)
        if fits and isinstance(key, str):
            kept[str(key)] = plain
        else:
            dropped.append(f"{key!r} ({type(entry).__name__})")
    problem = f"not a number, string or boolean: {', '.join(dropped)[:2000]}" if dropped else None
    return kept, problem


def _scalar(value: Any) -> tuple[Any, bool]:  # noqa: ANN401
    """Unwrap a scalar of numpy or torch; say whether it is one."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except Exception:  # noqa: BLE001 - a foreign class: whatever it raises, it is no scalar
            return None, False
    if value is None or isinstance(value, bool):
        return value, True
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return None, False
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value), True
    return None, False


def _exited(error: SystemExit) -> dict[str, Any]:
    """Describe sys.exit: None is success, a number the code, anything else a message on stderr."""
    value = error.code
    if value is None or isinstance(value, int):
        return {"how": "exit", "code": int(value or 0), "message": repr(value)}
    _flush()
    _complain(f"{value}\n")
    return {"how": "exit", "code": 1, "message": repr(str(value))}


def _raised(error: BaseException, *, debug: bool) -> dict[str, Any]:
    """Print the traceback as Python does, from the script's own frames on, and describe it."""
    error.__traceback__ = own_frames(error.__traceback__)
    _flush()
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception:  # noqa: BLE001 - a hook the script installed, or streams it closed
        _show_plainly(error)
    if debug and error.__traceback__ is not None:
        import pdb

        pdb.post_mortem(error.__traceback__)
    import traceback

    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    return {
        "how": "exception",
        "code": INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1,
        "type": kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}",
        "message": _text(error),
        "traceback": "".join(traceback.format_exception(error))[-MOST_TRACEBACK:],
        "interrupt": isinstance(error, KeyboardInterrupt),
    }


def _flush() -> None:
    """Let what was printed appear before what follows; the script may have closed its streams."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        return


def _complain(text: str) -> None:
    """Write to standard error, whatever the script did to it."""
    try:
        sys.stderr.write(text)
    except (AttributeError, OSError, ValueError):
        return


def _show_plainly(error: BaseException) -> None:
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
    except Exception:  # noqa: BLE001 - then it stands in the record only
        return


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of the script's own exception
        return "<no message: str() of the exception failed>"


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of engram and of the import machinery at the outer end."""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(HERE + "/") and not name.startswith("<frozen importlib"):
            return trace
        trace = trace.tb_next
    return None


def _report(auditor: audit.Auditor, ending: dict[str, Any]) -> None:
    ending["peak_rss_kib"] = _peak_rss_kib()
    ending["gpu_memory_bytes"] = _gpu_peak_bytes()
    auditor.write(f'{{"e":"end","pid":{os.getpid()},{_members(ending.items())}}}')


def _members(items: Iterable[tuple[str, Any]]) -> str:
    return ",".join(f"{audit.quoted(key)}:{_json(value)}" for key, value in items)


def _json(value: Any) -> str:  # noqa: ANN401
    """Write plain values as JSON; the json module costs more than the whole of this."""
    if isinstance(value, dict):
        return f"{{{_members(value.items())}}}"
    if isinstance(value, str):
        return audit.quoted(value)
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text := repr(value), text)
    for name, constant in (("null", None), ("true", True), ("false", False)):
        if value is constant:
            return name
    return str(value)


def _peak_rss_kib() -> int | None:
    try:
        with open("/proc/self/status", "rb") as stream:
            for line in stream:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1])
    except OSError:  # no Linux: wait4 alone tells
        return None
    return None


def _gpu_peak_bytes() -> int | None:
    """Ask torch, when the script used it on a GPU, for the peak it reserved over all devices."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        if cuda is None or not cuda.is_initialized():
            return None
        return int(sum(cuda.max_memory_reserved(n) for n in range(cuda.device_count())))
    except Exception:  # noqa: BLE001 - a measurement that fails is only missing
        return None
