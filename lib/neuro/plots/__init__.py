"""Figures as files; nothing here is imported while a model trains."""

from neuro.plots.confusion import count_confusions, draw_confusion
from neuro.plots.connectivity import assembly_order, connectivity_image, draw_connectivity
from neuro.plots.factors import draw_factor_paths, draw_recovery
from neuro.plots.presentation import draw_presentation
from neuro.plots.raster import draw_population_raster, draw_raster
from neuro.plots.rates import draw_distribution, draw_rate_distributions
from neuro.plots.style import new_figure, publication, save_png
from neuro.plots.traces import draw_conductances, draw_potentials
from neuro.plots.training import draw_curves

__all__ = [
    "assembly_order",
    "connectivity_image",
    "count_confusions",
    "draw_conductances",
    "draw_confusion",
    "draw_connectivity",
    "draw_curves",
    "draw_distribution",
    "draw_factor_paths",
    "draw_population_raster",
    "draw_potentials",
    "draw_presentation",
    "draw_raster",
    "draw_rate_distributions",
    "draw_recovery",
    "new_figure",
    "publication",
    "save_png",
]
