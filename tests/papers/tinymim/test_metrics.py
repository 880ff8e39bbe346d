import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.tinymim.metrics import (
    ALEXNET_ERRORS,
    class_indices,
    corruption_errors,
    subset_accuracy,
    topk_accuracy,
)


@given(seed=st.integers(0, 99), k=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_topk_counts_labels_among_the_k_largest_logits(seed, k):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(8, 5)), rng.integers(0, 5, 8)
    ranks = [(row > row[label]).sum() for row, label in zip(logits, labels, strict=True)]
    assert topk_accuracy(logits, labels, k) == np.mean(np.array(ranks) < k)


def test_a_subset_of_the_classes_is_decided_among_itself():
    logits = np.array([[9.0, 1, 2, 0], [9, 3, 2, 0]])
    assert topk_accuracy(logits, np.array([2, 2])) == 0
    assert subset_accuracy(logits, np.array([2, 2]), [1, 2]) == 0.5


def test_subset_classes_are_found_by_name():
    assert class_indices(["n3", "n1"], ["n1", "n2", "n3"]).tolist() == [2, 0]
    with pytest.raises(InvalidInputError, match=r"\['n9'\] are not among the 3"):
        class_indices(["n1", "n9"], ["n1", "n2", "n3"])


def test_a_network_as_bad_as_alexnet_has_mce_one():
    errors = {name: [value] * 5 for name, value in ALEXNET_ERRORS.items()}
    computed = corruption_errors(errors)
    assert computed["mce"] == pytest.approx(1)
    assert computed["mean_error"] == pytest.approx(np.mean(list(ALEXNET_ERRORS.values())))
    assert len(ALEXNET_ERRORS) == 15


def test_mce_is_the_mean_of_ratios_and_not_the_ratio_of_means():
    computed = corruption_errors({"a": [0.1, 0.3], "b": [0.5, 0.5]}, {"a": 0.4, "b": 0.5})
    assert computed["ce"] == {"a": pytest.approx(0.5), "b": pytest.approx(1)}
    assert computed["mce"] == pytest.approx(0.75)
    assert computed["mean_error"] == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: topk_accuracy(x, np.array([0, 1]), 4), r"k must be in 1\.\.3, got 4"),
        (lambda x: topk_accuracy(x, np.array([0, 3])), r"labels must be in 0\.\.2, got \[3\]"),
        (lambda x: topk_accuracy(x, np.array([0])), r"\(2, 3\) and \(1,\)"),
        (lambda x: topk_accuracy(x[:0], np.array([], int)), r"\(0, 3\)"),
        (lambda x: subset_accuracy(x, np.array([0, 1]), [0, 5]), r"different numbers in 0\.\.2"),
        (lambda x: subset_accuracy(x, np.array([0, 1]), [0, 0]), r"different numbers in 0\.\.2"),
        (lambda x: subset_accuracy(x, np.array([0, 1]), [0, 2]), r"among class_indices, got \[1\]"),
        (lambda x: corruption_errors({"fog": [50.0]}), r"errors of fog must be shares in 0\.\.1"),
        (lambda x: corruption_errors({"rain": [0.5]}), r"no reference error of \['rain'\]"),
        (lambda x: corruption_errors({}), "no corruptions"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call(np.zeros((2, 3)))
