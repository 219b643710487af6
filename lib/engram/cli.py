"""The command line: argparse only; each verb calls one function elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engram import errors
from engram.options import grid_parser, parser, point_parser, run_parser, submitted_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["leave", "main"]

WITHOUT_A_STORE = ("test", "completion", "__complete", "fetch")

RUN_HELP = "id, unique prefix, folder, latest or latest:NAME"
GRID_HELP = "of a grid: " + RUN_HELP


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


def run_verb(arguments: list[str]) -> int:
    """Start, continue or repeat a run; its interpreter comes up while we import and look."""
    if "--grid" in arguments:
        return grid_verb(arguments)
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


def grid_verb(arguments: list[str]) -> int:
    """Run, continue or repeat a grid of runs."""
    options = grid_parser().parse_args(arguments)
    see_who_died()
    from engram.grid import launch

    return launch.launch(options, arguments)


def point_verb(arguments: list[str]) -> int:
    """Run one attempt at one point of a grid; called where an engine on another machine runs it."""
    from engram.grid import point

    return point.run_point(point_parser().parse_args(arguments), ["__point", *arguments])


def list_verb(arguments: list[str]) -> int:
    """Print a table of runs."""
    from engram import store

    top = parser("list", "List runs, the newest first; or the points of a grid; or all grids.")
    top.epilog = (
        "filters: state=failed  experiment=NAME  param.lr>0.01  summary.acc>=0.9  name~part"
    )
    top.add_argument("filters", nargs="*", metavar="FILTER")
    top.add_argument(
        "--sort", metavar="KEY", help="a column, param.KEY or summary.KEY; -KEY descends"
    )
    top.add_argument("--limit", type=int, metavar="N", help="at most N rows")
    top.add_argument("--json", action="store_true", help="machine-readable")
    which = top.add_mutually_exclusive_group()
    which.add_argument("--grid", metavar="GRID", help="only the points of this grid, one a line")
    which.add_argument("--grids", action="store_true", help="all grids, the newest first")
    options = top.parse_intermixed_args(joined(arguments, "--sort"))
    if options.grids and (options.filters or options.sort):
        top.error("--grids lists every grid: no filter and no --sort goes with it")
    how = {"limit": options.limit, "as_json": options.json}
    if options.grids or options.grid is not None:
        from engram.grid import listing

        if options.grids:
            return emit(listing.grids_lines(Path.cwd(), **how))
        return emit(
            listing.grid_lines(Path.cwd(), options.grid, options.filters, sort=options.sort, **how)
        )
    return emit(store.list_lines(Path.cwd(), options.filters, sort=options.sort, **how))


def joined(arguments: list[str], option: str) -> list[str]:
    """Let the value of an option begin with a hyphen, which argparse takes for another option."""
    if option not in arguments[:-1]:
        return arguments
    at = arguments.index(option)
    return [*arguments[:at], f"{option}={arguments[at + 1]}", *arguments[at + 2 :]]


def show_verb(arguments: list[str]) -> int:
    """Print one run."""
    from engram import store

    top = parser("show", "Show one run, or one grid.")
    top.add_argument("run", metavar="RUN|GRID", help=RUN_HELP)
    top.add_argument("--lineage", action="store_true", help="its parents and children")
    top.add_argument("--json", action="store_true", help="the record as it stands")
    options = top.parse_args(arguments)
    text = store.show_command(
        Path.cwd(), options.run, lineage=options.lineage, as_json=options.json
    )
    return emit([text])


def submitted_verb(arguments: list[str]) -> int:
    """Run what was submitted; called on the machine that an engine chose."""
    from engram.grid import slurm_single

    return slurm_single.run_submitted(submitted_parser().parse_args(arguments))


def report_verb(arguments: list[str]) -> int:
    """Write the page of a grid."""
    from engram.grid import report

    top = parser("report", "Write a grid as one HTML page: table, effects, curves, failures.")
    top.add_argument("grid", metavar="GRID", help=GRID_HELP)
    top.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in GRID")
    top.add_argument("--metric", metavar="KEY", help="of the summary: what to show first")
    options = top.parse_args(arguments)
    return emit([report.report_command(Path.cwd(), options.grid, options.output, options.metric)])


def verify_verb(arguments: list[str]) -> int:
    """Check a run folder against its record."""
    from engram import verify

    top = parser("verify", "Check every recorded hash of a run, or of a grid and all its runs.")
    top.add_argument("run", metavar="RUN|GRID", help=RUN_HELP)
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

    top = parser("tag", "Add tags to a run or a grid, or take them away.")
    top.add_argument("run", metavar="RUN|GRID", help=RUN_HELP)
    top.add_argument("tags", nargs="*", metavar="TAG", help="to add; `list tag=TAG` finds it")
    top.add_argument("--remove", action="append", default=[], metavar="TAG", help="to take away")
    options = top.parse_intermixed_args(arguments)
    return emit([manage.tag_command(Path.cwd(), options.run, options.tags, options.remove)])


def note_verb(arguments: list[str]) -> int:
    """Add a sentence to a run."""
    from engram import manage

    top = parser("note", "Add a sentence to a run or a grid; `show` shows it.")
    top.add_argument("run", metavar="RUN|GRID", help=RUN_HELP)
    top.add_argument("text", nargs="+", metavar="TEXT", help="the sentence")
    options = top.parse_args(arguments)
    return emit([manage.note_command(Path.cwd(), options.run, " ".join(options.text))])


def pin_verb(arguments: list[str]) -> int:
    """Keep a run."""
    from engram import manage

    top = parser("pin", "Keep a run, or a grid with all its runs, from rm and gc.")
    top.add_argument("run", metavar="RUN|GRID", help=RUN_HELP)
    top.add_argument("--remove", action="store_true", help="take the pin away")
    options = top.parse_args(arguments)
    return emit([manage.pin_command(Path.cwd(), options.run, remove=options.remove)])


def rm_verb(arguments: list[str]) -> int:
    """Remove runs."""
    from engram import removal

    top = parser("rm", "Remove runs and grids: without --yes, say what would go.")
    top.epilog = "never a live or pinned run or grid, nor a run that another run refers to"
    top.add_argument("runs", nargs="+", metavar="RUN|GRID", help=RUN_HELP)
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
    add(
        "--keep-last",
        type=int,
        metavar="N",
        help="but not the newest N of each experiment; a grid counts as one",
    )
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
    top.add_argument(
        "name",
        metavar="NAME",
        help="experiments/NAME/sources.toml or experiments/*/NAME.sources.toml, or a path of one",
    )
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
    "report": report_verb,
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
    "__point": point_verb,
    "__submitted": submitted_verb,
    "fetch": fetch_verb,
    "test": test_verb,
}
