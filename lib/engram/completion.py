"""Shell completion: small scripts that ask `__complete` what may stand at the cursor.

What a verb takes is read from its own --help, so nothing has to be kept in step by hand.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["HOW", "SHELLS", "candidates", "completion_command"]

NEWEST = 100
# Not a verb, but what follows it is not what follows a run.
GRID = "--grid"
# Verbs whose arguments are another program's: asking for their help would start it.
FOREIGN = ("test",)
OPTION = re.compile(r"^  (?:-\w, )?(--[a-z-]+)(?:, --[a-z-]+)*(?: (.*?))?(?:  |$)", re.MULTILINE)
CHOICES = re.compile(r"\{([^}]*)\}")

HOW = """\
to have it in every new shell:
  bash   echo 'eval "$(engram completion bash)"' >>~/.bashrc
  zsh    echo 'eval "$(engram completion zsh)"' >>~/.zshrc      (after compinit)
  fish   engram completion fish >~/.config/fish/completions/engram.fish
with ./run in the place of engram, give its whole path
"""

# A `run` that is somebody else's is never started, nor does ours set up its environment for a Tab.
ASK = """\
_engram_ask() {
    local called=$1 folder python
    shift
    case $called in
    */run)
        folder=${called%/*}
        [ -f "$folder/run_experiment.py" ] && [ -d "$folder/lib/engram" ] || return
        python=$folder/.venv/bin/python
        [ -x "$python" ] || python=python3
        "$python" "$folder/run_experiment.py" __complete "$@" 2>/dev/null ;;
    engram | */engram) "$called" __complete "$@" 2>/dev/null ;;
    esac
}
"""
BASH = """\
_engram_complete() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \\t\\n' words word before found
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    # Readline completes what follows the last of its own word breaks.
    before=""
    [[ $word == *[=:]* && $COMP_WORDBREAKS == *:* ]] && before=${word%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r found; do
        COMPREPLY+=("${found#"$before"}")
    done < <(_engram_ask "${words[@]/#\\~\\//$HOME/}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=:] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F _engram_complete engram run ./run
"""
ZSH = """\
_engram_complete() {
    local -a found
    found=("${(@f)$(_engram_ask "${(@)words[1,CURRENT]/#\\~\\//$HOME/}")}")
    found=(${found:#})
    compadd -Q -S '' -- ${(M)found:#*[/=:]}
    compadd -Q -- ${found:#*[/=:]}
}
compdef _engram_complete engram run ./run
"""
FISH = """\
function __engram_ask
    set -l words (commandline -opc) (commandline -ct)
    set -l called $words[1]
    set -e words[1]
    switch $called
        case '*/run'
            set -l folder (string replace -r '/run$' '' -- $called)
            test -f $folder/run_experiment.py -a -d $folder/lib/engram; or return
            set -l python $folder/.venv/bin/python
            test -x $python; or set python python3
            $python $folder/run_experiment.py __complete $words 2>/dev/null
        case engram '*/engram'
            $called __complete $words 2>/dev/null
    end
end
complete -c engram -f -a '(__engram_ask)'
complete -c run -f -a '(__engram_ask)'
"""
SCRIPTS = {"bash": ASK + BASH, "zsh": ASK + ZSH, "fish": FISH}
SHELLS = tuple(SCRIPTS)


class Usage(NamedTuple):
    """What a verb takes, by its help.

    Attributes:
        options: --name -> the name of its value, "" for a flag.
        positional: the text of the usage line, which names RUN, FILTER or {choices}.
    """

    options: dict[str, str]
    positional: str


def completion_command(shell: str) -> str:
    """The script for a shell, to be evaluated by it.

    Args:
        shell: one of SHELLS.
    """
    return SCRIPTS[shell].rstrip("\n")


def candidates(start: Path, words: Sequence[str]) -> list[str]:
    """What may stand in the place of the last word.

    Args:
        start: where the person stands.
        words: the command line so far, without the command; the last one is being typed.

    Returns:
        Whole words, those to be continued with a final `/`, `=` or `:`.
    """
    from engram.cli import VERBS

    *before, word = words or [""]
    verb = before[0] if before and before[0] in VERBS else ""
    usage = usage_of(GRID if not verb and GRID in before else verb)
    if word.startswith("--") and "=" in word:
        option, _, value = word.partition("=")
        found = values(start, usage.options.get(option, ""), value)
        return [f"{option}={item}" for item in matching(found, value)]
    if word.startswith("-"):
        return matching(usage.options, word)
    option = option_at(usage, before)
    if option:
        return matching(values(start, usage.options[option], word), word)
    if not before:
        return matching([*(name for name in VERBS if name[:1] != "_"), *files(start, word)], word)
    return matching(values(start, usage.positional, word), word)


def option_at(usage: Usage, before: Sequence[str]) -> str:
    """The option whose value is being typed; "" when it is none."""
    last = before[-1] if before else ""
    if usage.options.get(last):
        return last
    # An option with several values: the words since then are all its own.
    for word in reversed(before):
        if word.startswith("-"):
            return word if "..." in usage.options.get(word, "") else ""
    return ""


def matching(found: Sequence[str] | dict[str, str], word: str) -> list[str]:
    """Those that begin with the word, each once, in order."""
    return list(dict.fromkeys(item for item in found if item.startswith(word)))


def usage_of(verb: str) -> Usage:
    """What a verb takes; of a run, for the empty verb; of a grid, for --grid."""
    text = help_of(verb)
    options = {name: value or "" for name, value in OPTION.findall(text)}
    if not verb:
        options[GRID] = ""
    first = text.partition("\n\n")[0]
    return Usage(options, re.sub(r"\[--?[^]]*\]", "", first))


def help_of(verb: str) -> str:
    """The help of a verb, as it prints it."""
    import io

    from engram import cli, options

    if verb in ("", GRID):
        return (options.grid_parser() if verb else options.run_parser()).format_help()
    if verb in FOREIGN:
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.VERBS[verb](["--help"])
    return printed.getvalue()


def values(start: Path, name: str, word: str) -> list[str]:
    """What may stand for a value, by the name that the help gives it."""
    if choices := CHOICES.search(name):
        return choices[1].split(",")
    if "RUN" in name or "GRID" in name:
        found = runs(start, word) if "RUN" in name else []
        found += grids(start, latest="RUN" not in name) if "GRID" in name else []
        return found + (files(start, word) if "/" in word else [])
    if "FILTER" in name or "KEY" in name:
        return keys(start, name)
    if "FILE" in name:
        return files(start, word, (".toml", ".py"))
    return files(start, word) if not name or "experiment" in name or "FOLDER" in name else []


def runs(start: Path, word: str) -> list[str]:
    """The newest runs, `latest`, and latest:NAME of each experiment."""
    from engram.record import RUN_ID
    from engram.store import Store

    store = Store.for_root(start)
    places = {name for index in store.indices for name in index.places()}
    experiments = sorted(name for name in places if not RUN_ID.fullmatch(name))
    latest = ["latest", *(f"latest:{name}" for name in experiments)]
    # One who types an id may mean any; one who only looks, the newest.
    newest = store.list_runs(limit=None if word[:1].isdigit() else NEWEST)
    return [*latest, *(row.run_id for row in newest)]


def grids(start: Path, *, latest: bool) -> list[str]:
    """Every grid, the newest first; before them `latest`, and latest:NAME, when asked for."""
    from engram.grid.find import known_grids

    found = known_grids(start)
    experiments = sorted({str(known.record.get("experiment")) for known in found})
    names = ["latest", *(f"latest:{name}" for name in experiments)] if latest else []
    return [*names, *(known.paths.grid_id for known in found)]


def keys(start: Path, name: str) -> list[str]:
    """What runs can be filtered, or sorted, by."""
    from engram.filters import KEYS
    from engram.store import Store

    store = Store.for_root(start)
    for index in store.indices:
        index.refresh()
    found = sorted({*KEYS, *store.keys()})
    return [f"{key}=" for key in found] if "FILTER" in name else found


def files(start: Path, word: str, suffixes: tuple[str, ...] = (".toml",)) -> list[str]:
    """Folders, and experiment files in them, that begin with the word."""
    folder, slash, begun = word.rpartition("/")
    place = start / os.path.expanduser(folder + slash) if slash else start  # noqa: PTH111
    found = []
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not begun.startswith(".")
            if entry.name.startswith(begun) and not hidden:
                if entry.is_dir():
                    found.append(f"{folder}{slash}{entry.name}/")
                elif entry.name.endswith(suffixes):
                    found.append(f"{folder}{slash}{entry.name}")
    return sorted(found)
