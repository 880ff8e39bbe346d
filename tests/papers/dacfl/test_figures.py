"""Pictures: what is drawn is what was given."""

import numpy as np
import pytest

from lab.papers import dacfl
from lab.papers.dacfl import figures as draw
from lab.report import figures


@pytest.fixture
def axes():
    return figures.new()[1]


def test_a_network_has_a_dot_a_user_and_a_line_a_link(axes):
    matrix = dacfl.draw_matrix(dacfl.TOPOLOGIES["ring"](6, None, None), dacfl.MixingConfig(), None)
    accuracy = np.linspace(0.5, 0.9, 6)
    draw.network(axes, matrix, accuracy, limits=(0, 100))
    assert len(axes.lines) == 6
    np.testing.assert_allclose(axes.collections[0].get_array(), 100 * accuracy)
    assert axes.collections[0].get_clim() == (0, 100)


def test_large_networks_are_laid_out_by_their_slowest_directions(axes):
    matrix = dacfl.draw_matrix(dacfl.TOPOLOGIES["path"](40, None, None), dacfl.MixingConfig(), None)
    places = draw.layout(matrix)
    assert places.shape == (40, 2)
    order = np.argsort(places[:, 1])  # the slowest direction of a path runs along it
    assert order.tolist() in (list(range(40)), list(range(39, -1, -1)))
    draw.network(axes, matrix, np.ones(40))


def test_bands_span_all_users(axes):
    accuracy = np.random.default_rng(0).uniform(size=(5, 7))
    draw.accuracy_bands(axes, range(5), {"a": accuracy})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * np.median(accuracy, axis=1))
    outer = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert outer.max() == pytest.approx(100 * accuracy.max())
    assert outer.min() == pytest.approx(100 * accuracy.min())


def test_the_other_pictures_show_their_series(axes):
    rounds = np.arange(1, 5)
    draw.consensus(axes, {"x": np.ones(4)}, np.full(4, 2.0))
    assert [line.get_label() for line in axes.lines] == ["x", "bound on x"]
    place = figures.new()[1]
    draw.against_bytes(place, {"a": rounds * 1e6}, {"a": rounds / 10})
    assert place.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    place = figures.new()[1]
    draw.outage(place, rounds, np.random.default_rng(0).uniform(size=(4, 3)), 1, 1, 2)
    assert place.lines[1].get_label() == "user 1"
    place = figures.new()[1]
    draw.mixing_speed(place, {"ring": np.full(4, 0.7)})
    assert place.lines[0].get_ydata().tolist() == [0.7] * 4


def test_heat_maps_have_users_as_rows():
    for function in (draw.label_histogram, draw.class_heat_map):
        place = figures.new()[1]
        function(place, np.ones((3, 5)))
        assert place.images[0].get_array().shape == (3, 5)
        assert place.get_ylabel() == "user"
