"""Rules of a run that no other file shows: each is tried through the real command line."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Project

from engram import record

MAIN = "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
SLEEP = "[sys.executable, '-S', '-c', 'import time; time.sleep(600)', {token!r}]"


def family(token: str) -> str:
    """A script that waits for minutes with a child and a daemon, which carry a word."""
    sleep = SLEEP.format(token=token)
    return (
        f"import subprocess, sys, time\n{MAIN}    subprocess.Popen({sleep})\n"
        f"    subprocess.Popen({sleep}, env={{}}, start_new_session=True)\n"
        "    print('up', flush=True)\n    time.sleep(600)\n"
    )


def waiting(project: Project, script: str | None = None) -> subprocess.Popen[str]:
    """Start a run whose script waits for minutes; return when the script has said "up"."""
    project.write("work.py", script or family(uuid.uuid4().hex))
    project.commit()
    started = project.start("experiment.toml")
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    return started


def ended(started: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Signal a runner and wait for it."""
    if started.poll() is None:
        started.send_signal(number)
    started.communicate(timeout=300)


def living(token: str) -> list[int]:
    """The processes that have this word in their command line; /proc is the witness."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if token.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def none_lives(token: str, seconds: float = 60.0) -> bool:
    """Whether all processes with this word in their command line are gone within the time."""
    end = time.monotonic() + seconds
    while (left := living(token)) and time.monotonic() < end:
        time.sleep(0.02)
    return not left


def tree(folder: Path) -> dict[str, str]:
    """The content of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def separate(*arguments: str) -> list[str]:
    """The prefix that runs a command in namespaces of its own; skips where that is not allowed."""
    prefix = ["unshare", *arguments]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"namespaces cannot be made here: {' '.join(prefix)}")
    return prefix


@pytest.fixture
def mounted() -> Iterator[Callable[..., None]]:
    """Mounts, taken away again at the end; skips where mounting is not allowed."""
    made: list[Path] = []

    def mount(place: Path, *arguments: str) -> None:
        command = ["mount", *arguments, str(place)]
        if (
            shutil.which("mount") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("mounting needs privileges that are missing here")
        if place not in made:
            made.append(place)

    yield mount
    for place in made:
        subprocess.run(["umount", str(place)], check=False)


def listed(project: Project, *prefix: str) -> list[dict[str, object]]:
    """What `list --json` says, with the command started in a given way."""
    command = [*prefix, *project.command("list", "--json")]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_run_of_another_pid_namespace_is_never_declared_dead_from_here(project: Project) -> None:
    prefix = separate("--pid", "--fork", "--mount-proc", "--kill-child")
    project.write("work.py", family(uuid.uuid4().hex))
    project.commit()
    started = subprocess.Popen(
        [*prefix, *project.command("experiment.toml")],
        cwd=project.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    assert [row["state"] for row in listed(project)] == ["running"]
    started.kill()
    started.communicate()
    assert [row["state"] for row in listed(project)] == ["running"]
    assert "running on" in project.run("list").stdout
    assert project.record()["state"] == "running"


def test_run_of_this_namespace_is_declared_dead_from_here_alone(project: Project) -> None:
    elsewhere = separate("--pid", "--fork", "--mount-proc")
    renamed = [*separate("--uts"), "sh", "-c", 'hostname other-host && exec "$@"', "sh"]
    ended(waiting(project))
    assert [row["state"] for row in listed(project, *elsewhere)] == ["running"]
    assert [row["state"] for row in listed(project, *renamed)] == ["running"]
    assert project.record()["state"] == "running"
    assert [row["state"] for row in listed(project)] == ["killed"]
    assert project.record()["state"] == "killed"


TAKE_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_no_prompt_even_where_a_terminal_could_answer(project: Project) -> None:
    project.write("stray.py", "")
    ours, theirs = pty.openpty()
    answers = b"y\ny\n"
    try:
        os.write(ours, answers)
        for arguments, code in (
            (["experiment.toml"], 3),
            (["experiment.toml", "--allow-dirty"], 0),
            (["--rerun", "latest"], 0),
            (["--resume", "latest"], 2),
            (["show", "no-such-run"], 2),
        ):
            done = subprocess.run(
                [sys.executable, "-c", TAKE_TERMINAL, *project.command(*arguments)],
                cwd=project.root,
                stdin=theirs,
                capture_output=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == code, (arguments, done.stderr)
        waiting_bytes = struct.unpack("i", fcntl.ioctl(theirs, termios.FIONREAD, b"\0" * 4))[0]
        # A line discipline gives one line at a time: whatever it counts, the first is still there.
        assert waiting_bytes >= len(b"y\n")
        assert os.read(theirs, len(answers)).startswith(b"y\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_no_old_run_is_changed_by_later_ones(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    first = project.latest()
    before = tree(first.folder)
    fixed = record.load(first)
    assert project.run("experiment.toml", "--set", "value=5").returncode == 0
    assert project.run("--rerun", first.run_id).returncode == 0
    assert project.run("--resume", first.run_id).returncode == 2
    project.write("work.py", "raise SystemExit(9)\n" + (project.root / "work.py").read_text())
    assert project.run("experiment.toml", "--allow-dirty").returncode == 1
    assert project.run("verify", first.run_id).returncode == 0
    after = tree(first.folder)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"metadata.json", "README.md"}
    now = record.load(first)
    assert len(now.pop("reruns")) == 1
    assert fixed.pop("reruns") == []
    assert now == fixed


def test_times_are_utc_with_their_offset_wherever_the_clock_stands(project: Project) -> None:
    assert project.run("experiment.toml", env={"TZ": "Asia/Kathmandu"}).returncode == 0
    found = project.record()
    line = json.loads((project.root / "runs" / "log.jsonl").read_text())
    stamps = [found["times"][key] for key in ("created", "started", "ended")]
    for stamp in (*stamps, line["created"], line["ended"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", stamp)
    assert stamps == sorted(stamps)
    assert found["run_id"][:15] == re.sub(r"[-:]", "", stamps[0])[:15]
    assert 0 <= found["times"]["run_s"] <= found["times"]["total_s"]


def test_read_only_run_root_is_refused_clearly_and_can_still_be_read(
    project: Project, mounted: Callable[..., None]
) -> None:
    assert project.run("experiment.toml").returncode == 0
    root = project.root / "runs"
    before = tree(root)
    mounted(root, "--bind", str(root))
    mounted(root, "-o", "remount,bind,ro")
    for arguments in (["experiment.toml"], ["--rerun", "latest"]):
        refused = project.run(*arguments)
        assert refused.returncode == 2
        assert "read-only" in refused.stderr
        assert "Traceback" not in refused.stderr
    for arguments in (["list"], ["show", "latest"], ["verify", "latest"]):
        assert project.run(*arguments).returncode == 0, arguments
    assert tree(root) == before


def test_full_disk_is_said_and_leaves_an_intact_store(
    project: Project, mounted: Callable[..., None]
) -> None:
    root = project.root / "runs"
    root.mkdir()
    mounted(root, "-t", "tmpfs", "-o", "size=512k", "tmpfs")
    assert project.run("experiment.toml").returncode == 0
    first = project.latest()
    ballast = root / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    refused = project.run("experiment.toml")
    assert refused.returncode != 0
    assert "disk is full" in refused.stderr
    assert "Traceback" not in refused.stderr
    ballast.unlink()
    for path in root.rglob("*.json"):
        json.loads(path.read_text())
    assert project.run("verify", first.run_id).returncode == 0
    assert project.run("experiment.toml").returncode == 0
    assert project.record()["state"] == "completed"
    assert first.run_id in project.run("list").stdout


def test_run_root_on_another_file_system_is_enough_to_repeat_a_run(
    project: Project, mounted: Callable[..., None], tmp_path: Path
) -> None:
    root = tmp_path / "other disk"
    root.mkdir()
    mounted(root, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    done = project.run("experiment.toml", "--config", f'output_dir="{root}"')
    assert done.returncode == 0, done.stderr
    assert project.run("verify", "latest").returncode == 0
    assert project.run("--rerun", "latest").returncode == 0
    assert len(listed(project)) == 2


@pytest.mark.parametrize(
    "name", ["two words", "new\nline", "quote\"'", "größe", "$HOME;*?[a]", "-x"]
)
def test_unusual_names_of_repository_script_parameters_and_input_are_allowed(
    tmp_path: Path, project: Project, name: str
) -> None:
    moved = Project(tmp_path / name / "project")
    moved.root.parent.mkdir()
    project.root.rename(moved.root)
    (moved.root / "work.py").rename(moved.root / f"{name}.py")
    (moved.root / "parameters.toml").rename(moved.root / f"{name}.toml")
    moved.write(f"../{name}.txt", "data\n")
    moved.write(
        "experiment.toml",
        f"script = {json.dumps(name + '.py')}\nparameters_file = {json.dumps(name + '.toml')}\n"
        f"output_dir = 'runs'\n[[data.inputs]]\npath = {json.dumps(f'../{name}.txt')}\n",
    )
    moved.commit()
    for arguments in (["experiment.toml"], ["verify", "latest"], ["--rerun", "latest"]):
        done = moved.run(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert (moved.latest().inputs / f"{name}.txt").read_text() == "data\n"
    assert "identical" in done.stderr


def test_checkout_reached_through_a_link_is_the_same_repository(
    project: Project, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(project.root)
    done = project.run("experiment.toml", cwd=link)
    assert done.returncode == 0, done.stderr
    assert project.run("--rerun", "latest", cwd=link).returncode == 0
    assert project.run("--rerun", project.runs()[0].run_id).returncode == 0
    assert len(listed(project)) == 3


def test_repository_of_another_owner_is_refused_with_gits_advice(project: Project) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository to another owner")
    for path in (project.root, *project.root.rglob("*")):
        os.chown(path, 54321, 54321)
    refused = project.run("experiment.toml", env={"HOME": str(project.root.parent)})
    assert refused.returncode == 2
    assert "safe.directory" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (project.root / "runs").exists()


DAEMONS = """\
import os, signal, subprocess, sys
{main}
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(600)"
    for number in range(5):
        if os.fork() == 0:
            os.setsid()
            command = [sys.executable, "-S", "-c", code, {token!r}]
            started = subprocess.Popen(command, env={{}}, stdout=subprocess.PIPE, cwd="/")
            os._exit(0)
        os.wait()
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 # " + {token!r}], env={{}})
    {end}
"""


@pytest.mark.parametrize(
    "end", ["return {}", "os.kill(os.getpid(), 9)", "os.kill(os.getppid(), 9)"]
)
def test_daemons_with_an_empty_environment_end_with_the_run(project: Project, end: str) -> None:
    token = uuid.uuid4().hex
    if "getppid" in end:
        end = "os.kill(runner, 9); signal.pause()"
        end = f"runner = int(open(f'/proc/{{os.getppid()}}/stat').read().split()[3]); {end}"
    project.write("work.py", DAEMONS.format(main=MAIN.rstrip(), token=token, end=end))
    project.commit()
    project.run("experiment.toml")
    assert none_lives(token)
    assert len(project.runs()) == 1


def test_kill_9_of_the_runners_whole_process_group_leaves_no_process(project: Project) -> None:
    token = uuid.uuid4().hex
    started = waiting(project, family(token))
    assert living(token)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    assert none_lives(token)
    assert [row["state"] for row in listed(project)] == ["killed"]


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM])
def test_signal_that_kills_the_runner_leaves_no_process_and_a_killed_run(
    project: Project, number: int
) -> None:
    token = uuid.uuid4().hex
    started = waiting(project, family(token))
    assert living(token)
    ended(started, number)
    assert none_lives(token)
    assert [row["state"] for row in listed(project)] == ["killed"]


def test_ctrl_c_that_the_script_swallows_is_still_an_interruption(project: Project) -> None:
    started = waiting(
        project,
        f"import time\n{MAIN}    try:\n        print('up', flush=True)\n        time.sleep(600)\n"
        "    except KeyboardInterrupt:\n        return {'value': 1}\n",
    )
    ended(started, signal.SIGINT)
    assert started.returncode == 130
    assert project.record()["state"] == "interrupted"
    assert project.record()["summary"] == {"value": 1}


def test_pressing_ctrl_c_again_ends_a_deaf_script_without_the_grace(project: Project) -> None:
    started = waiting(
        project,
        f"import signal, time\n{MAIN}    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    print('up', flush=True)\n    time.sleep(600)\n",
    )
    end = time.monotonic() + 9.0  # the grace is ten seconds
    while started.poll() is None and time.monotonic() < end:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(0.3)
        except subprocess.TimeoutExpired:
            continue
    pressed_out = started.poll()
    ended(started)
    assert pressed_out == 130
    assert project.record()["state"] == "interrupted"


def test_run_started_with_ctrl_c_ignored_goes_on(project: Project) -> None:
    project.write(
        "work.py",
        f"import os, signal\n{MAIN}    os.kill(os.getppid(), signal.SIGINT)\n"
        "    runner = int(open(f'/proc/{os.getppid()}/stat').read().split()[3])\n"
        "    os.kill(runner, signal.SIGINT)\n",
    )
    project.commit()
    # A shell without job control starts what stands before an ampersand so.
    ignore = "import os, signal, sys; signal.signal(2, signal.SIG_IGN); "
    command = [sys.executable, "-c", ignore + "os.execv(sys.argv[1], sys.argv[1:])"]
    done = subprocess.run(
        [*command, *project.command("experiment.toml")],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert project.record()["state"] == "completed"


@pytest.mark.parametrize(
    ("code", "state", "cause"),
    [
        ("os.execv('/bin/true', ['true'])", "failed", "exit code 0 before main returned"),
        ("os.fork(); return {'value': 1}", "completed", "main returned"),
        ("os.closerange(0, 4096); return {}", "completed", "main returned"),
        ("threading.Thread(target=time.sleep, args=(0.2,)).start()", "completed", "main returned"),
        ("atexit.register(os._exit, 7)", "failed", "exit code 7 after main had returned"),
        ("atexit.register(lambda: 1 / 0)", "completed", "main returned"),
        ("sys.modules.clear(); sys.path.clear()", "completed", "main returned"),
        ("os.mkdir('x'); os.chdir('x'); os.rmdir('../x')", "completed", "main returned"),
        ("os.rmdir(output_dir)", "completed", "main returned"),
        ("sys.exit(256)", "failed", "sys.exit(256)"),
    ],
)
def test_unusual_ends_of_a_script_are_told_truthfully(
    project: Project, code: str, state: str, cause: str
) -> None:
    imports = "import atexit, os, sys, threading, time\n"
    project.write("work.py", f"{imports}{MAIN}    {code}\n")
    project.commit()
    done = project.run("experiment.toml")
    found = project.record()
    assert found["state"] == state, done.stderr
    assert cause in found["exit"]["cause"]
    assert done.returncode == (0 if state == "completed" else 1)


def test_pool_of_spawned_processes_runs_the_snapshots_functions(project: Project) -> None:
    project.write("helper.py", "def square(x):\n    return x * x\n")
    project.write(
        "work.py",
        f"import multiprocessing\nfrom helper import square\n\n\n{MAIN}"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        return {'sum': sum(pool.map(square, range(4)))}\n\n\n"
        "if __name__ == '__main__':\n    raise SystemExit('not as a program')\n",
    )
    project.commit()
    done = project.run("experiment.toml")
    assert done.returncode == 0, done.stderr
    found = project.record()
    assert found["summary"] == {"sum": 14}
    assert [item for item in found["findings"] if item["severity"] != "note"] == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("mode", 3),
        ("type", 3),
        ("link", 3),
        ("repository", 3),
        ("excluded", 0),
        ("empty folder", 0),
        ("bare", 0),
        ("shallow", 0),
        ("worktree", 0),
    ],
)
def test_clean_rule_holds_through_the_command_line(
    project: Project, tmp_path: Path, change: str, code: int
) -> None:
    project.write("helper.py", "VALUE = 1\n")
    project.commit()
    root, here = project.root, project
    if change == "mode":
        (root / "helper.py").chmod(0o755)
    elif change == "type":
        (root / "helper.py").unlink()
        (root / "helper.py").symlink_to(tmp_path)
    elif change == "link":
        (root / "stray").symlink_to("/etc/passwd")
    elif change == "repository":
        subprocess.run(["git", "init", "-q", str(root / "nested")], check=True)
    elif change == "excluded":
        (root / ".git" / "info" / "exclude").write_text("stray.py\n")
        project.write("stray.py", "VALUE = 2\n")
    elif change == "empty folder":
        (root / "empty").mkdir()
    elif change == "shallow":
        project.commit("another")
        here = Project(tmp_path / "clone")
        project.git("clone", "-q", "--depth", "1", f"file://{root}", str(here.root))
    else:
        here = Project(tmp_path / "tree")
        store = tmp_path / "bare.git" if change == "bare" else root
        if change == "bare":
            project.git("clone", "-q", "--bare", str(root), str(store))
        project.git("-C", str(store), "worktree", "add", "-q", "--detach", str(here.root), "main")
    done = here.run("experiment.toml")
    assert done.returncode == code, done.stderr
    if code:
        assert not (root / "runs").exists()
    else:
        assert here.run("--rerun", "latest").returncode == 0


def test_commit_made_while_a_run_goes_on_changes_nothing_of_it(project: Project) -> None:
    project.write(
        "work.py",
        f"import sys\n{MAIN}    print('up', flush=True)\n"
        "    import helper\n    return {'value': helper.VALUE}\n",
    )
    project.write("helper.py", "VALUE = 1\n")
    commit = project.commit()
    started = project.start("experiment.toml")
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    project.write("helper.py", "VALUE = 2\n")
    project.commit("while it runs")
    started.communicate(timeout=300)
    assert project.record()["code"]["commit"] == commit
    assert project.record()["summary"] == {"value": 1}
    assert project.run("experiment.toml").returncode == 0
    assert project.record()["summary"] == {"value": 2}
