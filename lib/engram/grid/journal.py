"""The storage of a search by optuna: one file in the grid's folder, which only appends change."""

from __future__ import annotations

import json
import os
import random
import warnings
from typing import TYPE_CHECKING, Any, cast

from engram.locks import cut_torn_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
    from optuna.storages.journal import BaseJournalBackend

    from engram.grid.search_table import SearchConfig
    from engram.paths import GridPaths

__all__ = ["open_study"]

SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
}
PRUNERS = {"none": "NopPruner", "median": "MedianPruner", "asha": "SuccessiveHalvingPruner"}
# What runs beside each other shall not crowd.
DEFAULTS = {"tpe": {"constant_liar": True}}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Journal:
    """Storage in the format of optuna's JournalFileBackend, which reads it.

    It is written without a lock, since the grid's lease allows one writer, and without forcing each
    line to the disk: what a crash of the machine takes is made again.
    """

    def __init__(self, path: str) -> None:
        """Open a file; it is made where it is missing."""
        from optuna.storages.journal import JournalFileBackend

        self.path = path
        self.reader = JournalFileBackend(path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """See optuna."""
        return self.reader.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See optuna."""
        lines = (json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self.path, "ab", buffering=0) as stream:  # noqa: PTH123
            stream.write("".join(lines).encode())


def open_study(config: SearchConfig, paths: GridPaths) -> optuna.Study:
    """The study in a grid's folder, made where it is missing; imports optuna."""
    for name in THREADS:
        os.environ.setdefault(name, "1")  # before numpy reads it: the processors are the runs'
    import optuna
    from optuna.storages import JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # of what is experimental; no code of the user runs here
    cut_torn_line(paths.search)
    journal = cast("BaseJournalBackend", Journal(str(paths.search)))
    study = optuna.create_study(
        storage=JournalStorage(journal),
        study_name=paths.folder.name,
        direction="minimize" if config.direction == "minimize" else "maximize",
        load_if_exists=True,
    )
    seed, number = config.seed, len(study.get_trials(deepcopy=False))
    if number and config.sampler != "qmc":  # whose sequence goes on by itself
        seed = random.Random(f"{seed}/{number}").getrandbits(32)
    options = {**DEFAULTS.get(config.sampler, {}), **config.sampler_options}
    study.sampler = getattr(optuna.samplers, SAMPLERS[config.sampler])(seed=seed, **options)
    study.pruner = getattr(optuna.pruners, PRUNERS[config.pruner])(**config.pruner_options)
    return study
