"""The clean rule, the identity of a commit, and the capture of dirty work, against real git."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engram.errors import ConfigError, UnrecordedCodeError
from engram.repository import GitState, Repository, find_root, without_credentials

ALLOWED = ["workspace/", "runs", "parameters/p.toml"]


def git(folder: Path, *arguments: str, data: bytes | None = None, **variables: str) -> str:
    """Run the real git as a person would, without any configuration of the machine."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = (
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "protocol.file.allow=always",
    )
    done = subprocess.run(
        ["git", *identity, *arguments],
        cwd=folder,
        env=environment | variables,
        input=data,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stderr)
    return os.fsdecode(done.stdout).rstrip("\n")


def write(root: Path, path: str, content: bytes | str) -> Path:
    """Write a file and the folders above it."""
    full = root / path
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_bytes(content.encode() if isinstance(content, str) else content)
    return full


def commit_all(root: Path, message: str = "work") -> str:
    """Commit everything and return the commit's id."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a script, a module, parameters and a template in workspace/."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    write(folder, "train.py", "def main(): ...\n")
    write(folder, "src/model.py", "x = 1\n")
    write(folder, "parameters/p.toml", "a = 1\n")
    write(folder, "workspace/template.toml", "a = 1\n")
    write(folder, ".gitignore", "runs/\nignored.py\n")
    commit_all(folder)
    return folder


def inspect(root: Path, script: str = "train.py") -> GitState:
    """Inspect with the usual allowances."""
    return Repository(root).inspect(script=script, allowed=ALLOWED)


def refused(root: Path, path: str, script: str = "train.py") -> str:
    """Assert that `path` is refused by name; return the message."""
    repository = Repository(root)
    state = repository.inspect(script=script, allowed=ALLOWED)
    assert path in [change.path for change in state.changes]
    assert state.dirty
    with pytest.raises(UnrecordedCodeError) as caught:
        repository.require_clean(state)
    assert repr(path) in str(caught.value)
    assert caught.value.exit_code == 3
    return str(caught.value)


def accepted(root: Path, script: str = "train.py") -> GitState:
    """Assert that the working tree counts as clean."""
    repository = Repository(root)
    state = repository.inspect(script=script, allowed=ALLOWED)
    repository.require_clean(state)
    assert not state.dirty
    assert state.commit == git(root, "rev-parse", "HEAD")
    return state


def make_submodule(root: Path) -> Path:
    """Add a submodule `sub` with one module; return its checkout."""
    origin = root.parent / "origin"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    write(origin, "inner.py", "y = 1\n")
    commit_all(origin)
    git(root, "submodule", "--quiet", "add", str(origin), "sub")
    commit_all(root, "submodule")
    return root / "sub"


# Refused


def test_dirty_tracked_file_refuses_run(root: Path) -> None:
    write(root, "src/model.py", "x = 2\n")
    assert "modified" in refused(root, "src/model.py")


def test_dirty_file_of_same_size_with_old_time_restored_refuses_run(root: Path) -> None:
    path = root / "src/model.py"
    before = path.stat()
    path.write_text("x = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    refused(root, "src/model.py")


def test_deleted_tracked_file_refuses_run(root: Path) -> None:
    (root / "src/model.py").unlink()
    assert "deleted" in refused(root, "src/model.py")


def test_staged_but_uncommitted_file_refuses_run(root: Path) -> None:
    write(root, "src/new.py", "")
    git(root, "add", "src/new.py")
    assert "in the index" in refused(root, "src/new.py")


def test_intent_to_add_refuses_run(root: Path) -> None:
    write(root, "src/new.py", "z = 1\n")
    git(root, "add", "-N", "src/new.py")
    refused(root, "src/new.py")


def test_untracked_file_outside_workspace_refuses_run(root: Path) -> None:
    write(root, "src/helper.py", "")
    assert "untracked" in refused(root, "src/helper.py")


def test_untracked_file_is_seen_with_show_untracked_files_no(root: Path) -> None:
    git(root, "config", "status.showUntrackedFiles", "no")
    write(root, "src/helper.py", "")
    refused(root, "src/helper.py")


def test_untracked_nested_repository_refuses_run(root: Path) -> None:
    (root / "nested").mkdir()
    git(root / "nested", "init", "-q")
    write(root, "nested/a.py", "")
    refused(root, "nested/")


@pytest.mark.parametrize("flag", ["assume-unchanged", "skip-worktree"])
def test_flagged_file_that_differs_refuses_run(root: Path, flag: str) -> None:
    git(root, "update-index", f"--{flag}", "src/model.py")
    write(root, "src/model.py", "x = 2\n")
    assert git(root, "status", "--porcelain") == ""
    assert flag in refused(root, "src/model.py")


@pytest.mark.parametrize("flag", ["assume-unchanged", "skip-worktree"])
def test_flagged_file_of_same_size_with_old_time_restored_refuses_run(
    root: Path, flag: str
) -> None:
    path = root / "src/model.py"
    before = path.stat()
    git(root, "update-index", f"--{flag}", "src/model.py")
    path.write_text("x = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(root, "src/model.py")


def test_file_deleted_behind_skip_worktree_refuses_run(root: Path) -> None:
    git(root, "update-index", "--skip-worktree", "src/model.py")
    (root / "src/model.py").unlink()
    refused(root, "src/model.py")


def test_flagged_file_that_is_equal_is_allowed_and_keeps_its_flag(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", "src/model.py")
    git(root, "update-index", "--skip-worktree", "train.py")
    before = (root / ".git/index").read_bytes()
    accepted(root)
    assert (root / ".git/index").read_bytes() == before
    listing = git(root, "ls-files", "-v").splitlines()
    assert "h src/model.py" in listing
    assert "S train.py" in listing


@pytest.mark.parametrize("source", ["workspace/template.toml", "parameters/p.toml"])
def test_staged_rename_out_of_an_allowed_place_refuses_run(root: Path, source: str) -> None:
    git(root, "config", "status.renames", "copies")
    git(root, "mv", source, "src/moved.toml")
    refused(root, "src/moved.toml")


def test_modified_submodule_refuses_run(root: Path) -> None:
    write(make_submodule(root), "inner.py", "y = 2\n")
    refused(root, "sub/inner.py")


def test_untracked_file_in_submodule_refuses_run(root: Path) -> None:
    write(make_submodule(root), "more.py", "")
    refused(root, "sub/more.py")


def test_submodule_at_another_commit_refuses_run(root: Path) -> None:
    sub = make_submodule(root)
    write(sub, "inner.py", "y = 2\n")
    commit_all(sub)
    assert "another commit" in refused(root, "sub")


@pytest.mark.parametrize("place", [".gitmodules", ".git/config"])
def test_dirty_submodule_with_ignore_all_refuses_run(root: Path, place: str) -> None:
    sub = make_submodule(root)
    git(root, "config", "-f", place, "submodule.sub.ignore", "all")
    git(root, "config", "diff.ignoreSubmodules", "all")
    if place == ".gitmodules":
        commit_all(root)
    write(sub, "inner.py", "y = 2\n")
    commit = git(root, "rev-parse", "HEAD")
    refused(root, "sub/inner.py")
    commit_all(sub)
    assert git(root, "rev-parse", "HEAD") == commit
    refused(root, "sub")


@pytest.mark.parametrize("flag", ["assume-unchanged", "skip-worktree"])
def test_flagged_file_that_differs_inside_submodule_refuses_run(root: Path, flag: str) -> None:
    sub = make_submodule(root)
    git(sub, "update-index", f"--{flag}", "inner.py")
    write(sub, "inner.py", "y = 2\n")
    assert flag in refused(root, "sub/inner.py")


def test_flagged_submodule_at_another_commit_refuses_run(root: Path) -> None:
    sub = make_submodule(root)
    git(root, "update-index", "--assume-unchanged", "sub")
    write(sub, "inner.py", "y = 2\n")
    commit_all(sub)
    refused(root, "sub")


def test_files_in_a_submodule_that_is_not_checked_out_refuse_run(root: Path) -> None:
    make_submodule(root)
    git(root, "submodule", "--quiet", "deinit", "-f", "sub")
    write(root, "sub/inner.py", "y = 3\n")
    refused(root, "sub/")


def test_untracked_script_refuses_run_also_in_workspace(root: Path) -> None:
    write(root, "workspace/mine.py", "def main(): ...\n")
    refused(root, "workspace/mine.py", script="workspace/mine.py")


def test_modified_script_refuses_run_also_in_workspace(root: Path) -> None:
    write(root, "workspace/mine.py", "def main(): ...\n")
    commit_all(root)
    accepted(root, script="workspace/mine.py")
    write(root, "workspace/mine.py", "def main(): pass\n")
    refused(root, "workspace/mine.py", script="workspace/mine.py")


def test_ignored_script_refuses_run(root: Path) -> None:
    write(root, "ignored.py", "def main(): ...\n")
    assert "ignored" in refused(root, "ignored.py", script="ignored.py")


@pytest.mark.parametrize("script", ["../outside.py", "/{tmp}/outside.py"])
def test_script_outside_the_repository_refuses_run(root: Path, script: str) -> None:
    write(root.parent, "outside.py", "def main(): ...\n")
    script = script.replace("/{tmp}", str(root.parent))
    with pytest.raises(UnrecordedCodeError, match="outside the repository"):
        inspect(root, script)


def test_tracked_link_to_a_script_outside_refuses_run(root: Path) -> None:
    outside = write(root.parent, "outside.py", "def main(): ...\n")
    (root / "link.py").symlink_to(outside)
    commit_all(root)
    with pytest.raises(UnrecordedCodeError, match="outside the repository"):
        inspect(root, "link.py")


def test_repository_without_a_commit_is_a_clear_error(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(tmp_path, "train.py", "")
    with pytest.raises(UnrecordedCodeError, match="no commit yet"):
        inspect(tmp_path)


def test_unmerged_file_refuses_run(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "other")
    write(root, "src/model.py", "x = 5\n")
    commit_all(root)
    git(root, "checkout", "-q", "main")
    write(root, "src/model.py", "x = 6\n")
    commit_all(root)
    with pytest.raises(AssertionError, match="merge"):
        git(root, "merge", "other")
    assert "unmerged" in refused(root, "src/model.py")


def test_long_lists_of_refused_files_are_cut_and_counted(root: Path) -> None:
    for number in range(30):
        write(root, f"src/extra{number:02}.py", "")
    message = refused(root, "src/extra00.py")
    assert "src/extra19.py" in message
    assert "src/extra20.py" not in message
    assert "and 10 more" in message


def test_broken_git_folder_does_not_lead_to_the_repository_above(root: Path) -> None:
    inner = root / "workspace/inner"
    (inner / ".git").mkdir(parents=True)
    write(inner, "train.py", "")
    with pytest.raises(ConfigError):
        Repository(inner).inspect(script="train.py", allowed=[])


# Allowed


def test_clean_tree_is_identified(root: Path) -> None:
    state = accepted(root)
    assert state.branch == "main"
    assert state.remotes == {}
    assert state.on_remote is None
    assert state.script_blob == git(root, "hash-object", "train.py")
    assert state.submodules == []


def test_workspace_runs_and_the_parameters_file_may_differ(root: Path) -> None:
    write(root, "workspace/template.toml", "a = 2\n")
    write(root, "workspace/new.toml", "")
    write(root, "parameters/p.toml", "a = 2\n")
    write(root, "runs/x/log.out", "")
    state = accepted(root)
    assert {change.path for change in state.spared} == {
        "workspace/template.toml",
        "workspace/new.toml",
        "parameters/p.toml",
    }


def test_allowed_places_are_whole_path_parts(root: Path) -> None:
    write(root, "workspace2/a.py", "")
    refused(root, "workspace2/a.py")


def test_detached_head_is_allowed(root: Path) -> None:
    git(root, "checkout", "-q", "--detach")
    assert accepted(root).branch is None


def test_unpushed_and_pushed_commits_are_told_apart(root: Path) -> None:
    git(root.parent, "clone", "-q", str(root), "clone")
    clone = root.parent / "clone"
    assert accepted(clone).on_remote is True
    write(clone, "src/model.py", "x = 3\n")
    commit_all(clone)
    assert accepted(clone).on_remote is False


def test_remote_without_any_fetched_branch_counts_as_not_pushed(root: Path) -> None:
    git(root, "remote", "add", "origin", "https://example.org/a.git")
    assert accepted(root).on_remote is False


@pytest.mark.parametrize(
    "name",
    [
        "with space.py",
        "quo\"te's.py",
        "new\nline.py",
        "tab\t.py",
        "ünïcödé-日本.py",
        "-dash.py",
        "a*[b]?.py",
    ],
)
def test_unusual_names_are_allowed_and_named(root: Path, name: str) -> None:
    path = f"src/{name}"
    write(root, path, "x = 1\n")
    refused(root, path)
    commit_all(root)
    assert accepted(root, script=path).script_blob == git(root, "hash-object", f"./{path}")
    write(root, path, "x = 2\n")
    refused(root, path)


def test_name_that_is_not_utf8_is_allowed(root: Path) -> None:
    path = os.fsdecode(b"src/\xff.py")
    write(root, path, "x = 1\n")
    refused(root, path)
    commit_all(root)
    accepted(root)


def test_git_variables_of_the_shell_are_ignored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    for name in (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_COMMON_DIR",
    ):
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "nonsense")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "nonsense")
    assert find_root(root / "src") == root
    repository = Repository(root)
    state = accepted(root)
    assert (repository.snapshot(state.commit).path / "src/model.py").read_text() == "x = 1\n"
    write(root, "src/model.py", "x = 2\n")
    refused(root, "src/model.py")


def test_autocrlf_checkout_is_allowed(root: Path) -> None:
    git(root, "config", "core.autocrlf", "true")
    path = root / "src/model.py"
    path.unlink()
    git(root, "checkout", "--", "src/model.py")
    assert path.read_bytes() == b"x = 1\r\n"
    accepted(root)


def test_fsmonitor_is_neither_started_nor_believed(root: Path) -> None:
    marker = root.parent / "monitor-ran"
    monitor = write(root.parent, "monitor", f"#!/bin/sh\ntouch '{marker}'\nprintf 'token\\0'\n")
    monitor.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(monitor))
    git(root, "update-index", "--fsmonitor")
    git(root, "status")
    assert marker.exists()
    marker.unlink()
    accepted(root)
    write(root, "src/model.py", "x = 2\n")
    refused(root, "src/model.py")
    assert not marker.exists()


def test_hooks_do_not_run(root: Path) -> None:
    marker = root.parent / "hook-ran"
    for name in ("reference-transaction", "post-index-change", "post-checkout", "pre-commit"):
        hook = write(root, f".git/hooks/{name}", f"#!/bin/sh\necho {name} >> '{marker}'\n")
        hook.chmod(0o755)
    git(root, "update-ref", "refs/heads/probe", "HEAD")
    assert marker.exists()
    marker.unlink()
    repository = Repository(root)
    repository.snapshot(accepted(root).commit)
    write(root, "src/model.py", "x = 2\n")
    repository.capture(inspect(root))
    assert not marker.exists()


def test_stale_index_lock_is_allowed(root: Path) -> None:
    lock = write(root, ".git/index.lock", "")
    repository = Repository(root)
    repository.snapshot(accepted(root).commit)
    write(root, "src/model.py", "x = 2\n")
    repository.capture(inspect(root))
    assert lock.exists()


def test_sparse_checkout_with_absent_files_is_allowed(root: Path) -> None:
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/src/")
    assert not (root / "src/model.py").exists()
    state = accepted(root)
    snapshot = Repository(root).snapshot(state.commit)
    assert (snapshot.path / "src/model.py").read_text() == "x = 1\n"


def test_file_of_a_sparse_checkout_that_is_present_and_differs_refuses_run(root: Path) -> None:
    git(root, "config", "sparse.expectFilesOutsideOfPatterns", "true")
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/src/")
    write(root, "src/model.py", "x = 2\n")
    refused(root, "src/model.py")


def test_sparse_index_is_allowed(root: Path) -> None:
    git(root, "sparse-checkout", "set", "--cone", "--sparse-index", "workspace")
    accepted(root)
    write(root, "train.py", "def main(): pass\n")
    refused(root, "train.py")


def test_split_index_is_allowed(root: Path) -> None:
    git(root, "update-index", "--split-index")
    git(root, "update-index", "--assume-unchanged", "src/model.py")
    accepted(root)
    write(root, "src/model.py", "x = 2\n")
    refused(root, "src/model.py")


def test_linked_worktree_is_allowed_and_shares_the_cache(root: Path) -> None:
    git(root, "worktree", "add", "-q", "-b", "side", str(root.parent / "side"))
    side = root.parent / "side"
    assert find_root(side / "src") == side
    state = accepted(side)
    assert state.branch == "side"
    assert Repository(side).cache == Repository(root).cache
    snapshot = Repository(side).snapshot(state.commit)
    assert snapshot == Repository(root).snapshot(state.commit)
    git(side, "update-index", "--assume-unchanged", "src/model.py")
    write(side, "src/model.py", "x = 2\n")
    refused(side, "src/model.py")
    accepted(root)


def test_shallow_clone_is_allowed(root: Path) -> None:
    write(root, "src/model.py", "x = 2\n")
    commit_all(root)
    git(root.parent, "clone", "-q", "--depth", "1", root.as_uri(), "shallow")
    shallow = root.parent / "shallow"
    state = accepted(shallow)
    assert state.on_remote is True
    repository = Repository(shallow)
    assert (repository.snapshot(state.commit).path / "src/model.py").read_text() == "x = 2\n"
    repository.archive(state.commit, root.parent / "shallow.pack")


def test_replacement_objects_do_not_change_what_a_commit_is(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    write(root, "src/model.py", "x = 2\n")
    second = commit_all(root)
    git(root, "replace", second, first)
    snapshot = Repository(root).snapshot(second)
    assert (snapshot.path / "src/model.py").read_text() == "x = 2\n"


def test_clean_submodule_is_listed_with_its_commit(root: Path) -> None:
    sub = make_submodule(root)
    assert accepted(root).submodules == [{"path": "sub", "commit": git(sub, "rev-parse", "HEAD")}]


def test_script_inside_a_submodule_is_tracked(root: Path) -> None:
    sub = make_submodule(root)
    state = accepted(root, script="sub/inner.py")
    assert state.script_blob == git(sub, "hash-object", "inner.py")


def test_folder_without_a_repository_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="git init"):
        find_root(tmp_path)
    with pytest.raises(ConfigError, match="holds no .git"):
        Repository(tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a.git", "https://example.org/a.git"),
        ("https://user:hunter2@example.org/a.git", "https://example.org/a.git"),
        ("https://hunter2@example.org:8443/a.git", "https://example.org:8443/a.git"),
        ("https://u:hun@hunter2@example.org/a.git", "https://example.org/a.git"),
        ("https://u:hun/hunter2@example.org/a.git", "https://example.org/a.git"),
        ("https://example.org/a.git?private_token=hunter2", "https://example.org/a.git"),
        ("https://example.org/@scope/a.git", "https://example.org/@scope/a.git"),
        ("http://[::1]:8080/a.git", "http://[::1]:8080/a.git"),
        ("ssh://git@example.org/a.git", "ssh://git@example.org/a.git"),
        ("ssh://git:hunter2@example.org:22/a.git", "ssh://git@example.org:22/a.git"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("u:hunter2@example.org:a/b.git", "example.org:a/b.git"),
        ("/home/me/a.git", "/home/me/a.git"),
        ("file:///home/me/a.git", "file:///home/me/a.git"),
    ],
)
def test_credentials_are_stripped_from_remote_urls(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


def test_remotes_are_recorded_without_credentials(root: Path) -> None:
    git(root, "remote", "add", "origin", "https://user:hunter2@example.org/a.git")
    git(root, "remote", "add", "dotted.name", "git@example.org:a.git")
    state = accepted(root)
    assert state.remotes == {
        "origin": "https://example.org/a.git",
        "dotted.name": "git@example.org:a.git",
    }


# Dirty capture


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file outside .git: whether it is a link or executable, and its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == ".git" or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink():
            found[name] = (2, os.fsencode(path.readlink()))
        else:
            found[name] = (path.stat().st_mode >> 6 & 1, path.read_bytes())
    return found


def make_dirty(root: Path) -> None:
    """Change a working tree in every way that a patch must carry."""
    write(root, "src/model.py", "x = 2\r\nno newline")
    write(root, "src/data.bin", bytes(range(256)) * 20)
    write(root, "src/empty.py", "")
    write(root, 'src/sp ace "q"\n日.py', "z = 1\n")
    write(root, "src/tool.sh", "#!/bin/sh\n").chmod(0o755)
    (root / "src/link").symlink_to("model.py")
    (root / ".gitignore").unlink()
    (root / "train.py").chmod(0o755)
    write(root, "src/staged.py", "s = 1\n")
    git(root, "add", "src/staged.py")
    write(root, "src/staged.py", "s = 2\n")


def test_patch_on_a_clone_gives_the_dirty_content(root: Path, tmp_path: Path) -> None:
    write(root, "old/a.py", "a = 1\n")
    write(root, "flat", "f = 1\n")
    write(root, "through/a.py", "a = 1\n")
    commit_all(root)
    make_dirty(root)
    shutil.rmtree(root / "old")
    write(root, "old", "a file now\n")
    (root / "flat").unlink()
    write(root, "flat/inner.py", "f = 2\n")
    shutil.rmtree(root / "through")
    (root / "through").symlink_to("src")
    repository = Repository(root)
    commit, patch = repository.capture(inspect(root))
    git(tmp_path, "clone", "-q", str(root), "clone")
    git(tmp_path / "clone", "apply", "--whitespace=nowarn", "-", data=patch)
    assert content(tmp_path / "clone") == content(root)
    snapshot = repository.snapshot(commit)
    assert content(snapshot.path) == content(root)


def test_capture_leaves_the_users_index_and_working_tree_alone(root: Path) -> None:
    make_dirty(root)
    index, head, branches = root / ".git/index", root / ".git/HEAD", git(root, "branch", "-av")
    before = content(root), index.read_bytes(), index.stat().st_mtime_ns, head.read_bytes()
    Repository(root).capture(inspect(root))
    after = content(root), index.read_bytes(), index.stat().st_mtime_ns, head.read_bytes()
    assert after == before
    assert git(root, "branch", "-av") == branches
    assert git(root, "stash", "list") == ""


def test_capture_of_equal_content_gives_one_commit(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(root), "clone")
    ids = set()
    for folder in (root, tmp_path / "clone"):
        make_dirty(folder)
        ids.add(Repository(folder).capture(inspect(folder)))
    git(root, "config", "user.name", "Somebody Else")
    git(root, "config", "i18n.commitEncoding", "latin-1")
    git(root, "config", "commit.gpgSign", "true")
    git(root, "config", "diff.noprefix", "true")
    git(root, "config", "color.ui", "always")
    ids.add(Repository(root).capture(inspect(root)))
    assert len(ids) == 1
    write(root, "src/model.py", "x = 9\n")
    assert Repository(root).capture(inspect(root)) not in ids


def test_captured_commit_follows_head_and_survives_gc(root: Path) -> None:
    make_dirty(root)
    repository = Repository(root)
    commit, _ = repository.capture(inspect(root))
    assert git(root, "rev-parse", f"{commit}^") == git(root, "rev-parse", "HEAD")
    git(root, "gc", "-q", "--prune=now")
    assert repository.has(commit)
    assert repository.blob_id(commit, "src/model.py") == git(root, "hash-object", "src/model.py")


def test_capture_leaves_allowed_places_out(root: Path) -> None:
    write(root, "src/model.py", "x = 2\n")
    write(root, "workspace/template.toml", "a = 2\n")
    git(root, "add", "workspace/template.toml")
    write(root, "workspace/notes.txt", "")
    commit, patch = Repository(root).capture(inspect(root))
    assert git(root, "diff", "--name-only", "HEAD", commit) == "src/model.py"
    assert b"workspace" not in patch


def test_capture_of_an_untracked_script_takes_the_modules_beside_it(root: Path) -> None:
    write(root, ".gitignore", "runs/\nworkspace/mine/\n")
    commit_all(root)
    write(root, "workspace/mine/go.py", "import helper\n")
    write(root, "workspace/mine/helper.py", "h = 1\n")
    write(root, "workspace/mine/big.npy", b"0" * 1000)
    script = "workspace/mine/go.py"
    commit, _ = Repository(root).capture(inspect(root, script))
    assert git(root, "diff", "--name-only", "HEAD", commit).splitlines() == [
        script,
        "workspace/mine/helper.py",
    ]


def test_capture_of_a_clean_tree_is_the_commit_itself(root: Path) -> None:
    state = accepted(root)
    assert Repository(root).capture(state) == (state.commit, b"")


def test_capture_sees_flagged_files(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", "src/model.py")
    write(root, "src/model.py", "x = 2\n")
    commit, _ = Repository(root).capture(inspect(root))
    assert git(root, "show", f"{commit}:src/model.py") == "x = 2"


def test_capture_refuses_what_a_patch_cannot_hold(root: Path) -> None:
    sub = make_submodule(root)
    write(sub, "inner.py", "y = 2\n")
    with pytest.raises(UnrecordedCodeError, match=r"sub/inner\.py"):
        Repository(root).capture(inspect(root))
    git(sub, "checkout", "-q", "inner.py")
    (root / "nested").mkdir()
    git(root / "nested", "init", "-q")
    write(root, "nested/a.py", "")
    with pytest.raises(UnrecordedCodeError, match="nested/"):
        Repository(root).capture(inspect(root))


def test_capture_takes_a_submodule_at_another_commit(root: Path) -> None:
    sub = make_submodule(root)
    write(sub, "inner.py", "y = 2\n")
    commit_all(sub)
    repository = Repository(root)
    commit, _ = repository.capture(inspect(root))
    assert (repository.snapshot(commit).path / "sub/inner.py").read_text() == "y = 2\n"


def test_diff_shows_the_difference_of_two_commits(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    write(root, "src/model.py", "x = 2\n")
    write(root, "train.py", "def main(): pass\n")
    second = commit_all(root)
    repository = Repository(root)
    assert "+x = 2" in repository.diff(first, second)
    limited = repository.diff(first, second, ["src/model.py"])
    assert "+x = 2" in limited
    assert "train.py" not in limited
