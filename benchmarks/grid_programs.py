"""The programs of the projects in grid.py and grid_peers.py, as texts.

Every point reads its parameters from points/NAME.toml, or gets them from the tool, and writes one
number, the sum of the first n squares.
"""

from __future__ import annotations

import sys

POINT = """\
import sys
import tomllib

with open(f"points/{sys.argv[1]}.toml", "rb") as stream:
    n = tomllib.load(stream)["n"]
with open(f"results/{sys.argv[1]}.txt", "w") as stream:
    stream.write(str(sum(i * i for i in range(n))))
"""

FLOOR = """\
import os
import subprocess
import sys

running = {}


def end_one():
    pid, status = os.wait()
    running.pop(pid).returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"a point ended with {status}")


for name in sorted(os.listdir("points")):
    if len(running) == 2:
        end_one()
    process = subprocess.Popen([sys.executable, "script.py", name.removesuffix(".toml")])
    running[process.pid] = process
while running:
    end_one()
"""

WORK = """\
import tomllib
from pathlib import Path


def names():
    return sorted(path.stem for path in Path("points").glob("*.toml"))


def number(name):
    return tomllib.loads(Path("points", f"{name}.toml").read_text())["n"]


def work(name):
    value = sum(i * i for i in range(number(name)))
    Path("results", f"{name}.txt").write_text(str(value))
    return value
"""

LOKY_SWEEP = """\
from loky import get_reusable_executor
from work import names, work

if __name__ == "__main__":
    list(get_reusable_executor(max_workers=2).map(work, names()))
"""

BARE = {"script.py": POINT, "sweep.py": FLOOR}
LOKY = {"work.py": WORK, "sweep.py": LOKY_SWEEP}

OPTUNA = """\
import subprocess
import sys

from optuna import create_study, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from work import names, number

STUDY = {"storage": JournalStorage(JournalFileBackend("journal.log")), "study_name": "trivial"}


def objective(trial):
    n = trial.suggest_int("n", 1, 10**6)
    value = sum(i * i for i in range(n))
    with open(f"results/{trial.number}.txt", "w") as stream:
        stream.write(str(value))
    return value


if len(sys.argv) > 1:
    load_study(**STUDY).optimize(objective, n_trials=int(sys.argv[1]))
else:
    study = create_study(**STUDY)
    points = names()
    for name in points:
        study.enqueue_trial({"n": number(name)})
    shares = (len(points) // 2, len(points) - len(points) // 2)
    workers = [subprocess.Popen([sys.executable, __file__, str(share)]) for share in shares]
    sys.exit(max([worker.wait() for worker in workers]))
"""

SACRED_POINT = """\
from sacred import Experiment
from sacred.observers import FileStorageObserver
from work import number

ex = Experiment("trivial")
ex.add_config(n=0)
ex.observers.append(FileStorageObserver("runs"))


@ex.main
def main(n):
    value = sum(i * i for i in range(n))
    file = f"results/n{n}.txt"
    with open(file, "w") as stream:
        stream.write(str(value))
    ex.add_artifact(file)
    return value


def work(name):
    return ex.run(config_updates={"n": number(name)}).result
"""

SACRED = """\
from loky import get_reusable_executor
from point import work
from work import names

if __name__ == "__main__":
    list(get_reusable_executor(max_workers=2).map(work, names()))
"""

MLFLOW = """\
import mlflow
from joblib import Parallel, delayed
from work import names, number


def work(name):
    n = number(name)
    with mlflow.start_run(run_name=name):
        mlflow.log_params({"n": n})
        value = sum(i * i for i in range(n))
        with open(f"results/{name}.txt", "w") as stream:
            stream.write(str(value))
        mlflow.log_metric("value", value)
        mlflow.log_artifact(f"results/{name}.txt")


if __name__ == "__main__":
    Parallel(n_jobs=2)(delayed(work)(name) for name in names())
"""

HYDRA = """\
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path=".", config_name="parameters")
def main(parameters):
    value = sum(i * i for i in range(parameters.n))
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "result.txt").write_text(str(value))


if __name__ == "__main__":
    main()
"""

SUBMITIT = """\
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import submitit
from work import names, work

executor = submitit.AutoExecutor(folder="jobs", cluster="local")
executor.update_parameters(timeout_min=10)


def point(name):
    job = executor.submit(work, name)
    while not job.done():  # result() alone would look once a second
        sleep(0.02)
    return job.result()


with ThreadPoolExecutor(2) as waiting:  # its local executor has no limit of its own
    list(waiting.map(point, names()))
"""

RAY = """\
import tempfile
from pathlib import Path

import ray
from ray import tune
from work import names, number


def work(config):
    value = sum(i * i for i in range(config["n"]))
    folder = Path(tune.get_context().get_trial_dir())
    (folder / "result.txt").write_text(str(value))
    tune.report({"value": value})


with tempfile.TemporaryDirectory(prefix="ray") as folder:  # its sockets need a short path
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder)
    tuner = tune.Tuner(
        work,
        param_space={"n": tune.grid_search([number(name) for name in names()])},
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=str(Path("storage").resolve()), verbose=0),
    )
    failed = tuner.fit().num_errors
    ray.shutdown()
raise SystemExit(failed)
"""

# `dvc queue start` returns at once: the work is done when each point's commit is there.
DVC_QUEUE = """\
dvc exp run --queue -S parameters.toml:n=NUMBERS
dvc queue start -j 2
until [ "$(git for-each-ref refs/exps | grep -cv refs/exps/exec)" -ge COUNT ]; do
    sleep 0.2
done
"""

DVC_COLLECT = """\
for ref in $(git for-each-ref --format='%(refname)' refs/exps | grep -v refs/exps/exec); do
    git show "$ref:result.txt" > "results/${ref##*/}.txt"
done
"""

# Two queues of staged trials, its other way to run at once, take more than twice as long.
GUILD_BATCHES = """\
guild run train 'n=[HALF]' -y & one=$!
guild run train 'n=[OTHER]' -y && wait $one
"""


if __name__ == "__main__":
    sys.exit("this file holds what grid.py runs; run that")
