"""The command line: argparse only; each verb calls one function elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engram import __version__, errors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

__all__ = ["leave", "main"]

EPILOG = """\
verbs:
  list      a table of runs: filter on state, experiment, parameters, summary; sort; --json
  show      one run on one screen; --lineage shows where it came from and what came of it
  verify    check every recorded hash of a run against its folder
  test      run the test suite of this project (arguments go to pytest)
`./run VERB --help` tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the only place where errors become messages and exit codes.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code, from the table in engram.errors.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(arguments)
    except errors.RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except errors.Terminated:
        print("terminated", file=sys.stderr)
        return errors.TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.INCOMPLETE


def leave(code: int) -> NoReturn:
    """End the process at once: taking the interpreter apart takes longer than most commands."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def dispatch(arguments: list[str]) -> int:
    """Give the arguments to the verb that the first one names, else to a run."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        return run_verb(arguments)
    return verb(arguments[1:])


def program() -> str:
    """How the user calls us, for messages that name a command."""
    return "engram" if Path(sys.argv[0]).name in ("engram", "__main__.py") else "./run"


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A parser for one verb."""
    import argparse

    return argparse.ArgumentParser(
        prog=f"{program()} {verb}".strip(),
        description=description,
        # A given width spares an import at every start.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        allow_abbrev=False,
    )


def run_parser() -> argparse.ArgumentParser:
    """The parser of a run, a resume and a rerun."""
    top = parser("", "Run an experiment from a clean commit and record what ran.")
    top.epilog = EPILOG
    add = top.add_argument
    add("experiment", nargs="?", help="experiment.toml (default: workspace/experiment.toml)")
    add("--version", action="version", version=f"engram {__version__}")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a parameter")
    add(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of experiment.toml",
    )
    add("--seed", type=int, help="seed of the run (and the parameter `seed`, where there is one)")
    add("--timeout", metavar="90s|15m|2h", help="end the run after this time")
    add("--dry-run", action="store_true", help="print the resolved plan and start nothing")
    add(
        "--allow-dirty",
        "--no-commit",
        action="store_true",
        dest="allow_dirty",
        help="run uncommitted code: it is captured as a patch, and the record says so",
    )
    add("--live", action="store_true", help="run from the working tree, for debugging; marked so")
    add(
        "--pdb",
        action="store_true",
        help="debugger in this terminal when the script raises (with --live)",
    )
    how = top.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", metavar="RUN", help="continue a run from its newest valid checkpoint"
    )
    how.add_argument(
        "--rerun", metavar="RUN", help="repeat a run and say whether the same came out"
    )
    add("--commit", metavar="HEAD", help="with --resume: continue with another commit's code")
    add(
        "--allow-changed-inputs",
        action="store_true",
        help="with --rerun or --resume: go on although inputs are not the recorded ones",
    )
    add(
        "--recreate-environment",
        action="store_true",
        help="with --rerun: use the recorded uv.lock in a cached environment",
    )
    return top


def run_verb(arguments: list[str]) -> int:
    """Start, continue or repeat a run; its interpreter comes up while we import and look."""
    from engram import spawn

    quick = {"--pdb", "--dry-run", "--help", "-h", "--version"}.isdisjoint(arguments)
    ahead = spawn.spawn() if quick else None
    top = run_parser()
    options = top.parse_args(arguments)
    if options.pdb and not options.live:
        top.error("--pdb needs --live: a debugger works on the code you can edit")
    if (options.resume or options.rerun) and options.experiment:
        top.error("--resume and --rerun take the experiment from the recorded run: name no file")
    if options.commit and not options.resume:
        top.error("--commit goes with --resume")
    if options.recreate_environment and not options.rerun:
        top.error("--recreate-environment goes with --rerun")
    from engram import launch

    return launch.launch(options, arguments, ahead)


def list_verb(arguments: list[str]) -> int:
    """Print a table of runs."""
    from engram import runs

    top = parser("list", "List runs, the newest first.")
    top.epilog = (
        "filters: state=failed  experiment=NAME  param.lr>0.01  summary.acc>=0.9  name~part"
    )
    top.add_argument("filters", nargs="*", metavar="FILTER")
    top.add_argument(
        "--sort", metavar="KEY", help="a column, param.KEY or summary.KEY; -KEY descends"
    )
    top.add_argument("--limit", type=int, metavar="N", help="at most N rows")
    top.add_argument("--json", action="store_true", help="machine-readable")
    options = top.parse_intermixed_args(joined(arguments, "--sort"))
    lines = runs.list_lines(
        Path.cwd(), options.filters, sort=options.sort, limit=options.limit, as_json=options.json
    )
    for line in lines:
        print(line)
    return errors.COMPLETED


def joined(arguments: list[str], option: str) -> list[str]:
    """Let the value of an option begin with a hyphen, which argparse takes for another option."""
    if option not in arguments[:-1]:
        return arguments
    at = arguments.index(option)
    return [*arguments[:at], f"{option}={arguments[at + 1]}", *arguments[at + 2 :]]


def show_verb(arguments: list[str]) -> int:
    """Print one run."""
    from engram import runs

    top = parser("show", "Show one run.")
    top.add_argument("run", metavar="RUN", help="id, unique prefix, folder, latest or latest:NAME")
    top.add_argument("--lineage", action="store_true", help="its parents and children")
    top.add_argument("--json", action="store_true", help="the record as it stands")
    options = top.parse_args(arguments)
    text = runs.show_command(Path.cwd(), options.run, lineage=options.lineage, as_json=options.json)
    print(text)
    return errors.COMPLETED


def verify_verb(arguments: list[str]) -> int:
    """Check a run folder against its record."""
    from engram import verify

    top = parser("verify", "Check every recorded hash of a run against its folder.")
    top.add_argument("run", metavar="RUN", help="id, unique prefix, folder, latest or latest:NAME")
    return verify.verify_command(Path.cwd(), top.parse_args(arguments).run)


def test_verb(arguments: list[str]) -> int:
    """Run this project's tests in this environment."""
    from engram import launch

    return launch.run_tests(arguments)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "list": list_verb,
    "show": show_verb,
    "verify": verify_verb,
    "test": test_verb,
}
