import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.nn.upernet import (
    FCNHeadConfig,
    UpConvolution,
    UPerHeadConfig,
    adaptive_average_pool,
    drop_channels,
    pooling_matrix,
)


@given(num_bins=st.integers(1, 9), length=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_pooling_bins_average_their_cells_and_cover_all(num_bins, length):
    matrix = pooling_matrix(num_bins, length)
    values = np.random.default_rng(length).normal(size=length)
    for i in range(num_bins):
        first, past = i * length // num_bins, int(np.ceil((i + 1) * length / num_bins))
        np.testing.assert_allclose(matrix[i] @ values, values[first:past].mean(), atol=1e-6)
    assert (matrix.sum(axis=0) > 0).all()


def test_adaptive_pooling_works_on_each_axis_by_itself():
    maps = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    pooled = adaptive_average_pool(jnp.asarray(maps), 2)
    np.testing.assert_allclose(pooled[:, 0, 0], maps[:, :2, :3].mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(pooled[:, 1, 1], maps[:, 2:, 2:].mean(axis=(1, 2)), atol=1e-6)


def test_up_convolution_gives_each_pixel_a_two_by_two_square():
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(1, 2, 3, 4)), rng.normal(size=(2, 2, 4, 5))
    bias = rng.normal(size=5)
    out = UpConvolution(5).apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    assert out.shape == (1, 4, 6, 5)
    for row, column, i, j in np.ndindex(2, 3, 2, 2):
        expected = x[0, row, column] @ kernel[i, j] + bias
        np.testing.assert_allclose(out[0, 2 * row + i, 2 * column + j], expected, rtol=1e-4)


def test_dropped_channels_are_whole_and_the_others_keep_the_mean():
    x, noise = jnp.ones((1, 2, 2, 4)), jnp.array([[0.1, 0.3, 0.24, 0.9]])
    dropped = drop_channels(x, noise, 0.25)
    np.testing.assert_allclose(dropped[0, 0, 0], [0, 4 / 3, 0, 4 / 3], rtol=1e-6)
    np.testing.assert_array_equal(dropped, dropped[:, :1, :1] * x)
    np.testing.assert_array_equal(drop_channels(x, None, 0.25), x)


@pytest.mark.parametrize("config", [UPerHeadConfig, FCNHeadConfig])
def test_impossible_heads_are_refused(config):
    with pytest.raises(InvalidInputError, match="num_classes must be at least 2, got 1"):
        config(num_classes=1)
    with pytest.raises(InvalidInputError, match=r"dropout_rate must be in \[0, 1\), got -0.1"):
        config(dropout_rate=-0.1)
