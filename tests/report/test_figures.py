"""Figures: what is drawn is what was given, in the shared style, without global state."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.report import figures


def test_reports_import_neither_matplotlib_nor_jax():
    program = (
        "import sys, lab.report, lab.report.figures, lab.report.page\n"
        "print([name for name in ('matplotlib', 'jax', 'rich', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_figures_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    _, axes = figures.new()
    figures.lines(axes, range(3), {"a": [1, 2, 3], "b": [2, 3, 4]})
    assert dict(matplotlib.rcParams) == before


def test_figure_has_phone_width_in_the_shared_style():
    fig, axes = figures.new(2, 1)
    picture = io.BytesIO()
    fig.savefig(picture, format="png")
    width, height = np.frombuffer(picture.getvalue()[16:24], ">u4")
    assert (width, height) == (900, 1200)
    assert axes.shape == (2,)
    assert not axes[0].spines["top"].get_visible()


def test_bars_have_heights_and_whiskers():
    _, axes = figures.new()
    figures.bars(axes, ["x", "y"], {"a": [1, 2], "b": [3, 4]}, {"a": [0.1, 0.2], "b": [0.3, 0.4]})
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [1, 2, 3, 4]
    whiskers = [part for c in axes.collections for part in c.get_segments()]
    lengths = [np.ptp(whisker[:, 1]) for whisker in whiskers]
    np.testing.assert_allclose(lengths, [0.2, 0.4, 0.6, 0.8])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["x", "y"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_bars_of_one_series_may_lack_whiskers_and_legend():
    _, axes = figures.new()
    figures.bars(axes, ["x", "y"], [1, 2])
    assert axes.get_legend() is None


def test_series_of_bars_differ_in_more_than_colour():
    _, axes = figures.new()
    figures.bars(axes, ["x"], {"a": [1], "b": [2], "c": [3]})
    assert len({bar.get_hatch() for bar in axes.patches}) == 3


def test_lines_show_mean_and_one_deviation():
    _, axes = figures.new()
    repeats = np.random.default_rng(0).normal(size=(5, 4))
    figures.lines(axes, range(4), {"a": repeats})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), repeats.mean(0))
    edge = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(edge.max(), (repeats.mean(0) + repeats.std(0, ddof=1)).max())


def test_histogram_counts_every_value():
    _, axes = figures.new()
    figures.histogram(axes, {"a": np.arange(10.0), "b": np.arange(5.0)}, bins=4)
    filled = [bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]
    assert sum(filled) == 15


def test_heat_map_writes_the_values():
    _, axes = figures.new()
    figures.heat_map(axes, [[0.1, 0.9]], rows=["r"], columns=["a", "b"], number_format="{:.1f}")
    assert [text.get_text() for text in axes.texts] == ["0.1", "0.9"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: figures.bars(axes, ["x"], [1, 2]),
        lambda axes: figures.lines(axes, range(3), {"a": [1, 2]}),
        lambda axes: figures.heat_map(axes, [1, 2]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(draw):
    _, axes = figures.new()
    with pytest.raises(InvalidInputError):
        draw(axes)
