"""F1 scores against counts by hand, on numpy and on jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.classification import confusion_matrix, macro_f1, micro_f1


def slow_macro_f1(predictions, labels, num_classes):
    scores = []
    for c in range(num_classes):
        hits = sum(p == c and y == c for p, y in zip(predictions, labels, strict=True))
        wrong = sum((p == c) != (y == c) for p, y in zip(predictions, labels, strict=True))
        if hits + wrong:
            scores.append(2 * hits / (2 * hits + wrong))
    return np.mean(scores)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_f1_agrees_with_counting(pairs):
    predictions, labels = np.array(pairs).T
    assert micro_f1(predictions, labels) == np.mean(predictions == labels)
    np.testing.assert_allclose(
        macro_f1(predictions, labels, 6), slow_macro_f1(predictions, labels, 6)
    )


def test_absent_classes_do_not_count():
    labels = np.array([0, 0, 2])
    assert macro_f1(labels, labels, 10) == 1.0


def test_mask_leaves_examples_out_under_jit():
    predictions, labels = jnp.array([0, 1, 2, 2]), jnp.array([0, 1, 1, 1])
    mask = jnp.array([True, True, True, False])
    micro = jax.jit(micro_f1)(predictions, labels, mask)
    macro = jax.jit(macro_f1, static_argnums=2)(predictions, labels, 3, mask)
    np.testing.assert_allclose(micro, 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(macro, (1 + 2 / 3 + 0) / 3, rtol=1e-6)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_nothing_to_count_is_nan(array):
    empty, labels = array(np.zeros(2, bool)), array(np.array([0, 1]))
    assert np.isnan(micro_f1(labels, labels, empty))
    assert np.isnan(macro_f1(labels, labels, 2, empty))


def test_confusion_matrix_has_labels_as_rows():
    counts = confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
