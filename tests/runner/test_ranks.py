"""Runs of several processes: what ranks are told, how they end as a group, what is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
from conftest import CHECKOUT, Project
from supervision import Bench, until

from engram import metrics, ports, processes, ranks, verify, wandb_log
from engram.config import load
from engram.outcome import RankEnd, judge_ranks
from engram.paths import RunPaths
from engram.supervise import Outcome, Supervisor
from engram.warm import Warm

GROUP = "[engine]\nprocesses = 2\n"
RANK = "import os, signal, sys, time\nrank = int(os.environ['ENGRAM_RANK'])\n"
WAIT = "time.sleep(600)\n"
# The other rank has the attention of the group only when it is really there.
BOTH_UP = """
open(f"up{rank}", "w").close()
while not os.path.exists(f"up{1 - rank}"):
    time.sleep(0.002)
"""


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


@pytest.fixture
def group(project: Project) -> Project:
    """A project whose runs have two processes."""
    project.write("experiment.toml", (project.root / "experiment.toml").read_text() + GROUP)
    project.commit()
    return project


def run_ranks(bench: Bench, body: str, count: int = 2, **options: object) -> Outcome:
    """Run a main with this body in several ranks."""
    told = {"show": False, "timeout_s": 120.0, "grace_s": 2.0, **options}
    run = bench.run
    os.environ["BENCH"] = str(run.folder)
    supervisor = Supervisor.start(processes=count)
    try:
        with ranks.environs(count, "a-run") as environs:
            return supervisor.run(
                bench.spec(bench.script(RANK + body)),
                log_out=run.log_out,
                log_err=run.log_err,
                audit=run.audit,
                environs=environs,
                **told,
            )
    finally:
        del os.environ["BENCH"]
        supervisor.abandon()


def in_main(body: str) -> str:
    """A whole script whose main has this body."""
    lines = (RANK + body).strip().splitlines()
    return "def main(**told):\n" + "".join(f"    {line}\n" for line in lines)


def test_every_rank_is_told_what_torchrun_tells(bench):
    body = "import json\nprint(json.dumps({k: os.environ[k] for k in os.environ}))"
    before = set(os.environ)
    assert run_ranks(bench, body, 3).state == "completed"

    for rank in range(3):
        told = json.loads(bench.run.logs(3)[2 * rank].read_text())
        ours = {key: told[key] for key in told if key not in before}
        port = ours["MASTER_PORT"]
        assert ports.LOWEST <= int(port) <= ports.HIGHEST
        assert ours == {
            **ours,
            **{"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "ROLE_RANK": f"{rank}"},
            **{"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "ROLE_WORLD_SIZE": "3"},
            **{"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "ROLE_NAME": "default"},
            **{"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "a-run"},
            **{"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0"},
            **{"ENGRAM_RANK": f"{rank}", "ENGRAM_WORLD_SIZE": "3"},
        }


@pytest.mark.slow
def test_torchrun_itself_tells_nothing_else(tmp_path):
    pytest.importorskip("torch")
    script = tmp_path / "tell.py"
    script.write_text("import json, os\nprint(json.dumps(dict(os.environ)))\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    environ = json.loads(done.stdout.splitlines()[-1])
    theirs = {key: value for key, value in environ.items() if key not in os.environ}
    with ranks.environs(2, "a-run") as environs:
        ours = environs[0]

    # Not what belongs to its own agent; the number of threads is in the spec.
    shared = ("RANK", "WORLD", "MASTER", "ROLE", "TORCHELASTIC_R", "TORCHELASTIC_MAX")
    told = {key for key in theirs if any(part in key for part in shared)}
    assert len(told) >= 12
    assert told <= set(ours)
    same = {key for key in told if not key.endswith(("WORLD_SIZE", "PORT", "RUN_ID"))}
    same.discard("MASTER_ADDR")  # its own is the host's name
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}


def test_a_run_of_one_process_has_no_ranks(bench):
    body = "import os\nprint(sorted(k for k in os.environ if 'RANK' in k or 'MASTER' in k))"
    bench.supervise(body)

    assert bench.log() == "[]\n"


def test_what_rank_0_returns_is_the_summary_and_it_waits_for_the_others(bench):
    body = (
        "if rank == 1:\n    time.sleep(0.4)\n    open('late', 'w').close()\nreturn {'rank': rank}"
    )
    outcome = run_ranks(bench, body)

    assert (outcome.state, outcome.summary) == ("completed", {"rank": 0})
    assert (bench.run.outputs / "late").exists()
    assert outcome.usage["wall_s"] >= 0.4
    assert "rank" not in outcome.exit


@pytest.mark.parametrize(
    ("fault", "state", "cause", "code", "number"),
    [
        ("raise RuntimeError('boom')", "failed", "rank 1: RuntimeError: boom", 1, None),
        ("sys.exit(3)", "failed", "rank 1: sys.exit(3)", 3, None),
        (
            *("os._exit(3)", "failed"),
            "rank 1: the process ended with exit code 3 before main returned (os._exit?)",
            *(3, None),
        ),
        (
            *("os._exit(0)", "failed"),
            "rank 1: the process ended with exit code 0 before main returned (os._exit?)",
            *(0, None),
        ),
        (
            *("import ctypes; ctypes.string_at(0)", "killed"),
            "rank 1: the process was ended by SIGSEGV",
            *(None, "SIGSEGV"),
        ),
    ],
)
def test_a_rank_that_fails_is_named_and_takes_the_others_with_it(
    bench, fault, state, cause, code, number
):
    body = BOTH_UP + f"if rank == 1:\n    {fault}\n" + WAIT
    outcome = run_ranks(bench, body)

    assert (outcome.state, outcome.exit["cause"]) == (state, cause)
    assert (outcome.exit["code"], outcome.exit["signal"]) == (code, number)
    assert outcome.exit["rank"] == 1
    assert outcome.usage["wall_s"] < 10


def test_a_rank_that_does_not_listen_is_killed_when_another_has_failed(bench):
    body = "signal.signal(15, signal.SIG_IGN)\n" + BOTH_UP
    body += "if rank == 0:\n    raise ValueError('first')\nwhile True:\n    signal.pause()"
    outcome = run_ranks(bench, body, grace_s=0.3)

    assert outcome.exit["cause"] == "rank 0: ValueError: first"
    assert outcome.usage["wall_s"] < 10


def test_a_rank_that_is_asked_to_end_can_still_save(bench):
    body = "def save(*_):\n    time.sleep(0.3)\n    open('saved', 'w').close()\n    sys.exit(1)\n"
    body += "signal.signal(15, save)\n" + BOTH_UP + "if rank == 0:\n    os._exit(3)\n" + WAIT
    outcome = run_ranks(bench, body)

    assert (bench.run.outputs / "saved").exists()
    assert outcome.exit["cause"].startswith("rank 0: the process ended with exit code 3")


def test_the_error_that_came_first_is_the_cause_and_not_what_followed_from_it(bench):
    body = BOTH_UP + "if rank == 1:\n    raise KeyError('first')\n"
    body += "time.sleep(0.2)\nraise ConnectionError('the other is gone')"
    outcome = run_ranks(bench, body)

    assert outcome.exit["cause"] == "rank 1: KeyError: 'first'"
    assert "the other is gone" in bench.run.log_err.read_text()


def test_a_mistake_that_all_ranks_make_is_put_down_to_the_one_on_the_terminal(bench):
    outcome = run_ranks(bench, "time.sleep(0.1 * (1 - rank))\nraise KeyError('all')")

    assert outcome.exit["cause"] == "rank 0: KeyError: 'all'"


def end(rank, *, status=0, when=0.0, at=None, how="exception"):
    """How a rank ended: with last words when `at` is given."""
    ending = {"how": how, "type": f"Error{rank}", "message": "", "traceback": "", "code": 1}
    return RankEnd(rank, status, when, None if at is None else {**ending, "at": at}, False)


FAILED, TERMINATED, CRASHED = 1 << 8, signal.SIGTERM, signal.SIGSEGV


@pytest.mark.parametrize(
    ("ends", "asked", "rank"),
    [
        # Both raised: the earlier.
        ([end(0, status=FAILED, when=1.2, at=1.1), end(1, status=FAILED, when=1.3, at=1.0)], 2, 1),
        # One died without a word, which its partner felt before it was seen gone.
        ([end(0, status=FAILED, when=1.1, at=1.0), end(1, status=CRASHED, when=1.05)], 2, 1),
        # One raised long before the other one crashed.
        ([end(0, status=FAILED, when=1.9, at=1.0), end(1, status=CRASHED, when=1.8)], 2, 0),
        # One was ended because the other had failed.
        ([end(0, status=TERMINATED, when=2.0), end(1, status=FAILED, when=1.5, at=1.4)], 1.9, 1),
        # One had failed, but was still busy with its end when it was ended.
        (
            [end(0, status=TERMINATED, when=2.0, at=1.0), end(1, status=FAILED, when=1.5, at=1.4)],
            *(1.9, 0),
        ),
    ],
)
def test_the_rank_that_failed_first_decides(ends, asked, rank):
    state, exit_ = judge_ranks(ends, received=None, timed_out=False, asked=asked)

    assert exit_["rank"] == rank
    if ends[rank].ending is not None:
        assert (state, exit_["cause"]) == ("failed", f"rank {rank}: Error{rank}")


def test_the_timeout_ends_all_ranks(bench):
    outcome = run_ranks(bench, WAIT, 3, timeout_s=0.5)

    assert (outcome.state, outcome.exit["cause"]) == ("timed_out", "the timeout was reached")


def test_a_signal_reaches_every_rank(bench):
    body = "try:\n    open(f'up{rank}', 'w').close()\n    " + WAIT
    body += "except KeyboardInterrupt:\n    open(f'saved{rank}', 'w').close()\n    raise"
    outputs = bench.run.outputs
    supervisor = Supervisor.start(processes=2)

    def press() -> bool:
        """Ctrl-C, once both are up."""
        if not all((outputs / f"up{rank}").exists() for rank in range(2)):
            return False
        supervisor.interrupt(signal.SIGINT)
        return True

    run = bench.run
    with ranks.environs(2, "a-run") as environs:
        outcome = supervisor.run(
            bench.spec(bench.script(RANK + body)),
            **{"log_out": run.log_out, "log_err": run.log_err, "audit": run.audit},
            **{"environs": environs, "show": False, "timeout_s": 20.0, "meanwhile": press},
        )

    assert (outcome.state, outcome.signal_received) == ("interrupted", signal.SIGINT)
    assert sorted(path.name for path in outputs.glob("saved*")) == ["saved0", "saved1"]


def lives(pid: int) -> bool:
    """Whether there is such a process, and more of it than its exit status."""
    found = processes.process(pid)
    return found is not None and not found.gone


@pytest.mark.parametrize("victim", ["runner", "guardian"])
def test_no_rank_outlives_the_runner_or_the_guardian(group, victim):
    group.write("work.py", in_main("open(f'up{rank}', 'w').write(str(os.getpid()))\n" + WAIT))
    group.commit()
    started = group.start("experiment.toml")
    assert until(lambda: group.runs() and len(list(group.latest().outputs.glob("up?"))) == 2)
    up = [group.latest().outputs / f"up{rank}" for rank in range(2)]
    assert until(lambda: all(path.read_text() for path in up))
    pids = [int(path.read_text()) for path in up]
    parent = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pids[0])]))
    os.kill(started.pid if victim == "runner" else parent, signal.SIGKILL)
    started.communicate(timeout=300)

    assert until(lambda: not any(lives(pid) for pid in pids), 50.0)
    assert json.loads(group.run("list", "--json").stdout)[0]["state"] == "killed"


def test_each_rank_has_a_log_that_can_be_read_while_it_runs(group):
    body = "print('rank', rank, 'here', flush=True)\nprint('oh', rank, file=sys.stderr)\n"
    body += "while not os.path.exists('go'):\n    time.sleep(0.01)\n"
    group.write("work.py", in_main(body))
    group.commit()
    started = group.start("experiment.toml")
    assert until(lambda: group.runs() and group.latest().logs(2)[-1].exists())
    logs = group.latest().logs(2)
    assert until(lambda: [log.read_text() for log in logs[2:]] == ["rank 1 here\n", "oh 1\n"])
    (group.latest().outputs / "go").touch()
    out, err = started.communicate(timeout=300)

    assert out == "rank 0 here\n"
    assert "oh 0" in err and "oh 1" not in err
    assert [log.name for log in logs[2:]] == ["log.rank1.out", "log.rank1.err"]


def test_logs_of_all_ranks_are_recorded_and_verified(group):
    group.write("work.py", in_main("print(rank)"))
    group.commit()
    assert group.run("experiment.toml").returncode == 0
    paths, recorded = group.latest(), group.record()["logs"]

    assert len(recorded["ranks"]) == 1
    assert verify.verify(paths) == []
    for log in paths.logs(2)[2:]:
        log.write_text("forged")
    assert [str(found.path) for found in verify.verify(paths)] == ["log.rank1.out", "log.rank1.err"]


def test_a_run_of_one_process_records_no_ranks(project):
    assert project.run("experiment.toml").returncode == 0

    assert set(project.record()["logs"]) == {"out_sha256", "err_sha256"}
    assert "rank" not in project.record()["exit"]


def test_the_end_says_which_rank_failed_and_shows_its_log(group):
    group.write("work.py", in_main("if rank == 1:\n    raise OSError('disk of rank one')\n" + WAIT))
    group.commit()
    done = group.run("experiment.toml")

    assert done.returncode == 1
    assert "rank 1: OSError: disk of rank one" in done.stderr
    assert "log.rank1.err" in done.stderr
    assert "Traceback" in done.stderr.split("log.rank1.err")[1]
    assert group.record()["exit"]["rank"] == 1
    schema = json.loads((CHECKOUT / "docs/metadata.schema.json").read_text())
    jsonschema.validate(json.loads(group.latest().metadata.read_text()), schema)


def test_a_log_that_a_rank_removes_is_put_back_and_found(group):
    group.write("work.py", in_main("if rank == 1:\n    os.remove('../log.rank1.out')"))
    group.commit()
    group.run("experiment.toml")

    assert "record_damaged" in [item["code"] for item in group.record()["findings"]]
    assert group.latest().logs(2)[2].exists()


def test_what_all_ranks_do_is_found_once(group, tmp_path):
    (tmp_path / "data.txt").write_text("1")
    body = f"open({str(tmp_path / 'data.txt')!r}).read()\nreturn {{'a': [1]}}"
    group.write("work.py", in_main(body))
    group.commit()
    group.run("experiment.toml")
    codes = [item["code"] for item in group.record()["findings"]]

    assert codes.count("read_outside_inputs") == codes.count("summary_ignored") == 1


def test_usage_covers_all_ranks(bench):
    body = "end = time.process_time() + 0.4\nwhile time.process_time() < end:\n    pass"
    usage = run_ranks(bench, body).usage

    assert usage["cpu_user_s"] + usage["cpu_system_s"] >= 0.8


def test_processes_that_any_rank_leaves_behind_are_ended_and_named(bench):
    body = "import subprocess\nif rank == 1:\n"
    body += "    subprocess.Popen(['sleep', '600'], start_new_session=True)"
    outcome = run_ranks(bench, body)

    assert outcome.state == "completed"
    assert [name.split()[0] for name in outcome.strays] == ["sleep"]


def test_a_run_that_a_rank_starts_is_no_rank_itself(monkeypatch):
    with ranks.environs(2, "outer") as environs:
        inherited = {key: value for key, value in environs[1].items() if value is not None}
    for key, value in inherited.items():
        monkeypatch.setenv(key, value)

    assert (ranks.rank(), ranks.size()) == (1, 2)
    assert ranks.inherited(os.environ) == dict.fromkeys(inherited)
    assert ranks.inherited({"RANK": "1"}) == {}


def test_torchruns_rank_counts_outside_a_run_and_not_inside(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (ranks.rank(), ranks.size()) == (1, 4)

    monkeypatch.setenv("ENGRAM_RUN", "a-run-of-one-process")
    assert (ranks.rank(), ranks.size()) == (0, 1)


def test_a_debugger_is_refused_for_several_processes(group):
    done = group.run("experiment.toml", "--pdb", "--live")

    assert done.returncode == 2
    assert "engine.processes=1" in done.stderr
    assert group.runs() == []


@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_ranks_share_the_processors(tmp_path, monkeypatch, processes, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    path = tmp_path / "experiment.toml"
    path.write_text(f'script = "work.py"\n[engine]\nprocesses = {processes}\n')
    assert load(path, root=tmp_path).environment.threads == threads

    path.write_text(f"{path.read_text()}[environment]\nthreads = 3\n")
    assert load(path, root=tmp_path).environment.threads == 3


class TestMetrics:
    def logged(self, folder, wandb=None):
        folder.mkdir(parents=True, exist_ok=True)
        with metrics.open(folder, wandb_config=wandb) as log:
            log(step=3, loss=1.0)
            with pytest.raises(ValueError, match="step 2"):
                log(step=2, loss=1.0)
            with pytest.raises(TypeError, match="loss"):
                log(step=4, loss=[1.0])
            log.to_csv()
        return sorted(path.name for path in folder.rglob("*"))

    def test_rank_0_writes_and_the_others_only_check(self, tmp_path, monkeypatch):
        monkeypatch.setattr(wandb_log, "start", lambda *_: pytest.fail("W&B was started"))
        monkeypatch.setenv("ENGRAM_RANK", "1")
        assert self.logged(tmp_path / "one", wandb={}) == []

        monkeypatch.setenv("ENGRAM_RANK", "0")
        written = ["metrics.csv", "metrics.jsonl", "metrics_times.jsonl"]
        assert self.logged(tmp_path / "zero") == written

    def test_a_late_rank_is_not_behind_the_lines_of_rank_0(self, tmp_path, monkeypatch):
        with metrics.open(tmp_path) as log:
            log(step=9)
        monkeypatch.setenv("ENGRAM_RANK", "1")
        with metrics.open(tmp_path) as log:
            log(step=0)

        assert list(metrics.read(tmp_path / RunPaths(tmp_path).metrics.name)) == [{"step": 9}]


def test_only_rank_0_draws_on_the_terminal(bench, monkeypatch):
    monkeypatch.setenv("ENGRAM_TERMINAL", "93")
    run_ranks(bench, "print(os.environ.get('ENGRAM_TERMINAL'))")

    assert [log.read_text() for log in bench.run.logs(2)[::2]] == ["93\n", "None\n"]


def test_starting_and_ending_a_group_is_quick(bench):
    began = time.monotonic()
    run_ranks(bench, "pass", 4)

    assert time.monotonic() - began < 60


def test_ranks_of_a_warm_interpreter_are_ranks_like_any_other(bench):
    body = BOTH_UP + "print(rank, os.getppid(), 'decimal' in sys.modules)\n"
    body += "if rank == 1 and os.path.exists('fail'):\n    raise RuntimeError('warm')\n"
    script, run = bench.script(RANK + body + "return {'rank': rank}"), bench.run
    spec = bench.spec(script)
    ground = {"script": script, "snapshot": bench.snapshot, "roots": [str(bench.snapshot)]}
    warm = Warm.start(["decimal"], **ground, bytecode=spec["bytecode"], environ={})
    assert warm.why_not is None
    outcomes, logs = [], []
    try:
        for fail in (False, True):
            for path in [*run.outputs.iterdir(), *run.logs(2)]:
                path.unlink(missing_ok=True)
            if fail:
                (run.outputs / "fail").touch()
            with ranks.environs(2, "a-run") as environs:
                outcome = Supervisor(warm.spawn(2)).run(
                    spec,
                    **{"log_out": run.log_out, "log_err": run.log_err, "audit": run.audit},
                    **{"environs": environs, "show": False, "timeout_s": 20.0},
                )
            outcomes.append(outcome)
            logs.append([log.read_text().split() for log in run.logs(2)[::2]])
    finally:
        warm.close()

    assert (outcomes[0].state, outcomes[0].summary) == ("completed", {"rank": 0})
    assert outcomes[1].exit["cause"] == "rank 1: RuntimeError: warm"
    for (rank_0, parent_0, was_there_0), (rank_1, parent_1, was_there_1) in logs:
        assert (rank_0, rank_1, was_there_0, was_there_1) == ("0", "1", "True", "True")
        assert parent_0 == parent_1, "one guardian"
