"""`doctor`: what on this machine, in this repository and in its store limits reproducibility."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engram import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from engram.paths import CachePaths
    from engram.repository import Repository
    from engram.store import Store

__all__ = ["BROKEN", "OK", "WARN", "Check", "Place", "doctor_command", "examine"]

OK, WARN, BROKEN = "ok", "warn", "broken"
LABEL = 12


class Check(NamedTuple):
    """One line of the doctor's.

    Attributes:
        topic: what was looked at, in one or two words.
        level: OK, WARN (results may differ, or a feature is missing) or BROKEN (runs will fail).
        said: what was found.
        advice: what to do; empty where nothing is.
    """

    topic: str
    level: str
    said: str
    advice: str = ""

    def __str__(self) -> str:
        """One line, a second one for the advice."""
        from engram.table import printable

        line = f"{self.level:<8}{self.topic:<{LABEL}}{printable(self.said)}"
        return f"{line}\n{'':<{8 + LABEL}}-> {printable(self.advice)}" if self.advice else line


class Place(NamedTuple):
    """Where the doctor looks.

    Attributes:
        repository: that of the folder a person stands in; None outside of one.
        cache: the repository's, or one in a folder that is removed afterwards.
        store: the runs known here.
        record: of the newest run that has one; None without runs.
    """

    repository: Repository | None
    cache: CachePaths
    store: Store
    record: dict[str, object] | None


def doctor_command(start: Path, emit: Callable[[Iterable[str]], object]) -> int:
    """Say what every check found, as it is made.

    Args:
        start: where the person stands.
        emit: prints the lines that it draws.

    Returns:
        COMPLETED, or INCOMPLETE when something is broken.
    """
    counts = dict.fromkeys((OK, WARN, BROKEN), 0)

    def lines() -> Iterator[str]:
        for check in examine(start):
            counts[check.level] += 1
            yield str(check)
        yield f"{counts[OK]} ok, {counts[WARN]} to know about, {counts[BROKEN]} broken"

    emit(lines())
    return errors.INCOMPLETE if counts[BROKEN] else errors.COMPLETED


def examine(start: Path) -> Iterator[Check]:
    """Make every check; one that fails itself is a line too.

    Args:
        start: where the person stands.
    """
    import tempfile
    from pathlib import Path

    from engram import doctor_code, doctor_machine, doctor_store

    with tempfile.TemporaryDirectory(prefix="engram-doctor-") as scratch:
        place = look_around(start, Path(scratch))
        for group in (doctor_machine.CHECKS, doctor_code.CHECKS, doctor_store.CHECKS):
            for check in group:
                yield from attempt(check, place)


def look_around(start: Path, scratch: Path) -> Place:
    """Find the repository and the runs."""
    from engram import record as records
    from engram.paths import CachePaths
    from engram.repository import Repository, find_root
    from engram.store import Store

    try:
        repository = Repository(find_root(start))
    except errors.ConfigError:
        repository = None
    store = Store.for_root(start)
    newest = None
    for row in store.list_runs(limit=20):
        try:
            newest = records.load(row.paths)
        except errors.RunnerError:
            continue
        break
    return Place(repository, repository.cache if repository else CachePaths(scratch), store, newest)


def attempt(check: Callable[[Place], Iterable[Check]], place: Place) -> Iterator[Check]:
    """Make one check; whatever stops it is reported, and the others go on."""
    topic = check.__name__.replace("_", " ")
    try:
        yield from check(place)
    except (errors.RunnerError, OSError, ValueError) as error:
        yield Check(topic, WARN, f"could not be looked at: {error}")
