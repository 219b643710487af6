"""The command line: argparse only; each verb calls one function elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engram import __version__, errors
from engram.program import program

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["leave", "main"]

WITHOUT_A_STORE = ("test", "completion", "__complete", "fetch")

EPILOG = """\
verbs:
  list      a table of runs: filter on state, experiment, parameters, summary; sort; --json
  show      one run on one screen; --lineage shows where it came from and what came of it
  verify    check every recorded hash of a run against its folder
  diff, explain   why two runs differ: code, parameters, inputs, environment; their results
  tag, note, pin   add words to a run; keep it from rm and gc
  rm        remove runs; says what would go, and removes with --yes
  gc        remove what is old, and all that no run needs; likewise
  doctor    what on this machine limits reproducibility
  completion   shell completion for bash, zsh or fish
  fetch     get a data set that an experiment needs, and check it
  test      run the test suite of this project (arguments go to pytest)
`{program} VERB --help` tells more.
"""

RUN_HELP = "id, unique prefix, folder, latest or latest:NAME"


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
        see_who_died()
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
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or its reader gone
            stream.flush()
    os._exit(code)


def emit(lines: Iterable[str]) -> int:
    """Print the lines of an answer.

    Returns:
        COMPLETED.

    Raises:
        StoreError: standard output is a file that cannot be written.
    """
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        msg = f"cannot write to standard output: {error.strerror}"
        raise errors.StoreError(msg) from error
    return errors.COMPLETED


def dispatch(arguments: list[str]) -> int:
    """Give the arguments to the verb that the first one names, else to a run."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        return run_verb(arguments)
    if arguments[0] not in WITHOUT_A_STORE:
        see_who_died()
    return verb(arguments[1:])


def see_who_died() -> None:
    """Give runs that ended without a word their true state: every command does that."""
    from engram.open_runs import reconcile_known

    with contextlib.suppress(errors.RunnerError, OSError):  # then the store is not ours to mend
        reconcile_known(Path.cwd())


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
    top.epilog = EPILOG.replace("{program}", program())
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

    if options.dry_run:
        see_who_died()
    return launch.launch(options, arguments, ahead)


def list_verb(arguments: list[str]) -> int:
    """Print a table of runs."""
    from engram import store

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
    lines = store.list_lines(
        Path.cwd(), options.filters, sort=options.sort, limit=options.limit, as_json=options.json
    )
    return emit(lines)


def joined(arguments: list[str], option: str) -> list[str]:
    """Let the value of an option begin with a hyphen, which argparse takes for another option."""
    if option not in arguments[:-1]:
        return arguments
    at = arguments.index(option)
    return [*arguments[:at], f"{option}={arguments[at + 1]}", *arguments[at + 2 :]]


def show_verb(arguments: list[str]) -> int:
    """Print one run."""
    from engram import store

    top = parser("show", "Show one run.")
    top.add_argument("run", metavar="RUN", help=RUN_HELP)
    top.add_argument("--lineage", action="store_true", help="its parents and children")
    top.add_argument("--json", action="store_true", help="the record as it stands")
    options = top.parse_args(arguments)
    text = store.show_command(
        Path.cwd(), options.run, lineage=options.lineage, as_json=options.json
    )
    return emit([text])


def verify_verb(arguments: list[str]) -> int:
    """Check a run folder against its record."""
    from engram import verify

    top = parser("verify", "Check every recorded hash of a run against its folder.")
    top.add_argument("run", metavar="RUN", help=RUN_HELP)
    return verify.verify_command(Path.cwd(), top.parse_args(arguments).run)


def diff_verb(arguments: list[str]) -> int:
    """Say how two runs differ."""
    from engram import explain

    top = parser("diff", "Say what can make two runs differ, and what differs in their results.")
    top.epilog = "exits with 0 when nothing that matters differs, else with 4"
    top.add_argument("a", metavar="RUN", help=RUN_HELP)
    top.add_argument("b", metavar="RUN", help="likewise")
    top.add_argument("--json", action="store_true", help="machine-readable")
    top.add_argument("--full", action="store_true", help="leave nothing out; the whole code diff")
    options = top.parse_args(arguments)
    lines, code = explain.diff_command(
        Path.cwd(), options.a, options.b, as_json=options.json, full=options.full
    )
    emit(lines)
    return code


def tag_verb(arguments: list[str]) -> int:
    """Add and remove tags of a run."""
    from engram import manage

    top = parser("tag", "Add tags to a run, or take them away.")
    top.add_argument("run", metavar="RUN", help=RUN_HELP)
    top.add_argument("tags", nargs="*", metavar="TAG", help="to add; `list tag=TAG` finds it")
    top.add_argument("--remove", action="append", default=[], metavar="TAG", help="to take away")
    options = top.parse_intermixed_args(arguments)
    return emit([manage.tag_command(Path.cwd(), options.run, options.tags, options.remove)])


def note_verb(arguments: list[str]) -> int:
    """Add a sentence to a run."""
    from engram import manage

    top = parser("note", "Add a sentence to a run; `show` shows it.")
    top.add_argument("run", metavar="RUN", help=RUN_HELP)
    top.add_argument("text", nargs="+", metavar="TEXT", help="the sentence")
    options = top.parse_args(arguments)
    return emit([manage.note_command(Path.cwd(), options.run, " ".join(options.text))])


def pin_verb(arguments: list[str]) -> int:
    """Keep a run."""
    from engram import manage

    top = parser("pin", "Keep a run from rm and gc.")
    top.add_argument("run", metavar="RUN", help=RUN_HELP)
    top.add_argument("--remove", action="store_true", help="take the pin away")
    options = top.parse_args(arguments)
    return emit([manage.pin_command(Path.cwd(), options.run, remove=options.remove)])


def rm_verb(arguments: list[str]) -> int:
    """Remove runs."""
    from engram import removal

    top = parser("rm", "Remove runs: without --yes, say what would go and delete nothing.")
    top.epilog = "never a live or pinned run, nor one that another run refers to"
    top.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    top.add_argument("--yes", action="store_true", help="do it")
    options = top.parse_intermixed_args(arguments)
    return emit([removal.rm_command(Path.cwd(), options.runs, yes=options.yes)])


def gc_verb(arguments: list[str]) -> int:
    """Collect garbage."""
    from engram import config, garbage

    top = parser("gc", "Remove what no run needs, and the runs that these options describe:")
    top.epilog = "never a live or pinned run, nor one that a run which stays refers to"
    add = top.add_argument
    add("--older-than", metavar="30d", help="runs that ended at least so long ago")
    add("--state", nargs="+", default=[], choices=garbage.STATES, help="that ended in these states")
    add("--keep-last", type=int, metavar="N", help="but not the newest N of each experiment")
    add("--yes", action="store_true", help="do it; without, say what would go and delete nothing")
    options = top.parse_args(arguments)
    age = None if options.older_than is None else config.parse_duration(options.older_than)
    wanted = garbage.Wanted(age, tuple(options.state), options.keep_last)
    text, code = garbage.gc_command(Path.cwd(), wanted, yes=options.yes)
    emit([text])
    return code


def doctor_verb(arguments: list[str]) -> int:
    """Say what on this machine limits reproducibility."""
    from engram import doctor

    parser("doctor", "What on this machine limits reproducibility.").parse_args(arguments)
    return doctor.doctor_command(Path.cwd(), emit)


def completion_verb(arguments: list[str]) -> int:
    """Print a completion script."""
    from engram import completion

    top = parser("completion", "Print a completion script for ./run and engram.")
    top.epilog = completion.HOW
    top.add_argument("shell", choices=completion.SHELLS)
    return emit([completion.completion_command(top.parse_args(arguments).shell)])


def complete_verb(arguments: list[str]) -> int:
    """Answer a completion script: what may stand at the last of the words."""
    from engram import completion

    return emit(completion.candidates(Path.cwd(), arguments))


def fetch_verb(arguments: list[str]) -> int:
    """Get a data set that is not part of the repository."""
    from engram import fetch

    top = parser("fetch", "Download a data set, check it, and build its tables.")
    top.add_argument("name", metavar="NAME", help="experiments/NAME/sources.toml, or a path of one")
    top.add_argument(
        "--mirror", type=Path, metavar="FOLDER", help="take the files from here: REPOSITORY/PATH"
    )
    options = top.parse_args(arguments)
    return emit([fetch.fetch_command(Path.cwd(), options.name, mirror=options.mirror)])


def test_verb(arguments: list[str]) -> int:
    """Run this project's tests in this environment."""
    from engram import launch

    return launch.run_tests(arguments)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "list": list_verb,
    "show": show_verb,
    "verify": verify_verb,
    "diff": diff_verb,
    "explain": diff_verb,
    "tag": tag_verb,
    "note": note_verb,
    "pin": pin_verb,
    "rm": rm_verb,
    "gc": gc_verb,
    "doctor": doctor_verb,
    "completion": completion_verb,
    "__complete": complete_verb,
    "fetch": fetch_verb,
    "test": test_verb,
}
