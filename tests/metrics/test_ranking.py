"""AUC against counting pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.ranking import roc_auc


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_won(pairs):
    scores, labels = np.array([float(s) for s, _ in pairs]), np.array([y for _, y in pairs])
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        assert np.isnan(roc_auc(scores, labels))
        return
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    np.testing.assert_allclose(roc_auc(scores, labels), np.mean(wins), atol=1e-12)


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_auc_under_jit_and_vmap(dtype):
    scores = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    labels = (np.random.default_rng(1).random((3, 20)) < 0.4).astype(dtype)
    together = jax.jit(jax.vmap(roc_auc))(jnp.asarray(scores), jnp.asarray(labels))
    alone = [roc_auc(s.astype(float), y) for s, y in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
