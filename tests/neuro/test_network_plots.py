"""Figures of networks and of their training: what is drawn where."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from neuro.plots import (
    assembly_order,
    connectivity_image,
    draw_conductances,
    draw_connectivity,
    draw_curves,
    draw_distribution,
    draw_factor_paths,
    draw_population_raster,
    draw_potentials,
    draw_rate_distributions,
    draw_recovery,
    publication,
    save_png,
)


@pytest.fixture
def axes():
    return Figure().subplots()


def labelled(axes, name):
    (line,) = [line for line in axes.lines if line.get_label() == name]
    return line


def test_population_raster_dots_each_spike_and_sorts_by_group(axes):
    raster = np.array(
        [
            [1, 0, 0, 1],  # unit_0, E
            [0, 1, 0, 0],  # unit_1, I
            [0, 0, 1, 0],  # unit_2, E
        ]
    ).T
    draw_population_raster(axes, raster, dt_ms=5.0, group=["E", "I", "E"])
    excitatory = labelled(axes, "E").get_xydata().tolist()
    assert sorted(excitatory) == [[2.5, 0], [12.5, 1], [17.5, 0]]
    assert labelled(axes, "I").get_xydata().tolist() == [[7.5, 2]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["E", "I"]
    assert axes.get_yticks().tolist() == [0.5, 2]
    assert axes.get_xlim() == (0, 20)
    assert axes.get_ylim() == (2.5, -0.5)


def test_population_raster_of_five_thousand_units_is_one_drawing(axes):
    spikes = np.random.default_rng(0).random((200, 5000)) < 0.002
    draw_population_raster(axes, spikes, dt_ms=1.0)
    assert [len(line.get_xdata()) for line in axes.lines] == [spikes.sum()]
    assert axes.lines[0].get_rasterized()


def test_population_raster_wants_a_group_for_each_unit(axes):
    with pytest.raises(ValueError, match="group names 2 units, spikes has 3"):
        draw_population_raster(axes, np.zeros((4, 3)), dt_ms=1.0, group=["E", "I"])
    with pytest.raises(ValueError, match=r"\(4, 1, 3\)"):
        draw_population_raster(axes, np.zeros((4, 1, 3)), dt_ms=1.0)


def test_potentials_stand_above_each_other_to_one_scale(axes):
    potential = np.array([[-60.0, -50.0, -39.0], [-60.0, -60.0, -59.0]]).T
    spikes = np.array([[0, 0, 1], [0, 0, 0]]).T
    draw_potentials(axes, potential, dt_ms=2.0, threshold=-40.0, spikes=spikes, labels=["a", "b"])
    traces = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [line.get_xdata().tolist() for line in traces] == [[2, 4, 6]] * 2
    first, second = (line.get_ydata() for line in traces)
    np.testing.assert_allclose(np.diff(first), [10, 11])
    np.testing.assert_allclose(np.diff(second), [0, 1])
    assert second.max() < first.min()
    marks = [line for line in axes.lines if line.get_marker() == "|"]
    assert [line.get_xdata().tolist() for line in marks] == [[6], []]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    # Potentials span 21 mV: the longest of 1, 2, 5 times a power of ten within half of it.
    assert [text.get_text() for text in axes.texts] == [" 10 mV"]


def test_potentials_and_spikes_of_different_shape_are_refused(axes):
    with pytest.raises(ValueError, match=r"potential \(4, 2\) and spikes \(4, 3\)"):
        draw_potentials(axes, np.zeros((4, 2)), dt_ms=1.0, spikes=np.zeros((4, 3)))


def test_conductances_are_drawn_by_synapse_type(axes):
    draw_conductances(axes, {"AMPA": [0.0, 1.0, 0.5], "NMDA": [0.0, 0.1, 0.2]}, dt_ms=0.5)
    assert labelled(axes, "NMDA").get_xydata().tolist() == [[0.5, 0], [1, 0.1], [1.5, 0.2]]
    assert axes.get_ylabel() == "Conductance (nS)"


def test_rate_distribution_states_the_silent_share_and_sums_to_the_rest(axes):
    draw_rate_distributions(
        axes, {"E": [0.0, 1.0, 2.0, 4.0], "I": [10.0, 10.0]}, targets_hz={"I": 9.0}
    )
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["E (25% silent)", "I (0% silent)"]
    heights = [patch.get_xy()[:, 1].max() for patch in axes.patches]
    assert heights == [0.25, 1.0]
    assert axes.lines[0].get_xdata() == [9.0, 9.0]
    assert to_hex(axes.lines[0].get_color()) == to_hex(axes.patches[1].get_facecolor()[:3])


def test_rate_distribution_of_silence_is_empty_but_drawn(axes):
    draw_rate_distributions(axes, {"E": np.zeros(3)})
    assert axes.get_legend().get_texts()[0].get_text() == "E (100% silent)"


def test_distribution_leaves_out_what_is_undefined_and_says_so(axes):
    draw_distribution(axes, {"E": [0.5, np.nan, 1.5], "I": [1.0]}, label="CV", reference=1.0)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["E (1 undefined)", "I"]
    assert axes.lines[0].get_xdata() == [1.0, 1.0]


def test_neurons_are_ordered_by_assembly_then_type_and_the_rest_comes_last():
    assembly = np.array([1, -1, 0, 1, 0, 0])
    cell_type = np.array(["E", "E", "I", "E", "E", "E"])
    assert assembly_order(assembly, cell_type).tolist() == [4, 5, 2, 0, 3, 1]


def test_image_of_connections_is_the_dense_matrix_reordered_and_averaged():
    generator = np.random.default_rng(0)
    dense = generator.normal(size=(12, 8)) * (generator.random((12, 8)) < 0.3)
    pre, post = np.nonzero(dense)
    rows, columns = generator.permutation(12), generator.permutation(8)
    order = {"order_pre": rows, "order_post": columns}
    ordered = dense[np.ix_(rows, columns)]
    full = connectivity_image(pre, post, dense[pre, post], **order)
    np.testing.assert_allclose(full, ordered)
    coarse = connectivity_image(pre, post, dense[pre, post], **order, n_pixels=4)
    np.testing.assert_allclose(coarse, ordered.reshape(4, 3, 4, 2).mean(axis=(1, 3)))


def test_pixels_of_unequal_size_are_averaged_over_what_they_hold():
    pre, post = (grid.ravel() for grid in np.indices((7, 5)))
    image = connectivity_image(
        pre, post, np.ones(35), order_pre=np.arange(7), order_post=np.arange(5), n_pixels=3
    )
    np.testing.assert_allclose(image, np.ones((3, 3)))


def test_connections_are_shown_with_white_at_zero(axes):
    shown = draw_connectivity(axes, [[0.0, 2.0], [-1.0, 0.0]], n_pre=20, n_post=10)
    assert shown.norm.vmin == -shown.norm.vmax
    assert axes.get_xlim() == (-0.5, 9.5)
    assert axes.get_ylim() == (19.5, -0.5)


@pytest.mark.parametrize("strongest", [0.0, 3.0])
def test_connections_too_few_for_a_quantile_still_have_a_scale(axes, strongest):
    image = np.zeros((40, 40))
    image[0, 0] = strongest
    shown = draw_connectivity(axes, image, n_pre=40, n_post=40)
    assert shown.norm.vmax == (strongest or 1)


def test_recovery_shows_start_end_and_equality_on_one_square(axes):
    true, start, recovered = [0.5, 1.0, 2.0], [1.0, 1.0, 1.0], [0.6, 1.1, 1.9]
    draw_recovery(axes, true, recovered, start=start, labels=["E to E", "E to I", "I to E"])
    assert labelled(axes, "recovered").get_xydata().tolist() == [
        list(pair) for pair in zip(true, recovered, strict=True)
    ]
    assert labelled(axes, "start").get_ydata().tolist() == start
    equal = labelled(axes, "equal")
    assert list(equal.get_xdata()) == list(equal.get_ydata())
    assert axes.get_xlim() == axes.get_ylim()
    arrows = [text for text in axes.texts if text.arrow_patch]
    assert [(text.xyann, text.xy) for text in arrows] == [
        ((0.5, 1.0), (0.5, 0.6)),
        ((1.0, 1.0), (1.0, 1.1)),
        ((2.0, 1.0), (2.0, 1.9)),
    ]
    assert [text.get_text() for text in axes.texts if text.get_text()] == [
        "E to E",
        "E to I",
        "I to E",
    ]


def test_recovery_of_other_factors_than_the_true_ones_is_refused(axes):
    with pytest.raises(ValueError, match=r"true \(3,\), recovered \(2,\)"):
        draw_recovery(axes, [1.0, 1.0, 1.0], [1.0, 1.0])


def test_paths_of_factors_end_beside_their_aims(axes):
    draw_factor_paths(axes, [0, 10], [[1.0, 1.0], [0.6, 1.8]], true=[0.5, 2.0], labels=["a", "b"])
    assert labelled(axes, "b").get_xydata().tolist() == [[0, 1], [10, 1.8]]
    aims = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in aims] == [0.5, 2.0]
    assert [line.get_color() for line in aims] == ["C0", "C1"]


def test_curves_are_averaged_over_full_windows_and_show_their_aims(axes):
    updates, loss = np.arange(4), np.array([4.0, 2.0, 0.0, 2.0])
    draw_curves(axes, updates, {"E": loss}, ylabel="Rate (Hz)", targets={"E": 1.5}, window=2)
    assert labelled(axes, "E").get_xydata().tolist() == [[1, 3], [2, 1], [3, 1]]
    assert axes.lines[0].get_ydata().tolist() == loss.tolist()
    assert axes.lines[2].get_ydata() == [1.5, 1.5]


def test_curves_that_do_not_fit_are_refused(axes):
    with pytest.raises(ValueError, match=r"loss has shape \(2,\), updates \(3,\)"):
        draw_curves(axes, [0, 1, 2], {"loss": [1.0, 2.0]}, ylabel="Loss")
    with pytest.raises(ValueError, match="among the curves"):
        draw_curves(axes, [0], {"loss": [1.0]}, ylabel="Loss", targets={"rate": 1.0})
    with pytest.raises(ValueError, match="window = 0"):
        draw_curves(axes, [0], {"loss": [1.0]}, ylabel="Loss", window=0)


def test_equal_drawings_of_networks_make_equal_files_under_any_style(tmp_path):
    written = []
    for name, style in (("a.png", {}), ("b.png", {"font.size": 20, "axes.grid": True})):
        with mpl.rc_context(style), publication():
            figure = Figure(figsize=(4, 4))
            panels = figure.subplots(2, 2).ravel()
            spikes = np.random.default_rng(0).random((100, 30)) < 0.05
            draw_population_raster(panels[0], spikes, dt_ms=1.0, group=["E"] * 20 + ["I"] * 10)
            draw_potentials(panels[1], np.cumsum(spikes[:, :3], axis=0), dt_ms=1.0, unit="theta")
            draw_recovery(panels[2], [0.5, 2.0], [0.6, 1.9], start=[1.0, 1.0])
            draw_curves(panels[3], np.arange(5), {"loss": np.arange(5)}, ylabel="Loss")
            save_png(figure, tmp_path / name)
            written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
