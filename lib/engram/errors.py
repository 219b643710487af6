"""The one tree of errors, and the one table of exit codes.

RunnerError                      exit  a mistake of the user or the surroundings: one message
├── ConfigError                  2     experiment.toml, parameters, command line
├── ScriptError                  2     the script cannot be run: syntax, missing or wrong main
├── InputError                   2     an input is missing, unreadable, changed or badly placed
├── RunNotFoundError             2     no run, or several, answer to a reference
├── ResumeError                  2     a run cannot be continued or repeated
├── StoreError                   2     the run root cannot be written: full disk, read-only
├── EnvironmentMissingError      2     a tool, package or data set is not there
├── DeviceError                  2     a list of devices cannot be used, or has too few of them
└── UnrecordedCodeError          3     the code is not what the commit says

Anything else that escapes is a bug of engram and keeps its traceback.
"""

COMPLETED = 0
INCOMPLETE = 1
REFUSED = 2
UNRECORDED = 3
DIFFERENT = 4
TIMED_OUT = 124
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES = {
    COMPLETED: "the run completed",
    INCOMPLETE: "the run did not complete; its record holds the script's own exit code",
    REFUSED: "refused before anything was started",
    UNRECORDED: "refused because code is not recorded in a commit",
    DIFFERENT: "verify, rerun or diff found a difference",
    TIMED_OUT: "the run was ended by its timeout",
    INTERRUPTED: "interrupted from the keyboard (SIGINT)",
    TERMINATED: "interrupted by SIGTERM or SIGHUP",
}


class RunnerError(Exception):
    """Root of all errors a user can cause; it says what, the value, where and what to do."""

    exit_code = REFUSED


class ConfigError(RunnerError):
    """experiment.toml, a parameters file or the command line is wrong."""


class ScriptError(RunnerError):
    """The experiment script cannot be run."""


class InputError(RunnerError):
    """A declared input is missing, unreadable, changed or badly placed."""


class RunNotFoundError(RunnerError):
    """No run, or more than one, answers to a reference."""


class ResumeError(RunnerError):
    """A run cannot be continued or repeated."""


class StoreError(RunnerError):
    """The run root cannot be written."""


class EnvironmentMissingError(RunnerError):
    """A tool, package or data set that is needed is not there."""


class DeviceError(RunnerError):
    """The devices that were asked for cannot be given."""


class UnrecordedCodeError(RunnerError):
    """The code that would run is not what the commit records."""

    exit_code = UNRECORDED


class Terminated(KeyboardInterrupt):  # noqa: N818 - an interrupt, not an error, like its parent
    """SIGTERM or SIGHUP reached the runner while no script was running."""
