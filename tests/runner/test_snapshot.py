"""Snapshots of commits, the hidden ref, and packs that outlive the repository, against real git."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import engram
from engram.errors import ConfigError, ResumeError, StoreError, UnrecordedCodeError
from engram.paths import CachePaths
from engram.repository import Repository, snapshot_from_pack
from engram.snapshot import discard_snapshot

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def git(folder: Path, *arguments: str) -> str:
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
        env=environment,
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


def commit_all(root: Path) -> str:
    """Commit everything and return the commit's id."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "work")
    return git(root, "rev-parse", "HEAD")


def content(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every file: link, executable or plain, and its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("120000", os.fsencode(path.readlink()))
        elif path.is_file():
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            found[name] = (mode, path.read_bytes())
    return found


def blobs(root: Path, commit: str) -> dict[str, tuple[str, bytes]]:
    """The same of a commit, as git itself tells it."""
    found = {}
    for line in git(root, "ls-tree", "-r", "-z", commit).split("\0"):
        if line:
            words, _, path = line.partition("\t")
            mode, kind, blob = words.split()
            if kind == "blob":
                raw = subprocess.run(
                    ["git", "cat-file", "blob", blob], cwd=root, capture_output=True, check=True
                )
                found[path] = (mode, raw.stdout)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with files of every kind."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    write(folder, "train.py", "def main(): ...\n")
    write(folder, "src/model.py", "x = 1\n")
    write(folder, "src/deep/er/data.bin", bytes(range(256)))
    write(folder, "src/empty.py", "")
    write(folder, "tool.sh", "#!/bin/sh\n").chmod(0o755)
    write(folder, 'sp ace "q"\n日.py', "z = 1\n")
    write(folder, os.fsdecode(b"\xff.py"), "z = 2\n")
    (folder / "link").symlink_to("src/model.py")
    (folder / "dangling").symlink_to("/nowhere/at all")
    commit_all(folder)
    return folder


def take(root: Path) -> Path:
    """The snapshot folder of HEAD."""
    repository = Repository(root)
    return repository.snapshot(git(root, "rev-parse", "HEAD")).path


def make_submodule(root: Path) -> Path:
    """Add a submodule `sub` that has a submodule `inner` itself."""
    for name in ("leaf", "middle"):
        folder = root.parent / name
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        write(folder, f"{name}.py", f"{name} = 1\n")
        commit_all(folder)
    git(root.parent / "middle", "submodule", "--quiet", "add", str(root.parent / "leaf"), "inner")
    commit_all(root.parent / "middle")
    git(root, "submodule", "--quiet", "add", str(root.parent / "middle"), "lib/sub")
    git(root, "submodule", "--quiet", "update", "--init", "--recursive")
    commit_all(root)
    return root / "lib/sub"


@pytest.mark.parametrize("packed", [False, True])
def test_snapshot_holds_the_blobs_of_the_commit(root: Path, packed: bool) -> None:  # noqa: FBT001
    if packed:
        git(root, "gc", "-q")
    commit = git(root, "rev-parse", "HEAD")
    snapshot = Repository(root).snapshot(commit)
    assert content(snapshot.path) == blobs(root, commit)
    assert snapshot.commit == commit
    assert snapshot.common == root / ".git"
    assert snapshot.path.is_relative_to(root / ".git/engram")
    assert git(root, "status", "--porcelain") == ""


def test_snapshot_ignores_line_ends_filters_and_attributes(root: Path) -> None:
    write(root, "src/model.py", "x = 1  # $Id$\n")
    git(root, "config", "core.autocrlf", "true")
    git(root, "config", "filter.upper.smudge", "tr a-z A-Z")
    git(root, "config", "filter.upper.clean", "tr A-Z a-z")
    write(
        root,
        ".gitattributes",
        "*.py text eol=crlf ident\ntool.sh filter=upper\ntrain.py export-ignore\n",
    )
    commit = commit_all(root)
    assert content(take(root)) == blobs(root, commit)


def test_large_files_are_written_whole(root: Path) -> None:
    data = hashlib.sha256(b"seed").digest() * 100_000
    write(root, "large.bin", data)
    zeros = bytes(3 << 20)
    write(root, "zeros.bin", zeros)
    commit_all(root)
    taken = take(root)
    assert (taken / "large.bin").read_bytes() == data
    assert (taken / "zeros.bin").read_bytes() == zeros


def test_snapshot_files_are_read_only(root: Path) -> None:
    for path in take(root).rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_mode & 0o222 == 0


def test_second_use_takes_the_same_snapshot(root: Path) -> None:
    before = (take(root) / "train.py").stat().st_ino
    assert (take(root) / "train.py").stat().st_ino == before


def overwrite(taken: Path) -> None:
    path = taken / "src/model.py"
    path.chmod(0o644)
    path.write_text("x = 666\n")
    path.chmod(0o444)


def overwrite_with_equal_size_and_time(taken: Path) -> None:
    path = taken / "src/model.py"
    before = path.stat()
    path.chmod(0o644)
    path.write_text("x = 2\n")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def add(taken: Path) -> None:
    write(taken, "src/deep/poison.py", "")


def add_on_top(taken: Path) -> None:
    write(taken, "numpy.py", "")


def add_folder(taken: Path) -> None:
    (taken / "src/__pycache__").mkdir()
    (taken / "src/__pycache__").chmod(0)


def remove(taken: Path) -> None:
    (taken / "src/empty.py").unlink()


def retarget_link(taken: Path) -> None:
    (taken / "link").unlink()
    (taken / "link").symlink_to("train.py")


def change_mode(taken: Path) -> None:
    (taken / "src/model.py").chmod(0o755)


def remove_all(taken: Path) -> None:
    shutil.rmtree(taken)


def replace_by_file(taken: Path) -> None:
    shutil.rmtree(taken)
    taken.write_text("")


@pytest.mark.parametrize(
    "harm",
    [
        overwrite,
        overwrite_with_equal_size_and_time,
        add,
        add_on_top,
        add_folder,
        remove,
        retarget_link,
        change_mode,
        remove_all,
        replace_by_file,
    ],
)
def test_snapshot_that_was_changed_is_rebuilt(root: Path, harm: Callable[[Path], None]) -> None:
    taken = take(root)
    harm(taken)
    assert take(root) == taken
    assert content(taken) == blobs(root, git(root, "rev-parse", "HEAD"))
    inode = (taken / "train.py").stat().st_ino
    assert (take(root) / "train.py").stat().st_ino == inode


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 0}', b"\xff"])
def test_broken_manifest_leads_to_a_rebuild(root: Path, text: bytes) -> None:
    taken = take(root)
    taken.with_name(f"{taken.name}.json").write_bytes(text)
    overwrite(taken)
    assert content(take(root)) == blobs(root, taken.name)


def test_rebuild_never_leaves_the_name_empty(root: Path) -> None:
    taken = take(root)
    watcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\n"
            "print('ready', flush=True)\n"
            "missed = 0\n"
            "while os.path.exists(sys.argv[2]):\n"
            "    missed += not os.path.exists(sys.argv[1])\n"
            "print(missed)\n",
            str(taken / "train.py"),
            str(root / "link"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "ready\n"
        for _ in range(10):
            overwrite(taken)
            take(root)
        (root / "link").unlink()
        assert watcher.stdout.read() == "0\n"


def test_moved_repository_gets_a_fresh_snapshot(root: Path, tmp_path: Path) -> None:
    commit = take(root).name
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    taken = take(tmp_path / "copy")
    assert taken.is_relative_to(tmp_path / "copy")
    assert content(taken) == blobs(root, commit)


BUILD = (
    "import sys; from pathlib import Path; from engram.repository import Repository\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "print(Repository(Path(sys.argv[1])).snapshot(sys.argv[2]).path, flush=True)"
)


def start_builder(root: Path, commit: str) -> subprocess.Popen[str]:
    """Start a process that will build the snapshot when told to."""
    library = str(Path(engram.__file__).parents[1])
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root), commit],
        env={**os.environ, "PYTHONPATH": library},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "ready\n"
    return builder


def test_concurrent_builders_share_one_snapshot(root: Path) -> None:
    for number in range(200):
        write(root, f"many/m{number}.py", f"n = {number}\n")
    commit = commit_all(root)
    builders = [start_builder(root, commit) for _ in range(4)]
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("\n")
        builder.stdin.flush()
    answers = [builder.communicate(timeout=300) for builder in builders]
    assert [error for _, error in answers] == [""] * 4
    assert len({path for path, _ in answers}) == 1
    taken = take(root)
    assert content(taken) == blobs(root, commit)
    assert sorted(path.name for path in taken.parent.iterdir()) == [
        commit,
        f"{commit}.json",
        f"{commit}.lock",
    ]


def test_killed_builder_leaves_nothing_that_breaks_the_next(root: Path) -> None:
    for number in range(300):
        write(root, f"many/m{number}.py", f"n = {number}\n")
    commit = commit_all(root)
    expected = blobs(root, commit)
    snapshots = Repository(root).cache.snapshots
    for delay_ms in (0, 3, 8, 15, 25, 40):
        builder = start_builder(root, commit)
        with builder:
            assert builder.stdin is not None
            builder.stdin.write("\n")
            builder.stdin.flush()
            until = time.monotonic() + 120
            while not snapshots.exists() and time.monotonic() < until:
                pass
            moment = time.monotonic() + delay_ms / 1000
            while time.monotonic() < moment:
                pass
            builder.send_signal(signal.SIGKILL)
        taken = take(root)
        assert content(taken) == expected
        assert not (snapshots / f"{commit}.new").exists()
        shutil.rmtree(root / ".git/engram")


def test_lock_file_of_a_killed_git_on_the_hidden_ref_is_overcome(root: Path) -> None:
    commit = git(root, "rev-parse", "HEAD")
    write(root, f".git/refs/engram/{commit}.lock", "")
    take(root)
    assert git(root, "rev-parse", f"refs/engram/{commit}") == commit


def test_hidden_ref_keeps_the_commit_after_amend_expiry_and_gc(root: Path) -> None:
    commit = git(root, "rev-parse", "HEAD")
    expected = blobs(root, commit)
    repository = Repository(root)
    repository.snapshot(commit)
    write(root, "train.py", "amended\n")
    git(root, "commit", "-q", "-a", "--amend", "-m", "amended")
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "-q", "--prune=now")
    assert repository.has(commit)
    assert content(repository.snapshot(commit).path) == expected
    shutil.rmtree(root / ".git/engram")
    assert content(repository.snapshot(commit).path) == expected


def test_commit_without_hidden_ref_is_lost_after_gc(root: Path) -> None:
    commit = git(root, "rev-parse", "HEAD")
    git(root, "commit", "-q", "--amend", "-m", "amended")
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "-q", "--prune=now")
    assert not Repository(root).has(commit)
    with pytest.raises(ConfigError, match=commit):
        Repository(root).snapshot(commit)


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_ref_is_written_again_when_it_was_deleted(root: Path, packed: bool) -> None:  # noqa: FBT001
    commit = take(root).name
    if packed:
        git(root, "pack-refs", "--all")
        take(root)
        assert not (root / f".git/refs/engram/{commit}").exists()
    git(root, "update-ref", "-d", f"refs/engram/{commit}")
    take(root)
    assert git(root, "rev-parse", f"refs/engram/{commit}") == commit


def test_snapshot_of_an_older_commit(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD")
    write(root, "src/model.py", "x = 2\n")
    second = commit_all(root)
    repository = Repository(root)
    assert (repository.snapshot(first).path / "src/model.py").read_text() == "x = 1\n"
    assert (repository.snapshot(second).path / "src/model.py").read_text() == "x = 2\n"


def test_unknown_commit_is_a_clear_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="f" * 40):
        Repository(root).snapshot("f" * 40)


def test_damaged_object_is_a_clear_error(root: Path) -> None:
    blob = git(root, "rev-parse", "HEAD:src/model.py")
    loose = root / f".git/objects/{blob[:2]}/{blob[2:]}"
    loose.chmod(0o644)
    loose.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=blob):
        take(root)
    assert not (root / ".git/engram/snapshots" / git(root, "rev-parse", "HEAD")).exists()


def test_objects_of_an_alternate_repository_are_found(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--shared", str(root), "shared")
    commit = git(root, "rev-parse", "HEAD")
    assert content(take(tmp_path / "shared")) == blobs(root, commit)


def test_sha256_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256", "r")
    write(tmp_path, "r/src/a.py", "x = 1\n")
    commit = commit_all(tmp_path / "r")
    taken = take(tmp_path / "r")
    assert content(taken) == blobs(tmp_path / "r", commit)
    Repository(tmp_path / "r").archive(commit, tmp_path / "a.pack")
    shutil.rmtree(tmp_path / "r")
    again = snapshot_from_pack(tmp_path / "a.pack", commit, CachePaths(tmp_path / "store"))
    assert content(again.path) == {"src/a.py": ("100644", b"x = 1\n")}


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_git_folder_that_cannot_be_written_is_a_clear_error(root: Path) -> None:
    (root / ".git").chmod(0o555)
    try:
        with pytest.raises(StoreError, match="cannot write"):
            take(root)
    finally:
        (root / ".git").chmod(0o755)


def test_cache_that_cannot_be_made_is_a_clear_error(root: Path) -> None:
    write(root, ".git/engram", "a file in the way")
    with pytest.raises(StoreError, match="cannot write"):
        take(root)


def test_discarded_snapshot_is_gone_and_comes_back(root: Path) -> None:
    taken = take(root)
    discard_snapshot(Repository(root).cache, taken.name)
    assert not taken.exists()
    assert content(take(root)) == blobs(root, taken.name)


# Git LFS


def add_pointer(root: Path, data: bytes) -> str:
    """Commit a Git LFS pointer without any LFS tool, as a clone without git-lfs has it."""
    write(root, ".gitattributes", "*.npy filter=lfs diff=lfs merge=lfs -text\n")
    write(root, "data/w.npy", POINTER.format(hashlib.sha256(data).hexdigest(), len(data)))
    return commit_all(root)


def fake_lfs(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a git-lfs of our own on PATH."""
    write(folder, "git-lfs", f"#!/bin/sh\n{body}\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize("body", ["exit 1", "cat", "cat >/dev/null; echo other content"])
def test_lfs_pointer_without_its_content_refuses_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    commit = add_pointer(root, b"weights")
    fake_lfs(tmp_path / "bin", body, monkeypatch)
    with pytest.raises(UnrecordedCodeError, match=r"data/w\.npy.*git-lfs") as caught:
        Repository(root).snapshot(commit)
    assert caught.value.exit_code == 3
    assert not (Repository(root).cache.snapshots / commit).exists()


def test_lfs_pointer_is_replaced_by_its_content(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add_pointer(root, b"weights")
    fake_lfs(tmp_path / "bin", "cat >/dev/null; printf weights", monkeypatch)
    monkeypatch.setenv("GIT_LFS_SKIP_SMUDGE", "1")
    assert (Repository(root).snapshot(commit).path / "data/w.npy").read_bytes() == b"weights"


# Submodules


def test_submodules_are_filled_at_their_recorded_commits(root: Path) -> None:
    sub = make_submodule(root)
    commit = git(root, "rev-parse", "HEAD")
    repository = Repository(root)
    snapshot = repository.snapshot(commit)
    assert snapshot.missing == ()
    assert (snapshot.path / "lib/sub/middle.py").read_text() == "middle = 1\n"
    assert (snapshot.path / "lib/sub/inner/leaf.py").read_text() == "leaf = 1\n"
    assert not list(snapshot.path.rglob(".git"))
    for checkout in (sub, sub / "inner"):
        recorded = git(checkout, "rev-parse", "HEAD")
        assert git(checkout, "rev-parse", f"refs/engram/{recorded}") == recorded


def test_submodule_that_left_the_working_tree_is_still_filled(root: Path) -> None:
    make_submodule(root)
    commit = git(root, "rev-parse", "HEAD")
    git(root, "rm", "-q", "lib/sub")
    commit_all(root)
    snapshot = Repository(root).snapshot(commit)
    assert (snapshot.path / "lib/sub/inner/leaf.py").read_text() == "leaf = 1\n"


def test_submodule_that_is_not_checked_out_stays_empty_until_it_is(
    root: Path, tmp_path: Path
) -> None:
    make_submodule(root)
    git(tmp_path, "clone", "-q", str(root), "clone")
    clone = Repository(tmp_path / "clone")
    commit = git(root, "rev-parse", "HEAD")
    clone.require_clean(clone.inspect(script="train.py", allowed=[]))
    first = clone.snapshot(commit)
    assert first.missing == ("lib/sub",)
    assert list((first.path / "lib/sub").iterdir()) == []
    git(clone.root, "submodule", "--quiet", "update", "--init", "--recursive")
    second = clone.snapshot(commit)
    assert second.missing == ()
    assert (second.path / "lib/sub/inner/leaf.py").exists()


# Packs


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_pack_gives_the_same_files_when_the_repository_is_gone(
    root: Path,
    tmp_path: Path,
    packed: bool,  # noqa: FBT001
    large: bool,  # noqa: FBT001
) -> None:
    write(root, "first.txt", "history\n")
    make_submodule(root)
    if large:
        write(root, "large.bin", hashlib.sha256(b"seed").digest() * 50_000)
        commit_all(root)
    if packed:
        git(root, "gc", "-q")
    repository = Repository(root)
    commit = git(root, "rev-parse", "HEAD")
    expected = content(repository.snapshot(commit).path)
    pack = tmp_path / "sources/one.pack"
    repository.archive(commit, pack)
    assert [path.name for path in pack.parent.iterdir()] == ["one.pack"]
    for name in ("repository", "leaf", "middle"):
        shutil.rmtree(tmp_path / name)
    store = CachePaths(tmp_path / "store")
    snapshot = snapshot_from_pack(pack, commit, store)
    assert content(snapshot.path) == expected
    assert snapshot.missing == ()
    pack.unlink()
    overwritten = snapshot_from_pack(pack, commit, store)
    assert overwritten == snapshot
    overwrite(snapshot.path)
    with pytest.raises(ResumeError, match=r"one\.pack"):
        snapshot_from_pack(pack, commit, store)


def test_pack_is_one_that_git_accepts_and_holds_no_history(root: Path, tmp_path: Path) -> None:
    write(root, "src/model.py", "x = 2\n")
    commit = commit_all(root)
    pack = tmp_path / "a.pack"
    Repository(root).archive(commit, pack)
    git(tmp_path, "init", "-q", "other")
    shutil.copy(pack, tmp_path / "other/a.pack")
    listing = git(tmp_path / "other", "index-pack", "-v", "a.pack")
    assert listing
    ids = {
        line.split()[0]
        for line in git(tmp_path / "other", "verify-pack", "-v", "a.idx").splitlines()
    }
    tree = git(root, "rev-list", "--objects", "--no-walk", "--no-object-names", commit).split()
    assert set(tree) <= ids
    assert git(root, "rev-parse", "HEAD^") not in ids


def test_pack_of_a_dirty_capture_gives_the_dirty_content(root: Path, tmp_path: Path) -> None:
    write(root, "src/model.py", "x = 2\n")
    write(root, "untracked.bin", bytes(range(256)))
    repository = Repository(root)
    commit, _ = repository.capture(repository.inspect(script="train.py", allowed=[]))
    expected = content(repository.snapshot(commit).path)
    repository.archive(commit, tmp_path / "dirty.pack")
    shutil.rmtree(root)
    again = snapshot_from_pack(tmp_path / "dirty.pack", commit, CachePaths(tmp_path / "store"))
    assert content(again.path) == expected
    assert (again.path / "untracked.bin").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "flipped", "other commit"])
def test_damaged_pack_is_a_clear_error(root: Path, tmp_path: Path, harm: str) -> None:
    commit = git(root, "rev-parse", "HEAD")
    pack = tmp_path / "a.pack"
    Repository(root).archive(commit, pack)
    data = bytearray(pack.read_bytes())
    pack.unlink()
    if harm == "cut":
        data = data[:-30]
    elif harm == "flipped":
        data[len(data) // 2] ^= 1
    elif harm == "other commit":
        commit = "f" * 40
    if harm != "missing":
        pack.write_bytes(b"" if harm == "empty" else data)
    with pytest.raises(ResumeError, match=r"a\.pack"):
        snapshot_from_pack(pack, commit, CachePaths(tmp_path / "store"))
    assert not (tmp_path / "store/snapshots" / commit).exists()


def test_archive_on_a_place_that_cannot_be_written_is_a_clear_error(
    root: Path, tmp_path: Path
) -> None:
    write(tmp_path, "file", "")
    with pytest.raises(StoreError, match="cannot write"):
        Repository(root).archive(git(root, "rev-parse", "HEAD"), tmp_path / "file/a.pack")
