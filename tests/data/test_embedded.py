import numpy as np
import pytest

from lab import data
from lab.data import embedded
from lab.errors import InvalidInputError


def test_karate_club_has_the_published_degrees_and_sides():
    club = data.load("karate_club")
    degrees = np.bincount(club.edge_index[0], minlength=34)
    assert (club.num_nodes, club.num_edges) == (34, 2 * 78)
    assert (degrees[33], degrees[0], degrees[32]) == (17, 16, 12)
    assert np.sort(degrees)[:2].tolist() == [1, 2]
    assert np.bincount(club.labels).tolist() == [17, 17]
    assert (club.labels[0], club.labels[33]) == (0, 1)


def test_generated_graph_is_the_same_for_the_same_seed():
    first, again, other = (embedded.generated_citations(seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.edge_index, again.edge_index)
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.labels, other.labels)


def accuracy_of_least_squares(features, dataset):
    """Test accuracy of a ridge classifier fitted on the train and val nodes."""
    train = dataset.train_mask | dataset.val_mask
    targets = np.eye(dataset.num_classes)[dataset.labels]
    centred = features - features[train].mean(axis=0)
    gram = centred[train].T @ centred[train] + np.eye(features.shape[1])
    weights = np.linalg.solve(
        gram, centred[train].T @ (targets - targets[train].mean(axis=0))[train]
    )
    hits = np.argmax(centred @ weights, axis=1) == dataset.labels
    return hits[dataset.test_mask].mean()


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_of_the_generated_graph_tell_more_than_the_words(seed):
    dataset = embedded.generated_citations(seed)
    adjacency = np.eye(dataset.num_nodes)
    adjacency[tuple(dataset.edge_index)] = 1
    scale = adjacency.sum(axis=1) ** -0.5
    propagate = scale[:, None] * adjacency * scale
    alone = accuracy_of_least_squares(dataset.features, dataset)
    with_neighbours = accuracy_of_least_squares(propagate @ propagate @ dataset.features, dataset)
    assert 0.3 < alone < 0.7
    assert with_neighbours > alone + 0.25


def test_generated_graph_has_the_asked_structure():
    dataset = embedded.generated_citations(0)
    source, target = dataset.edge_index
    same_class = dataset.labels[source] == dataset.labels[target]
    assert same_class.mean() == pytest.approx(0.85, abs=0.03)
    assert dataset.num_edges / dataset.num_nodes == pytest.approx(5.0, rel=0.06)
    assert np.bincount(dataset.labels).tolist() == [200] * 5
    assert np.bincount(dataset.labels[dataset.train_mask]).tolist() == [20] * 5
    assert (dataset.train_mask | dataset.val_mask | dataset.test_mask).all()
    assert int(dataset.val_mask.sum()) == 200
    degrees = np.bincount(source, minlength=dataset.num_nodes)
    assert degrees.std() > 1.3 * np.sqrt(degrees.mean())  # Broader than a Poisson law.


@pytest.mark.parametrize("bad", [{"num_nodes": 10}, {"homophily": 1.5}, {"topic_share": -0.1}])
def test_impossible_graph_is_refused(bad):
    (name,) = bad
    with pytest.raises(InvalidInputError, match=f"{name}="):
        embedded.generated_citations(0, **bad)


def test_digits_are_balanced_and_told_apart_by_nearest_neighbour():
    images, labels = data.load("generated_digits")
    test_images, test_labels = data.load("generated_digits", split="test")
    assert (images.shape, images.dtype, labels.dtype) == ((2000, 8, 8, 1), np.uint8, np.int32)
    assert np.bincount(labels).tolist() == [200] * 10
    assert not np.array_equal(images[:500], test_images)
    flat, test_flat = images.reshape(2000, -1) / 255.0, test_images.reshape(500, -1) / 255.0
    distances = (flat**2).sum(axis=1) - 2 * test_flat @ flat.T
    nearest = labels[distances.argmin(axis=1)]
    assert (nearest == test_labels).mean() > 0.9


def test_unknown_split_of_digits_is_refused():
    with pytest.raises(InvalidInputError, match="accepted: 'train', 'test'"):
        data.load("generated_digits", split="valid")
