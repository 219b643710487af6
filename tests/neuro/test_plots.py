"""Figures: what is drawn, and that equal drawings make equal files."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from neuro.plots import count_confusions, draw_confusion, draw_raster, publication, save_png


def test_raster_marks_each_spike_at_the_middle_of_its_step():
    raster = np.array(
        [
            [1, 0, 0, 1],  # unit_0
            [0, 0, 0, 0],  # unit_1
            [0, 1, 1, 0],  # unit_2
        ]
    ).T
    axes = Figure().subplots()
    draw_raster(axes, raster, dt_ms=5.0)
    marks = [list(unit.get_positions()) for unit in axes.collections]
    assert marks == [[2.5, 17.5], [], [7.5, 12.5]]
    assert [unit.get_lineoffset() for unit in axes.collections] == [0, 1, 2]
    assert axes.get_xlim() == (0, 20)
    assert axes.get_ylim() == (2.5, -0.5)


def test_raster_refuses_a_batch():
    with pytest.raises(ValueError, match=r"\(4, 2, 3\)"):
        draw_raster(Figure().subplots(), np.zeros((4, 2, 3)), dt_ms=1.0)


def test_confusions_are_counted_as_scikit_learn_does():
    generator = np.random.default_rng(0)
    targets, predictions = generator.integers(0, 7, (2, 500))
    np.testing.assert_array_equal(
        count_confusions(targets, predictions, n_classes=9),
        confusion_matrix(targets, predictions, labels=range(9)),
    )


def test_confusions_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"predictions spans 0 \.\. 3, outside 0 \.\. 2"):
        count_confusions([0, 1], [0, 3], n_classes=3)
    with pytest.raises(ValueError, match="one shape"):
        count_confusions([0, 1], [0], n_classes=3)


def test_confusion_figure_shows_the_counts():
    axes = Figure().subplots()
    draw_confusion(axes, [[5, 0], [1, 3]], labels=["cat", "dog"])
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "5", (0, 1): "1", (1, 1): "3"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[1, 0], [0.25, 0.75]])


def test_equal_drawings_make_equal_files_under_any_style(tmp_path):
    written = []
    for name, style in (("a.png", {}), ("b.png", {"font.size": 20, "axes.grid": True})):
        with mpl.rc_context(style), publication():
            figure = Figure(figsize=(2, 2))
            draw_confusion(figure.subplots(), [[5, 0], [1, 3]], labels=["cat", "dog"])
            save_png(figure, tmp_path / name)
            written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert b"Matplotlib" not in written[0]
    assert b"matplotlib" not in written[0]


def test_style_of_the_caller_is_restored():
    with mpl.rc_context({"font.size": 20}):
        with publication():
            assert mpl.rcParams["font.size"] != 20
        assert mpl.rcParams["font.size"] == 20
