import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lab.errors import InvalidInputError
from lab.metrics.segmentation import add_areas, segmentation_areas, segmentation_scores

CLASSES = 4
PREDICTIONS = hnp.arrays(np.int32, (3, 5), elements=st.integers(0, CLASSES - 1))
LABELS = hnp.arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))


def slow_scores(predictions, labels):
    """IoU and accuracy by class, pixel by pixel, in sets."""
    iou, accuracy = [], []
    counted = {p for p in np.ndindex(labels.shape) if labels[p] != 255}
    for c in range(CLASSES):
        predicted = {p for p in counted if predictions[p] == c}
        labelled = {p for p in counted if labels[p] == c}
        both, either = predicted & labelled, predicted | labelled
        iou.append(len(both) / len(either) if either else np.nan)
        accuracy.append(len(both) / len(labelled) if labelled else np.nan)
    right = sum(predictions[p] == labels[p] for p in counted)
    return iou, accuracy, right / len(counted) if counted else np.nan


@given(PREDICTIONS, LABELS)
@settings(max_examples=80, deadline=None)
def test_scores_are_those_of_sets_of_pixels(predictions, labels):
    iou, accuracy, total = slow_scores(predictions, labels)
    scores = segmentation_scores(segmentation_areas(predictions, labels, CLASSES))
    np.testing.assert_allclose(scores["iou"], iou)
    np.testing.assert_allclose(scores["accuracy"], accuracy)
    np.testing.assert_allclose(scores["aacc"], total)
    known = [x for x in iou if not np.isnan(x)]
    np.testing.assert_allclose(scores["miou"], np.mean(known) if known else np.nan)


@given(PREDICTIONS, LABELS)
@settings(max_examples=30, deadline=None)
def test_areas_of_parts_add_up_to_those_of_the_whole(predictions, labels):
    parts = [segmentation_areas(p, l, CLASSES) for p, l in zip(predictions, labels, strict=True)]
    whole = segmentation_areas(predictions, labels, CLASSES)
    for part, expected in zip(add_areas(*parts), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_class_that_is_only_predicted_scores_zero_and_an_absent_one_is_left_out():
    areas = segmentation_areas(np.array([0, 1, 1, 0]), np.array([0, 0, 255, 0]), 3)
    scores = segmentation_scores(areas)
    np.testing.assert_allclose(scores["iou"], [2 / 3, 0, np.nan])
    np.testing.assert_allclose(scores["accuracy"], [2 / 3, np.nan, np.nan])
    assert (scores["miou"], scores["macc"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_a_set_without_labels_has_no_scores():
    scores = segmentation_scores(segmentation_areas(np.zeros(3, int), np.full(3, 255), 2))
    assert np.isnan([scores["miou"], scores["macc"], scores["aacc"]]).all()


def test_wrong_maps_are_refused():
    with pytest.raises(InvalidInputError, match="one shape, got 3 and 2"):
        segmentation_areas(np.zeros(3, int), np.zeros(2, int), 2)
    with pytest.raises(InvalidInputError, match=r"labels must be in 0\.\.1, got \[2\]"):
        segmentation_areas(np.zeros(2, int), np.array([0, 2]), 2)
    with pytest.raises(InvalidInputError, match=r"predictions must be in 0\.\.1, got \[-1\]"):
        segmentation_areas(np.array([0, -1]), np.array([0, 1]), 2)
