"""Shell completion, asked of a real bash that nobody sits at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project

from engram import cli, completion, options

BASH = shutil.which("bash")
DRIVER = """\
eval "$(engram completion bash)"
COMP_LINE=$1 COMP_POINT=${#1}
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
IFS=' ' read -ra COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_engram_complete "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" ""
compgen -W "$(printf '%s\\n' "${COMPREPLY[@]}")"
"""


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """A folder to put on PATH, with `engram` in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shim = folder / "engram"
    door = CHECKOUT / "run_experiment.py"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{door}" "$@"\n')
    shim.chmod(0o755)
    return folder


def completed(project: Project, shims: Path, line: str) -> list[str]:
    """What bash offers for a command line that ends at the cursor."""
    if BASH is None:
        pytest.skip("bash is not installed")
    done = subprocess.run(
        [BASH, "--norc", "--noprofile", "-c", DRIVER, "bash", line],
        cwd=project.root,
        env={**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_verbs_and_experiment_files_come_first(project: Project, shims: Path) -> None:
    found = completed(project, shims, "engram ")
    assert {name for name in cli.VERBS if not name.startswith("_")} <= set(found)
    assert "experiment.toml" in found
    assert "__complete" not in found
    assert "work.py" not in found


def test_a_begun_verb_is_ended(project: Project, shims: Path) -> None:
    assert completed(project, shims, "engram ver") == ["verify"]
    assert completed(project, shims, "engram nonesuch") == []


def test_options_of_a_run_are_offered(project: Project, shims: Path) -> None:
    found = completed(project, shims, "engram --re")
    assert set(found) == {"--resume", "--rerun", "--recreate-environment"}


def test_options_of_each_verb_are_those_of_its_help(project: Project, shims: Path) -> None:
    assert completed(project, shims, "engram gc --k") == ["--keep-last"]
    assert completed(project, shims, "engram show latest --l") == ["--lineage"]
    assert {"--yes", "--help"} <= set(completed(project, shims, "engram rm --"))


def test_runs_are_offered_where_a_run_is_due(project: Project, shims: Path) -> None:
    assert project.run("experiment.toml").returncode == 0
    run_id = project.latest().run_id
    expected = {"latest", "latest:project", run_id}
    for line in ("engram show ", "engram --rerun ", "engram rm latest ", "engram pin --remove "):
        assert set(completed(project, shims, line)) == expected
    assert completed(project, shims, f"engram verify {run_id[:12]}") == [run_id]


def test_bash_is_given_what_follows_its_word_break(project: Project, shims: Path) -> None:
    assert project.run("experiment.toml").returncode == 0
    assert completed(project, shims, "engram show latest:pr") == ["project"]


def test_values_with_choices_are_offered(project: Project, shims: Path) -> None:
    states = {"completed", "failed", "interrupted", "killed", "timed_out"}
    assert set(completed(project, shims, "engram gc --state ")) == states
    assert completed(project, shims, "engram gc --state failed k") == ["killed"]
    assert completed(project, shims, "engram completion z") == ["zsh"]


def test_filters_of_list_are_offered(project: Project, shims: Path) -> None:
    assert project.run("experiment.toml").returncode == 0
    found = completed(project, shims, "engram list ")
    assert {"state=", "tag=", "param.value=", "summary.doubled="} <= set(found)
    assert "summary.doubled" in completed(project, shims, "engram list --sort summ")


def test_folders_lead_to_experiments_in_them(project: Project, shims: Path) -> None:
    project.write("experiments/mine/experiment.toml", "")
    assert "experiments/" in completed(project, shims, "engram experi")
    assert completed(project, shims, "engram experiments/mi") == ["experiments/mine/"]
    expected = ["experiments/mine/experiment.toml"]
    assert completed(project, shims, "engram experiments/mine/") == expected


def test_our_run_script_is_completed_without_being_started(project: Project, shims: Path) -> None:
    folder = project.root / "checkout"
    folder.mkdir()
    for name in ("lib", "run_experiment.py"):
        (folder / name).symlink_to(CHECKOUT / name)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    started = project.write("checkout/run", "#!/bin/sh\ntouch started\n")
    started.chmod(0o755)
    assert completed(project, shims, "checkout/run ver") == ["verify"]
    assert not (project.root / "started").exists()


def test_a_run_script_that_is_not_ours_is_left_alone(project: Project, shims: Path) -> None:
    script = project.write("run", "#!/bin/sh\ntouch started\necho verify\n")
    script.chmod(0o755)
    assert completed(project, shims, "./run ver") == []
    assert not (project.root / "started").exists()


def test_the_commands_are_registered(project: Project, shims: Path) -> None:
    if BASH is None:
        pytest.skip("bash is not installed")
    done = subprocess.run(
        [BASH, "--norc", "-c", 'eval "$(engram completion bash)"; complete -p engram ./run run'],
        env={**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("-F _engram_complete") == 3


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_script_is_valid_for_its_shell(project: Project, shell: str) -> None:
    done = project.run("completion", shell)
    assert done.returncode == 0
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    checked = subprocess.run([program, "-n", "/dev/stdin"], input=done.stdout.encode(), check=False)
    assert checked.returncode == 0


def test_an_unknown_shell_is_refused(project: Project) -> None:
    assert project.run("completion", "tcsh").returncode == 2


def test_every_verb_is_in_the_help() -> None:
    shown = options.EPILOG.replace(",", " ").split()
    assert [name for name in cli.VERBS if name[:1] != "_" and name not in shown] == []


def test_asking_every_verb_for_completion_does_nothing(project: Project, shims: Path) -> None:
    assert project.run("experiment.toml").returncode == 0
    before = sorted(project.latest().folder.rglob("*"))
    for verb in cli.VERBS:
        project.run("__complete", verb, "")
        project.run("__complete", verb, "--")
    assert sorted(project.latest().folder.rglob("*")) == before
    assert len(project.runs()) == 1
