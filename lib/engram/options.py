"""The options of a run and of a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram import __version__
from engram.program import program

if TYPE_CHECKING:
    import argparse

__all__ = ["grid_parser", "parser", "point_parser", "run_parser"]

EPILOG = """\
many runs: {program} --grid [GRID.py] [EXPERIMENT.toml]; `{program} --grid --help` tells more.

verbs:
  list      a table of runs: filter on state, experiment, parameters, summary; sort; --json
  show      one run on one screen; --lineage shows where it came from and what came of it
  report    a grid as one HTML page: table, main effects, learning curves, failures
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
    add_common(top)
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
    how.add_argument("--attach", metavar="JOB", help="watch a run again that is a Slurm job")
    add("--commit", metavar="HEAD", help="with --resume: continue with another commit's code")
    add(
        "--recreate-environment",
        action="store_true",
        help="with --rerun: use the recorded uv.lock in a cached environment",
    )
    return top


def grid_parser() -> argparse.ArgumentParser:
    """The parser of a grid, of its resume and of its rerun."""
    top = parser("", "Run a grid of experiments: every point a full run, every device busy.")
    add = top.add_argument
    add("--grid", action="store_true", help="that is what this is")
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="GRID.py (default: the [grid] table, workspace/run_grid_search.py, "
        "run_grid_search.py) and EXPERIMENT.toml (default: workspace/experiment.toml)",
    )
    add_common(top)
    how = top.add_mutually_exclusive_group()
    how.add_argument("--resume", metavar="GRID", help="run what did not complete")
    how.add_argument(
        "--rerun", metavar="GRID", help="repeat every completed point and compare the results"
    )
    how.add_argument(
        "--sweep",
        metavar="ID",
        help="take the points from this W&B sweep; `new`: from one of its own",
    )
    add("--cold", action="store_true", help="an interpreter of its own for every point")
    add("--retries", type=count, metavar="N", help="more attempts at a point that crashes")
    add("--fail-fast", action="store_true", help="start nothing more after a failure")
    top.set_defaults(live=False, pdb=False, recreate_environment=False)
    return top


def point_parser() -> argparse.ArgumentParser:
    """The parser of one attempt at a point, which only engines write."""
    top = parser("__point", "Run one attempt at one point of a recorded grid.")
    add = top.add_argument
    add("folder", help="of the grid")
    add("number", type=count, help="of the point")
    add("attempt", type=count)
    add("--earlier", metavar="RUN", help="go on from the newest checkpoint of this run")
    add("--original", metavar="RUN", help="repeat this run")
    add("--alone", action="store_true", help="it ran out of device memory beside others")
    add_common(top)
    top.set_defaults(live=False, pdb=False, recreate_environment=False, files=[])
    return top


def submitted_parser() -> argparse.ArgumentParser:
    """The parser of a single run on its node, which only engines write."""
    top = parser("__submitted", "Run what was submitted.")
    add = top.add_argument
    add("folder", help="of the submission")
    add("attempt", type=count)
    add("--earlier", metavar="RUN", help="go on from the newest checkpoint of this run")
    return top


def count(text: str) -> int:
    """A number of things, for argparse."""
    if not text.isascii() or not text.isdigit():
        msg = f"{text!r} is no count"
        raise ValueError(msg)
    return int(text)


def add_common(top: argparse.ArgumentParser) -> None:
    """Add what a run and a grid share."""
    add = top.add_argument
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
    add(
        "--allow-changed-inputs",
        action="store_true",
        help="with --rerun or --resume: go on although inputs are not the recorded ones",
    )
