"""Time one trivial experiment as a whole process, against bare `python script.py` and other tools.

    python benchmarks/launch.py [--rounds 15] [--files 1000]
    python benchmarks/launch.py --setup --peers FOLDER     # once: installs the other tools there
    python benchmarks/launch.py --peers FOLDER             # then: all in one interleaved run

The work is always the same: read a parameters file, write one number; that the right number was
written is checked after every timing. "Warm" has a snapshot of the commit, "cold" follows a new
commit; what git and the file system alone need to lay these files out is the row of `git
checkout-index`. CPU time holds all child processes that were waited for. Ratios are of medians;
those of the fastest rounds stand beside them, because they suffer less from whatever else the
machine does.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import peers
from timing import (
    CHECKOUT,
    Case,
    add_output_options,
    heading,
    interleave,
    machine,
    once,
    report,
    summarize,
    table,
    time_case,
)

BASE = "bare python script.py"
COLUMNS = {
    "case": "{}",
    "wall_ms": "{:.0f}",
    "times": "{:.1f}",
    "fastest_ms": "{:.0f}",
    "times_fastest": "{:.1f}",
    "cpu_ms": "{:.0f}",
}

SCRIPT = """\
import tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    with open(params_file, "rb") as stream:
        n = tomllib.load(stream)["n"]
    with open(output_dir / "result.txt", "w") as stream:
        stream.write(str(sum(i * i for i in range(n))))
"""

EXPERIMENT = """\
script = "script.py"
parameters_file = "parameters.toml"
output_dir = "runs"
"""

AUTHOR = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")


class Project:
    """Somebody's repository: an experiment, `extra` other files, a remote that has the commit."""

    def __init__(self, root: Path, extra: int, more: Mapping[str, str] | None = None) -> None:
        """Lay it out, with `more` files by name, and commit it."""
        self.root = root
        self.commits = 0
        files = {"script.py": SCRIPT, "experiment.toml": EXPERIMENT, "parameters.toml": peers.TOML}
        files |= {f"package/part{i % 40}/module{i}.py": source(i) for i in range(extra)}
        files |= {".gitignore": "runs\n", **(more or {})}
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", "https://example.org/lab/project.git")
        self.commit()
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")

    def git(self, *arguments: str) -> None:
        """Run git here."""
        once(["git", *AUTHOR, *arguments], self.root)

    def commit(self) -> None:
        """Change one file and commit: the next run has no snapshot."""
        self.commits += 1
        (self.root / "changed.py").write_text(f"NUMBER = {self.commits}\n")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"work {self.commits}")

    def case(self, name: str, door: Sequence[str], prepare: Callable[[], object] | None) -> Case:
        """An engram run in this repository."""
        command = [*door, "experiment.toml"]
        return Case(name, command, self.root, prepare=prepare, check=self.check)

    def floor(self, name: str) -> Case:
        """What it costs git alone to lay all files out once more, in a new folder."""
        target = self.root.parent / "laid-out"
        command = ["git", "checkout-index", "--all", f"--prefix={target}/"]
        return Case(name, command, self.root, prepare=lambda: remove(target))

    def check(self) -> None:
        """See that the newest run wrote the number."""
        newest = max((self.root / "runs").glob("*/*Z-*"), key=lambda path: path.name)
        found = (newest / "outputs" / "result.txt").read_text()
        if found != peers.RESULT:
            msg = f"{newest}: {found!r} instead of {peers.RESULT!r}"
            raise RuntimeError(msg)


def remove(folder: Path) -> None:
    """Remove a folder, where there is one."""
    if folder.exists():
        shutil.rmtree(folder)


def source(number: int) -> str:
    """About a kilobyte of Python that is like no other file's."""
    lines = (f"VALUE_{i} = {number * 1000 + i}  # one of many\n" for i in range(30))
    return f'"""Module {number}."""\n\n' + "".join(lines)


def main() -> int:
    """Install, or measure and print."""
    options = parser().parse_args()
    if options.setup:
        return set_up(options)
    where = machine()
    with tempfile.TemporaryDirectory(prefix="engram-bench-", dir=options.folder) as folder:
        cases = own_cases(Path(folder), options)
        others, missing = other_cases(Path(folder), options)
        cases += others
        for case in cases:
            time_case(case)
        rows = summarize(interleave(cases, options.rounds), BASE)
    notes = "\n".join(peer_notes(missing)) if options.peers else ""
    parts = (
        heading(where),
        table(rows, COLUMNS),
        f"\nMedians of {options.rounds} interleaved rounds; times: of the bare script's wall.\n",
        notes,
    )
    content = {"machine": where, "rounds": options.rounds, "cases": rows, "missing": missing}
    report(options, options.section, "\n".join(parts), content)
    return 0


def peer_notes(missing: Mapping[str, str]) -> Iterator[str]:
    """What was timed of each peer, or why it was not."""
    for peer in peers.PEERS:
        reason = missing.get(peer.name)
        yield f"- {peer.name}: {f'not measured: {reason}' if reason else peer.how}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text, _, more = str(__doc__).partition("\n")
    top = argparse.ArgumentParser(
        description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = CHECKOUT / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    top.add_argument("--rounds", type=int, default=15, help="timings of every case")
    top.add_argument("--files", type=int, default=1000, help="files of the large repository")
    top.add_argument("--peers", type=Path, help="folder of the other tools' environments")
    top.add_argument("--setup", action="store_true", help="make these environments, then stop")
    top.add_argument("--python", default=python, help="interpreter of script and runner")
    top.add_argument("--engram", type=Path, default=CHECKOUT, help="the checkout that is measured")
    top.add_argument("--folder", help="where the repositories lie (default: the temporary folder)")
    top.add_argument("--section", default="launch", help="the part of the page --docs writes to")
    add_output_options(top)
    return top


def set_up(options: argparse.Namespace) -> int:
    """Install every peer, one after the other, and say what failed."""
    if options.peers is None:
        sys.exit("--setup needs --peers FOLDER: where the other tools are to be installed")
    options.peers.mkdir(parents=True, exist_ok=True)
    folder = options.peers.resolve()
    for peer in peers.PEERS:
        reason = peers.install(peer, folder, options.python)
        print(f"{peer.name}: {reason or 'installed'}", flush=True)
    return 0


def own_cases(folder: Path, options: argparse.Namespace) -> list[Case]:
    """The bare script, and engram warm and cold, through both doors."""
    bare = folder / "bare"
    bare.mkdir()
    (bare / "script.py").write_text(peers.BARE)
    (bare / "parameters.toml").write_text(peers.TOML)
    small, large = Project(folder / "small", 0), Project(folder / "large", options.files)
    fresh = Project(folder / "fresh", options.files)
    direct = [options.python, str(options.engram.resolve() / "run_experiment.py")]
    bash = [str(bash_door(options.engram.resolve(), options.python, folder / "door"))]
    many = f"{options.files:,} files"
    check = peers.newest_equals(bare, "result.txt")
    return [
        Case(BASE, [options.python, "script.py"], bare, check=check),
        small.case("engram, warm", direct, None),
        small.case("engram through ./run, warm", bash, None),
        large.case(f"engram, warm, {many}", direct, None),
        fresh.case(f"engram, cold, {many}", direct, fresh.commit),
        fresh.case(f"engram through ./run, cold, {many}", bash, fresh.commit),
        large.floor(f"git checkout-index, {many}"),
    ]


def bash_door(engram: Path, python: str, folder: Path) -> Path:
    """The checkout's ./run; where its environment is not made, the same over a stand-in for it."""
    made, lock = engram / ".venv", engram / "uv.lock"
    stamp = made / "engram.lock"
    if stamp.exists() and filecmp.cmp(stamp, lock, shallow=False) and python.startswith(str(made)):
        return engram / "run"
    folder.mkdir()
    for name in ("run", "uv.lock"):
        shutil.copy2(engram / name, folder)
    (folder / "lib").symlink_to(engram / "lib")
    shutil.copy2(engram / "run_experiment.py", folder)
    stand_in = folder / ".venv"
    once([python, "-m", "venv", "--without-pip", str(stand_in)], folder)
    shutil.copy2(lock, stand_in / "engram.lock")
    (stand_in / "engram.build").write_text("cuda\n")  # a build that is right on every machine
    return folder / "run"


def other_cases(folder: Path, options: argparse.Namespace) -> tuple[list[Case], dict[str, str]]:
    """The peers that can do the work, and why the others cannot."""
    cases: list[Case] = []
    missing: dict[str, str] = {}
    if options.peers is None:
        return cases, missing
    for peer in peers.PEERS:
        try:
            case = peers.case(peer, options.peers.resolve(), folder / "peers" / peer.key)
            time_case(case)
        except RuntimeError as error:
            missing[peer.name] = str(error).splitlines()[-1]
        else:
            cases.append(case)
    return cases, missing


if __name__ == "__main__":
    sys.exit(main())
