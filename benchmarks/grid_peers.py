"""Other tools that run many points, each doing the same grid on two workers in its ordinary way.

No two points write the same number, so the numbers found say whether each point was run once and
rightly. Called by grid.py; installed and called as the tools of peers.py are.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grid_programs as programs
from peers import BARE, DVC_FILE, GUILD, GUILD_FILE, INIT, OLD_SETUPTOOLS, TOML, YAML, Peer
from peers import case as single
from timing import Case, once

FIRST = 1000


@dataclass(frozen=True)
class GridPeer(Peer):
    """One tool that runs grids.

    Attributes:
        collect: commands run after every timing, outside of it, that lay the results out.
        clear: what earlier rounds left and is removed before every timing.
        slow: whether it takes part in a few rounds only.
        given: whether the tool itself gives each point its parameters; otherwise a file does.
    """

    collect: Sequence[Sequence[str]] = ()
    clear: Sequence[str] = ()
    slow: bool = False
    given: bool = False


SWEEP = ("python", "sweep.py")
UNCACHED = "- result.txt:\n          cache: false"

PEERS = (
    GridPeer(
        "loky in-process",
        "loky",
        ["loky"],
        programs.LOKY,
        SWEEP,
        "its reusable executor of two processes; nothing is recorded",
        result="results/*.txt",
    ),
    GridPeer(
        "Optuna, journal",
        "optuna",
        ["optuna"],
        {"work.py": programs.WORK, "sweep.py": programs.OPTUNA},
        SWEEP,
        "enqueued trials, two processes, journal storage; records parameters and values",
        result="results/*.txt",
        clear=("journal.log",),
    ),
    GridPeer(
        "Sacred + loky",
        "sacred-loky",
        ["sacred", OLD_SETUPTOOLS, "loky"],
        {"work.py": programs.WORK, "point.py": programs.SACRED_POINT, "sweep.py": programs.SACRED},
        SWEEP,
        "ex.run a point with FileStorageObserver and one artifact, in loky's two processes",
        result="runs/*/n*.txt",
        clear=("runs",),
        setup=INIT,
    ),
    GridPeer(
        "MLflow + loky",
        "mlflow",
        ["mlflow"],
        {"work.py": programs.WORK, "sweep.py": programs.MLFLOW},
        SWEEP,
        "start_run a point, parameters, one metric, one artifact, its default store; "
        "joblib's loky with two processes",
        result="mlruns/**/artifacts/*.txt",
        setup=(*INIT, ("python", "-c", "import mlflow; mlflow.get_experiment('0')")),
        environ={"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"},
    ),
    GridPeer(
        "Hydra, joblib",
        "hydra-joblib",
        ["hydra-core", "hydra-joblib-launcher"],
        {"script.py": programs.HYDRA, "parameters.yaml": YAML},
        (
            *("python", "script.py", "-m", "n=NUMBERS"),
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ),
        "multirun with the joblib launcher, one output folder a point; neither code nor "
        "environment is recorded",
        result="multirun/*/*/*/result.txt",
        clear=("multirun",),
        given=True,
    ),
    GridPeer(
        "submitit, local",
        "submitit",
        ["submitit"],
        {"work.py": programs.WORK, "sweep.py": programs.SUBMITIT},
        SWEEP,
        "its local executor, two jobs at a time; logs and pickles, no provenance",
        result="results/*.txt",
        clear=("jobs",),
        slow=True,
    ),
    GridPeer(
        "Guild AI, batches",
        "guild",
        ["guildai", OLD_SETUPTOOLS],
        {"script.py": GUILD, "parameters.yml": YAML, "guild.yml": GUILD_FILE},
        ("bash", "-c", programs.GUILD_BATCHES),
        "two batches at a time, each of half the points; copies the sources and runs the copies",
        result=".guild/runs/*/result.txt",
        clear=(".guild/runs", ".guild/cache"),
        setup=(("mkdir", ".guild"), *INIT),
        slow=True,
        given=True,
    ),
    GridPeer(
        "DVC queue",
        "dvc",
        ["dvc"],
        {
            "script.py": BARE,
            "parameters.toml": TOML,
            "dvc.yaml": DVC_FILE.replace("- result.txt", UNCACHED),
            ".gitignore": "results\n",
            "results/.keep": "",
        },
        ("timeout", "900", "bash", "-ec", programs.DVC_QUEUE),
        "dvc exp run --queue, dvc queue start -j 2, until each point is committed",
        result="results/*.txt",
        setup=(
            INIT[0],
            ("dvc", "init", "-q"),
            ("dvc", "config", "core.analytics", "false"),
            ("dvc", "config", "core.check_update", "false"),
            *INIT[1:],
        ),
        prepare=(
            ("dvc", "queue", "remove", "--all"),
            ("dvc", "exp", "remove", "-A"),
            ("bash", "-c", "rm -f results/*.txt"),
        ),
        collect=(("bash", "-ec", programs.DVC_COLLECT),),
        slow=True,
        given=True,
    ),
    GridPeer(
        "Ray Tune",
        "ray",
        ["ray[tune]"],
        {"work.py": programs.WORK, "sweep.py": programs.RAY},
        SWEEP,
        "a grid search of a function on a local cluster of two CPUs, with its start",
        result="storage/*/*/result.txt",
        clear=("storage",),
        environ={"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"},
        slow=True,
    ),
)


def point_files(count: int) -> dict[str, str]:
    """A parameters file a point, and the folder of the results."""
    files = {f"points/n{n}.toml": f"n = {n}\n" for n in range(FIRST, FIRST + count)}
    return files | {"results/.keep": ""}


def answers(count: int) -> dict[str, str]:
    """What each point has to write, by its name."""
    total, found = sum(i * i for i in range(FIRST)), {}
    for n in range(FIRST, FIRST + count):
        found[f"n{n}"] = str(total)
        total += n * n
    return found


class Results:
    """The numbers that lie in files of a pattern and were written since the last timing began."""

    def __init__(self, folder: Path, pattern: str) -> None:
        """Remember where; the mark lies beside the folder, where no tool takes it for its own."""
        self.folder = folder
        self.pattern = pattern
        self.mark = folder.parent / f"{folder.name}.began"

    def begin(self) -> None:
        """Everything written from now on counts."""
        self.mark.touch()

    def equal(self, count: int) -> int:
        """How many of the points' numbers were written once; one too many takes one away."""
        began = self.mark.stat().st_mtime_ns
        files = (path for path in self.folder.glob(self.pattern) if path.is_file())
        found = [path.read_text() for path in files if path.stat().st_mtime_ns >= began]
        wanted = Counter(answers(count).values())
        return (Counter(map(str.strip, found)) & wanted).total() - max(0, len(found) - count)


def case(peer: GridPeer, folder: Path, project: Path, count: int) -> tuple[Case, Results]:
    """Lay out a peer's project of `count` points, say how to time it and where its numbers lie.

    Raises:
        RuntimeError: it is not installed, or its setup failed; the message says why.
    """
    numbers, half = [str(n) for n in range(FIRST, FIRST + count)], count // 2
    said = {
        "NUMBERS": ",".join(numbers),
        "HALF": ",".join(numbers[:half]),
        "OTHER": ",".join(numbers[half:]),
        "COUNT": str(count),
    }
    command = [re.sub("|".join(said), lambda found: said[found[0]], word) for word in peer.command]
    points = {} if peer.given else point_files(count)
    made = single(replace(peer, command=command, files=points | peer.files), folder, project)
    results = Results(project, peer.result)

    def prepare() -> None:
        once(["rm", "-rf", *peer.clear], project)
        if made.prepare is not None:
            made.prepare()
        results.begin()

    def collect() -> None:
        for words in peer.collect:
            once(words, project, made.environ)

    return replace(made, prepare=prepare, check=collect), results


if __name__ == "__main__":
    sys.exit("this file holds what grid.py compares with; run that")
