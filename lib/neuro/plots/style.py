"""One look for all figures, and files that depend on nothing but what is drawn."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOOK: Any = {
    "figure.dpi": 200,  # dots an inch
    "font.size": 8,  # points
    "axes.titlesize": 8,  # points
    "axes.labelsize": 8,  # points
    "xtick.labelsize": 7,  # points
    "ytick.labelsize": 7,  # points
    "axes.linewidth": 0.6,  # points
    "xtick.major.width": 0.6,  # points
    "ytick.major.width": 0.6,  # points
    "xtick.major.size": 2.5,  # points
    "ytick.major.size": 2.5,  # points
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def publication() -> Iterator[None]:
    """Draw with this project's look, whatever matplotlibrc the user has; restore that after."""
    # rcdefaults spares the backend, which is no part of the look.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        yield


def new_figure(*, width_in: float, height_in: float) -> Figure:
    """Make an empty figure that no window or pyplot state knows of; sizes in inches."""
    return Figure(figsize=(width_in, height_in))


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure so that equal drawings make equal files.

    Args:
        figure: the figure; drawn by Agg, which needs no display.
        path: the file to write or replace.

    Raises:
        OSError: the file cannot be written.
    """
    # Matplotlib would note its own version in the file.
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
