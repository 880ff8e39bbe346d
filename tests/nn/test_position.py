"""Position tables against loops written from their definitions."""

import math

import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.position import (
    bicubic_matrix,
    grid_of,
    interpolate_positions,
    relative_position_index,
    sincos_table,
)


def test_the_sincos_table_is_its_formula():
    table = sincos_table(8, 3)
    assert table.shape == (1, 10, 8)
    assert (table[0, 0] == 0).all()
    row, column = 2, 1
    angles = [(column, 1.0), (column, 100.0), (row, 1.0), (row, 100.0)]
    sines = [math.sin(p / f) for p, f in angles]
    cosines = [math.cos(p / f) for p, f in angles]
    expected = [*sines[:2], *cosines[:2], *sines[2:], *cosines[2:]]
    np.testing.assert_allclose(table[0, 1 + 3 * row + column], expected, atol=1e-7)


def test_cubic_weights_of_a_point_sum_to_one_and_reproduce_the_grid():
    for old, new in ((4, 7), (7, 4), (14, 32)):
        np.testing.assert_allclose(bicubic_matrix(old, new).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(bicubic_matrix(5, 5), np.eye(5), atol=1e-7)


def test_resizing_keeps_the_special_tokens():
    table = np.random.default_rng(0).normal(size=(1, 2 + 9, 4)).astype(np.float32)
    resized = interpolate_positions(table, 5, num_special=2)
    assert resized.shape == (1, 2 + 25, 4)
    np.testing.assert_array_equal(resized[:, :2], table[:, :2])


@pytest.mark.parametrize("num_special", [1, 2])
def test_relative_positions_of_patches_depend_on_their_offset_alone(num_special):
    index = relative_position_index(3, num_special)[num_special:, num_special:]
    for query in range(9):
        for key in range(9):
            offset = (query // 3 - key // 3 + 2) * 5 + query % 3 - key % 3 + 2
            assert index[query, key] == offset


def test_each_kind_of_pair_with_a_special_token_has_its_own_row():
    one, n = relative_position_index(2), 9
    assert one[0].tolist() == [n + 2] + [n] * 4
    assert one[1:, 0].tolist() == [n + 1] * 4
    two = relative_position_index(2, num_special=2)
    assert two[0].tolist() == [n + 5] + [n + 3] * 5
    assert two[1:, 0].tolist() == [n + 4] * 5
    assert two[1, 1:].tolist() == [n + 2] + [n] * 4
    assert two[2:, 1].tolist() == [n + 1] * 4


def test_impossible_tables_are_refused():
    with pytest.raises(InvalidInputError, match="divisible by 4, got 6"):
        sincos_table(6, 2)
    with pytest.raises(InvalidInputError, match="10 patches do not make a square"):
        grid_of(10)
    with pytest.raises(InvalidInputError, match="1 or 2 special tokens"):
        relative_position_index(2, 3)
