"""Figures of population responses: what is drawn where."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from neuro.metrics.estimate import Estimate
from neuro.metrics.linear_readout import ReadoutScore
from neuro.plots import publication, save_png
from neuro.plots.interventions import draw_interventions
from neuro.plots.layers import draw_layer_rasters
from neuro.plots.similarity import draw_similarity_matrices
from neuro.plots.tuning import RankedType, draw_ranked_types, draw_sparseness, draw_tuning_curves
from neuro.plots.valence import draw_valence_readout


@pytest.fixture(autouse=True)
def look():
    with publication():
        yield


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_similarity_is_ordered_by_group_and_in_one_color_scale():
    matrix = np.arange(16).reshape(4, 4) / 16
    figure = draw_similarity_matrices({"ORN": matrix, "KC": -matrix}, ["b", "", "a", "b"])
    first, second = (axes.images[0] for axes in panels(figure))
    order = [2, 0, 3, 1]  # a, both b, and what has no name last
    np.testing.assert_allclose(first.get_array(), matrix[np.ix_(order, order)])
    np.testing.assert_allclose(second.get_array(), -matrix[np.ix_(order, order)])
    assert first.get_clim() == second.get_clim() == (-1, 1)
    assert [axes.get_title() for axes in panels(figure)] == ["ORN", "KC"]


def test_odors_without_response_are_left_blank_on_gray():
    matrix = np.full((3, 3), np.nan)
    matrix[:2, :2] = 1
    axes = panels(draw_similarity_matrices({"KC": matrix}, ["", "", ""]))[0]
    assert axes.images[0].get_array().mask.sum() == 5
    assert mpl.colors.same_color(axes.get_facecolor(), "lightgray")


def test_tuning_curves_fall_and_leave_out_cells_that_never_respond():
    rates = np.array([[1.0, 0.0, 5.0], [3.0, 0.0, 1.0]])
    axes = draw_tuning_curves({"KC": rates}).axes[0]
    curves = {tuple(line.get_ydata()) for line in axes.lines}
    # Cells (3, 1) and (5, 1), and their mean.
    assert curves == {(3, 1), (5, 1), (4, 1)}
    assert "33% never respond" in axes.get_title()


def test_silent_populations_have_no_curve():
    axes = draw_tuning_curves({"KC": np.zeros((4, 2))}).axes[0]
    assert not axes.lines
    assert "100% never respond" in axes.get_title()


def test_sparseness_of_cells_and_odors_is_drawn_apart():
    figure = draw_sparseness({"KC": [0.9, np.nan]}, {"KC": [0.5, 0.6, 0.7]})
    left, right = figure.axes
    assert left.get_legend().get_texts()[0].get_text() == "KC (1 undefined)"
    assert right.get_xlabel() == "Population sparseness"


def test_types_are_ranked_from_the_top_with_errors():
    types = [
        RankedType("KCg-m", 20, Estimate(0.2, 0.01, 9), Estimate(2.0, 0.1, 9)),
        RankedType("KCab", 10, Estimate(0.1, 0.02, 9), Estimate(1.0, 0.2, 9)),
    ]
    left, right = draw_ranked_types(types).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["KCg-m (20)", "KCab (10)"]
    assert [bar.get_width() for bar in left.patches] == [0.2, 0.1]
    assert [bar.get_width() for bar in right.patches] == [2.0, 1.0]
    assert left.get_ylim()[0] > left.get_ylim()[1]


def test_every_layer_has_a_panel_and_the_odor_is_shaded():
    spikes = np.zeros((50, 3))
    spikes[10, 1] = 1
    figure = draw_layer_rasters(
        {"ORN": np.zeros((50, 8)), "KC": spikes}, dt_ms=10, odor_ms=200, title="geosmin"
    )
    top, bottom = figure.axes
    assert "geosmin" in top.get_title()
    assert bottom.get_ylabel() == "KC\n(3)"
    assert [tuple(xy) for xy in bottom.lines[0].get_xydata()] == [(105, 1)]
    assert top.patches[0].get_width() == 200
    assert bottom.get_xlim() == (0, 500)


def test_valence_is_drawn_as_measured_against_predicted():
    score = ReadoutScore(0.5, 0.1, 0.0, 0.2, 0.01, 3, 7, np.array([0.1, 0.2, 0.3]))
    axes = draw_valence_readout([-1.0, 0.0, 1.0], {"KC": score}).axes[0]
    points = axes.lines[-1].get_xydata()
    assert points.tolist() == [[-1, 0.1], [0, 0.2], [1, 0.3]]
    assert axes.get_title() == "KC: r = 0.50 ± 0.10"


def test_interventions_show_estimates_and_the_seeds_behind_them():
    measures = {"Accuracy": {"real": Estimate(0.9, 0.01, 100), "shuffled": Estimate(0.8, 0.02, 2)}}
    figure = draw_interventions(measures, {"Accuracy": {"shuffled": [0.78, 0.82]}})
    axes = figure.axes[0]
    drawn = [
        line.get_xdata().tolist() for line in axes.lines if hasattr(line.get_xdata(), "tolist")
    ]
    assert [0.78, 0.82] in drawn
    assert [0.9, 0.8] in drawn
    assert [text.get_text() for text in axes.get_yticklabels()] == ["real", "shuffled"]


def test_equal_drawings_make_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        figure = draw_similarity_matrices({"KC": np.eye(5)}, ["x"] * 5)
        save_png(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
