"""Figures as files; nothing here is imported while a model trains."""

from neuro.plots.confusion import count_confusions, draw_confusion
from neuro.plots.presentation import draw_presentation
from neuro.plots.raster import draw_raster
from neuro.plots.style import new_figure, publication, save_png

__all__ = [
    "count_confusions",
    "draw_confusion",
    "draw_presentation",
    "draw_raster",
    "new_figure",
    "publication",
    "save_png",
]
