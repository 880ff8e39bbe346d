import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lab.errors import InvalidInputError, NonFiniteError
from lab.nn.vit import ViT
from lab.papers.tinymim.probes import (
    LinearProbe,
    check_features,
    knn_predict,
    linear_probe_accuracy,
    logistic_probe_accuracy,
    logistic_regression,
    pooled_features,
    probe_logits,
    regression_logits,
    train_linear_probe,
)
from tests.papers.tinymim.networks import STUDENT, pictures, quick_jit, random_variables

CLASSES, WIDTH = 3, 5


@functools.cache
def clusters(count=60, spread=0.5, seed=0):
    """(features, labels) of three well-separated clusters, shifted and scaled by channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centers = np.random.default_rng(9).normal(size=(CLASSES, WIDTH)) * 2
    x = centers[labels] + spread * rng.normal(size=(count, WIDTH))
    x = 3 + x * np.array([1, 10, 0.1, 1, 5])
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


PROBE = LinearProbe(
    CLASSES, epochs=20, warmup_epochs=2, base_rate=3.0, batch_size=16, trust_coefficient=0.1
)


@functools.cache
def trained():
    """A probe for each of three keys, trained in one call."""
    run = functools.partial(train_linear_probe, PROBE, *clusters())
    return quick_jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 3))


def test_a_linear_probe_learns_clusters_for_every_key_at_once():
    variables, history = trained()
    assert history["loss"].shape == (3, 20)
    assert np.asarray(history["finite"]).all()
    accuracies = jax.vmap(lambda v: linear_probe_accuracy(v, *clusters(seed=2)))(variables)
    assert (np.asarray(accuracies) > 0.95).all()
    heads = variables["params"]["head"]["kernel"]
    assert not np.allclose(heads[0], heads[1])


def test_a_probe_normalises_by_running_statistics_of_the_features():
    variables = jax.tree.map(lambda x: x[0], trained()[0])
    features, _ = clusters()
    statistics = variables["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], features.mean(axis=0), rtol=0.3)
    head = variables["params"]["head"]
    normed = (features - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-6)
    expected = normed @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(probe_logits(variables, features), expected, atol=1e-4)


def test_every_epoch_takes_one_of_several_views():
    features, labels = clusters()
    views = jnp.stack([features, -features])
    config = LinearProbe(CLASSES, epochs=12, warmup_epochs=2, base_rate=1.0, batch_size=60)
    run = quick_jit(functools.partial(train_linear_probe, config))
    variables, _ = run(views, labels, jax.random.key(0))
    shares = variables["batch_stats"]["norm"]["mean"] / features.mean(axis=0)
    # each epoch is one step, which moves the running mean by a tenth of that view's, + or -
    np.testing.assert_allclose(shares, shares[0], rtol=1e-3)
    signed = [
        sum(0.1 * 0.9**i * (1 - 2 * (draws >> i & 1)) for i in range(12)) for draws in range(2**12)
    ]
    assert np.min(np.abs(np.array(signed) - shares[0])) < 1e-5
    assert abs(shares[0]) < 1 - 0.9**12 - 1e-3


regress = quick_jit(functools.partial(logistic_regression, num_classes=CLASSES))


def test_logistic_regression_reaches_the_minimum_that_scipy_finds():
    features, labels = clusters(spread=2.0)
    fit = regress(features, labels)
    x = np.asarray(features, np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    chosen = np.arange(len(x)), np.asarray(labels)

    def objective(flat):
        weights, bias = flat[:-CLASSES].reshape(WIDTH, CLASSES), flat[-CLASSES:]
        logits = x @ weights + bias
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[chosen]
        return 0.5 * (weights**2).sum() + 0.1 * losses.sum()

    best = scipy.optimize.minimize(objective, np.zeros((WIDTH + 1) * CLASSES), tol=1e-10)
    reached = objective(np.concatenate([np.ravel(fit["weights"]), fit["bias"]]).astype(float))
    assert reached == pytest.approx(best.fun, rel=1e-5)
    weights = best.x[:-CLASSES].reshape(WIDTH, CLASSES)
    np.testing.assert_allclose(fit["weights"], weights, atol=2e-3)


def test_the_logistic_probe_scores_test_features():
    train, test = clusters(), clusters(seed=3)
    accuracy = quick_jit(functools.partial(logistic_probe_accuracy, num_classes=CLASSES))
    assert accuracy(*train, *test) > 0.95
    shuffled = jnp.asarray(np.random.default_rng(0).permutation(test[1]))
    assert accuracy(*train, test[0], shuffled) < 0.7


def test_a_constant_feature_does_not_disturb_the_regression():
    features, labels = clusters()
    constant = features.at[:, 0].set(7.0)
    fit = regress(constant, labels)
    np.testing.assert_allclose(fit["weights"][0], 0, atol=1e-6)
    assert np.isfinite(regression_logits(fit, constant)).all()


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_nearest_neighbours_are_those_of_brute_force(temperature):
    train, labels = (np.asarray(x) for x in clusters(spread=4.0))
    queries = np.asarray(clusters(count=22, spread=4.0, seed=4)[0])
    predict = functools.partial(
        knn_predict, num_classes=CLASSES, k=7, temperature=temperature, chunk=8
    )
    expected = []
    for query in queries:
        cosine = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = np.zeros(CLASSES)
        for i in np.argsort(-cosine)[:7]:
            votes[labels[i]] += 1 if temperature is None else np.exp(cosine[i] / temperature)
        expected.append(votes.argmax())
    np.testing.assert_array_equal(quick_jit(predict)(train, labels, queries), expected)


def test_features_are_pooled_over_patches_or_the_class_token():
    variables, images = random_variables(STUDENT), pictures()

    def pool(pooling):
        return pooled_features(STUDENT, variables, images, "block1/block", pooling=pooling)

    def all_of_them():
        tokens = ViT(STUDENT).apply(variables, images, ("block1/block",))["block1/block"]
        return tokens, pool("mean"), pool("cls")

    tokens, mean, cls = quick_jit(all_of_them)()
    np.testing.assert_allclose(mean, tokens[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(cls, tokens[:, 0], atol=1e-5)
    with pytest.raises(InvalidInputError, match="pooling is 'mean' or 'cls', got 'max'"):
        pool("max")


def test_wrong_features_are_refused():
    features, labels = np.zeros((4, 2)), np.array([0, 1, 2, 0])
    check_features(features, labels, 3)
    check_features(np.zeros((2, 4, 2)), labels, 3)
    with pytest.raises(InvalidInputError, match=r"with N labels, got \(4, 2\) and \(3,\)"):
        check_features(features, labels[:3], 3)
    with pytest.raises(InvalidInputError, match=r"labels must be in 0\.\.1, got \[2\]"):
        check_features(features, labels, 2)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        check_features(np.full((4, 2), np.nan), labels, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearProbe(1), "num_classes must be at least 2"),
        (lambda: LinearProbe(batch_size=1), "batch_size must be at least 2"),
        (lambda: LinearProbe(epochs=5, warmup_epochs=5), r"warmup_epochs must lie in 0\.\.5"),
        (lambda: knn_predict(np.zeros((3, 2)), np.zeros(3, int), np.zeros((1, 2)), 2), "k must be"),
        (
            lambda: knn_predict(*clusters(), clusters()[0], CLASSES, k=1, temperature=0.0),
            "temperature must be positive",
        ),
        (
            lambda: logistic_regression(*clusters(), CLASSES, inverse_penalty=0.0),
            "inverse_penalty must be positive",
        ),
    ],
)
def test_impossible_probes_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
