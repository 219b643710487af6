"""A real Slurm on this machine for tests: one node that poses as 8 CPUs and 4 GPUs, no systemd.

Everything of it lies in one temporary folder: configuration, state, sockets, logs, the database.
Its daemons are found by SLURM_CONF alone, so that it lives beside any Slurm of the machine, and end
when whoever started them does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import EXPERIMENT, Project
from submitting import ENGINE, WORK

from engram import slurm_jobs

Watch = Callable[..., "subprocess.Popen[str]"]
CPUS, GPUS, MEMORY_MB = 8, 4, 8000
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
NEEDED = (*DAEMONS, "setpriv", "mariadb-install-db", "mariadb", "sbatch", "sacctmgr")
DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")
ABOVE = "/usr/sbin:/sbin:/usr/local/sbin"

SLURM_CONF = """\
ClusterName=engram
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0,requeue_delay=1
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=300
InactiveLimit=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 DefMemPerCPU=100 \\
 PriorityTier=1 GraceTime=10 PreemptMode=REQUEUE
PartitionName=urgent Nodes={host} MaxTime=60 DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""

SQL = """\
create database if not exists slurm_acct_db;
create user if not exists slurm@'127.0.0.1' identified by 'slurm';
grant all on slurm_acct_db.* to slurm@'127.0.0.1';
"""


class ClusterError(Exception):
    """A daemon did not come up; the message holds the end of its log."""


def missing() -> str | None:
    """Say why no Slurm can be started here, or None when it can."""
    if os.geteuid() != 0:
        return "a test cluster is started by root only"
    absent = [name for name in NEEDED if shutil.which(name, path=_search_path()) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@dataclass
class Cluster:
    """The daemons, and the folder that they live in."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to find this cluster, and no other."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _search_path()}

    def call(self, *command: str, timeout_s: float = 30.0) -> str:
        """Run one Slurm command; return what it printed."""
        done = subprocess.run(
            command,
            env={**_bare(), **self.environ},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode != 0:
            raise ClusterError(f"{command}: {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    @property
    def node(self) -> str:
        """The name of the only node."""
        return _host()

    def start(self) -> Cluster:
        """Bring everything up, in the order that they need one another."""
        for name in ("ctld", "d", "dev", "sql"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        ports = dict(zip(("ctld_port", "d_port", "dbd_port", "sql_port"), _ports(4), strict=True))
        self._configure(ports)
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._munge()
            self._database(ports["sql_port"])
            self._daemon("slurmdbd", "-D")
            known = ("sacctmgr", "-n", "-P", "show", "cluster", "format=cluster")
            self._until("slurmdbd", lambda: self.call(*known) is not None)
            if not self.call(*known):
                self.call("sacctmgr", "-i", "add", "cluster", "engram")
            self._daemon("slurmctld", "-D", "-c")
            self._daemon("slurmd", "-D", "-N", _host())
            self._until("slurmctld", lambda: "idle" in self.call("sinfo", "-h", "-o", "%t"))
            undo.pop_all()
        return self

    def stop(self) -> None:
        """End the daemons and everything that their jobs left; the folder stays."""
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired, OSError):
            self.clear()
        for daemon in reversed(self.started):
            daemon.terminate()
            try:
                daemon.wait(timeout=300)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.started.clear()

    def clear(self) -> None:
        """End all jobs and wait until nothing of them is left."""
        self.call("scancel", "--user=root", timeout_s=5)
        self.until(lambda: not self.call("squeue", "-h") and self.empty(), patience_s=120)
        if "idle" not in self.call("sinfo", "-h", "-o", "%t"):
            self.call("scontrol", "update", f"NodeName={self.node}", "State=RESUME")

    def empty(self) -> bool:
        """Whether nothing of any job is left on the node, whatever Slurm thinks of the node."""
        return not list((self.folder / "d").glob(f"{self.node}_*.*"))

    def until(self, ready: Callable[[], object], patience_s: float = 240.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + patience_s
        while not ready():
            if time.monotonic() > end:
                raise ClusterError(f"waited {patience_s} s in vain\n{self.call('squeue')}")
            time.sleep(0.05)

    def state(self, job: str) -> str:
        """The state of a job, or of a task of an array."""
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-O", "State:|").strip("|")

    def start_again(self, job: str) -> None:
        """Let a requeued job start now rather than in two minutes.

        Not within the second: the node would take it for the one that it has just ended.
        """
        self.until(lambda: self.state(job) == "PENDING")
        time.sleep(1.5)
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def _configure(self, ports: dict[str, int]) -> None:
        known = {
            "folder": self.folder,
            "host": _host(),
            "cpus": CPUS,
            "gpus": GPUS,
            "memory": MEMORY_MB,
            **ports,
        }
        devices = [self.folder / "dev" / f"nvidia{number}" for number in range(GPUS)]
        for device in devices:
            if not device.exists():  # a regular file would leave CUDA_VISIBLE_DEVICES empty
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        gres = "".join(f"Name=gpu File={device}\n" for device in devices)
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + gres)
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**known))
        hidden = self.folder / "slurmdbd.conf"
        hidden.touch(mode=0o600)
        hidden.write_text(SLURMDBD_CONF.format(**known))

    def _munge(self) -> None:
        key, home = self.folder / "munge.key", self.folder
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(128))
        self._daemon(
            "munged",
            "--foreground",
            "--force",  # temporary folders are closed to others, who need not reach the socket
            f"--socket={home}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={home}/munged.pid",
            f"--log-file={home}/munged.log",
            f"--seed-file={home}/munged.seed",
        )
        self._until("munged", (home / "munge.socket").exists)

    def _database(self, port: int) -> None:
        data, link = self.folder / "sql", self.folder / "sql.socket"
        common = ("--no-defaults", f"--datadir={data}", "--user=root")
        if not (data / "mysql").exists():
            install = [
                "mariadb-install-db",
                *common,
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ]
            with (self.folder / "mariadbd.log").open("wb") as log:
                subprocess.run(install, check=True, stdout=log, stderr=log, env=self._env())
        self._daemon(
            "mariadbd",
            *common,
            f"--socket={link}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=64M",
            "--skip-log-bin",
            f"--pid-file={self.folder}/mariadbd.pid",
        )
        client = ("mariadb", "--no-defaults", f"--socket={link}", "--user=root", "-e", SQL)
        self._until("mariadbd", lambda: self.call(*client) is not None)

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.started.append(
                subprocess.Popen(
                    [*DIES_WITH_US, shutil.which(name, path=_search_path()) or name, *arguments],
                    env=self._env(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def _env(self) -> dict[str, str]:
        return {**_bare(), **self.environ}

    def _until(self, name: str, ready: Callable[[], object], patience_s: float = 120.0) -> None:
        """Wait until a daemon answers."""
        end, said = time.monotonic() + patience_s, ""
        while True:
            try:
                if ready():
                    return
            except (ClusterError, subprocess.TimeoutExpired) as error:
                said = str(error)
            gone = [daemon.args[0] for daemon in self.started if daemon.poll() is not None]
            if gone or time.monotonic() > end:
                raise ClusterError(
                    f"{name} does not answer; {said}; ended: {gone}\n{self._said(name)}"
                )
            time.sleep(0.05)

    def _said(self, name: str) -> str:
        texts = [self.folder / f"{name}.out", self.folder / f"{name}.log"]
        return "\n".join(path.read_text()[-2000:] for path in texts if path.exists())


def _bare() -> dict[str, str]:
    """The environment without what another Slurm, or a job of it, put there."""
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))
    }


def _search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{ABOVE}"


def _host() -> str:
    return os.uname().nodename.split(".")[0]


def _ports(count: int) -> list[int]:
    """Free ports of the loopback interface, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The daemons, for all tests."""
    reason = missing()
    if reason:
        pytest.skip(f"no Slurm: {reason}")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def slurm(slurm_daemons: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Slurm with one node of 8 CPUs and 4 GPUs, which this process and its children speak to."""
    for key, value in slurm_daemons.environ.items():
        monkeypatch.setenv(key, value)
    for key in set(os.environ) - set(_bare()):
        if key not in slurm_daemons.environ:
            monkeypatch.delenv(key)
    slurm_jobs.forget()
    yield slurm_daemons
    slurm_daemons.clear()
    slurm_jobs.forget()


@pytest.fixture
def work(slurm: Cluster, tmp_path: Path) -> Project:
    """A repository whose runs are Slurm jobs."""
    made = Project(tmp_path / "project")
    made.write("work.py", WORK)
    made.write("parameters.toml", 'value = 1\nseconds = 0.0\nuntil = "/nonexistent"\n')
    made.write("experiment.toml", EXPERIMENT + ENGINE)
    made.write(".gitignore", "runs\n__pycache__\n")
    made.git("init", "-q", "-b", "main")
    made.commit()
    return made


@pytest.fixture
def watch(work: Project) -> Iterator[Watch]:
    """Start watchers that do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(work.start(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
