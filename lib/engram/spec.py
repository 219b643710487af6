"""What the runner tells the child: where code, files and caches lie, and what main is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import ranks
from engram.config import IMPORT_ROOTS

if TYPE_CHECKING:
    from engram.request import Run

__all__ = ["child_spec", "common_environ", "ground", "ignored_folders", "import_roots"]

ENGRAM = Path(__file__).resolve().parent
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def child_spec(run: Run) -> dict[str, Any]:
    """Compose the spec that engram.child reads; plain values only."""
    config, paths, request = run.config, run.paths, run.request
    return {
        **ground(run),
        "output_dir": str(paths.outputs),
        "input_dir": str(paths.inputs) if config.inputs else None,
        "params_file": str(paths.parameters),
        "wandb_config": config.wandb.for_script(),
        "resume_from": str(request.resume_from) if request.resume_from else None,
        "seed": config.seed,
        "environ": child_environ(run),
        "audit": str(paths.audit),
        "ignored": ignored_folders(run),
        "pdb": request.pdb,
        "live": request.live,
    }


def ground(run: Run) -> dict[str, Any]:
    """The part of the spec that all runs of one script at one commit have in common."""
    roots = import_roots(run)
    own = run.recreated.library if run.recreated else ENGRAM.parent
    has_engram = any((Path(root) / "engram" / "__init__.py").exists() for root in roots)
    return {
        "script": str(run.code_folder / run.config.script),
        "roots": roots,
        "fallback": [] if has_engram else [str(own)],
        "snapshot": str(run.code_folder),
        "bytecode": str(run.cache.bytecode) if run.snapshot else None,
    }


def import_roots(run: Run) -> list[str]:
    """The folders of the snapshot that modules are imported from, first the most specific."""
    names = run.config.project_paths or IMPORT_ROOTS
    folders = (run.code_folder / name for name in names)
    return [str(folder) for folder in folders if folder.is_dir()]


def child_environ(run: Run) -> dict[str, str | None]:
    """The variables the child gets on top of the shell's: threads, caches, its own TMPDIR."""
    place = run.request.place
    return {
        **common_environ(run),
        "TMPDIR": str(run.tmp),
        "ENGRAM_RUN": run.paths.run_id,
        **(run.request.devices.environ if run.request.devices else {}),
        **(place.sweep.environ(again=place.attempt > 1) if place and place.sweep else {}),
    }


def common_environ(run: Run) -> dict[str, str | None]:
    """Those of them that libraries may read while they are imported, the same for every run."""
    threads = str(run.config.environment.threads)
    scratch = run.cache.scratch(scratch_name(run))
    return {
        **ranks.inherited(os.environ),
        **dict.fromkeys(THREAD_VARIABLES, threads),
        "MPLCONFIGDIR": str(run.cache.matplotlib),
        "COMPILED_CACHE_DIR": str(run.cache.compiled),
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
        "TORCH_EXTENSIONS_DIR": str(scratch / "torch_extensions"),
    }


def ignored_folders(run: Run) -> list[str]:
    """Folders whose files need no mention: the run itself, whose outputs are hashed, and caches."""
    home = Path.home()
    shared = (run.cache.bytecode, run.cache.matplotlib, run.cache.compiled)
    caches = (*shared, run.cache.scratch(scratch_name(run)))
    wandb = [home / ".cache" / "wandb", home / ".config" / "wandb", home / ".netrc"]
    if (place := run.request.place) and place.sweep:
        wandb.append(place.sweep.values.parent)
    return [str(folder) for folder in (run.paths.folder, run.tmp, *caches, ENGRAM, *wandb)]


def scratch_name(run: Run) -> str:
    """Whose caches these are: the snapshot's, or those of live runs."""
    return run.code["snapshot_commit"] or "live"
