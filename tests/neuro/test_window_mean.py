"""Means over a window that survive an interruption."""

from __future__ import annotations

import pytest

from neuro.training.window import WindowMean


def test_each_name_has_the_mean_of_the_values_it_was_given():
    window = WindowMean()
    for values in ({"loss": 1.0}, {"loss": 3.0, "norm": 5.0}, {"loss": 5.0}):
        window.add(values)
    assert window.means() == {"loss": 3.0, "norm": 5.0}
    assert window.take() == {"loss": 3.0, "norm": 5.0}
    assert window.means() == {}


def test_window_goes_on_where_it_was_saved():
    straight, begun, resumed = WindowMean(), WindowMean(), WindowMean()
    values = [0.1, 0.7, 0.3, 0.9]
    for number, value in enumerate(values):
        straight.add({"loss": value})
        (begun if number < 2 else resumed).add({"loss": value})
        if number == 1:
            resumed.load_state_dict(begun.state_dict())
    assert resumed.take() == straight.take()


def test_saved_window_does_not_change_with_the_live_one():
    window = WindowMean()
    window.add({"loss": 1.0})
    saved = window.state_dict()
    window.add({"loss": 2.0})
    other = WindowMean()
    other.load_state_dict(saved)
    assert other.means() == {"loss": pytest.approx(1.0)}
