"""Edit distances, stabilities and clusters against slow versions written from their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.drums.clusters import exact_two_means, sklearn_two_means
from lab.papers.drums.copying import copying, identity_shares
from lab.papers.drums.notation import text_of
from lab.papers.drums.statistics import (
    hit_density,
    line_states,
    num_states,
    onset_f1,
    pattern_distance,
    validity,
)
from lab.papers.drums.structure import (
    fill_spikes,
    levenshtein,
    measures_of,
    random_pieces,
    repeated,
    stabilities,
    structure,
)

SHORT = st.text(alphabet="ab\nü", max_size=9)


def slow_levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@given(st.lists(st.tuples(SHORT, SHORT), max_size=6))
def test_distances_of_a_batch_are_those_of_its_pairs(pairs):
    assert levenshtein(pairs).tolist() == [slow_levenshtein(a, b) for a, b in pairs]


@given(SHORT, SHORT, SHORT)
def test_distances_are_a_metric(a, b, c):
    ab, ba, bc, ac = levenshtein([(a, b), (b, a), (b, c), (a, c)])
    assert ab == ba
    assert (ab == 0) == (a == b)
    assert ac <= ab + bc


def slow_two_means(values):
    """Every split of the sorted values, by brute force."""
    values = sorted(values)
    best = None
    for cut in range(1, len(values)):
        low, high = np.array(values[:cut]), np.array(values[cut:])
        error = low.var() * len(low) + high.var() * len(high)
        if best is None or error < best[0] - 1e-9:
            spread = np.abs(low - low.mean()).sum() + np.abs(high - high.mean()).sum()
            best = (error, high.mean() - low.mean(), spread / len(values))
    return best[1:]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=14))
def test_two_means_is_the_best_split(values):
    gap, within = exact_two_means(np.array(values))
    if len(set(values)) == 1:
        assert (gap, within) == (0, 0)
    else:
        assert (gap, within) == pytest.approx(slow_two_means(values))


@given(st.lists(st.integers(0, 50), min_size=3, max_size=14), st.integers(1, 4))
@settings(max_examples=50)
def test_started_k_means_is_never_better_than_the_exact_one(values, starts):
    gap, within = sklearn_two_means(np.array(values), starts)
    assert gap >= 0
    assert within >= 0
    if len(set(values)) == 2:
        assert (gap, within) == pytest.approx(exact_two_means(np.array(values)))


def piece(*measures):
    return [line for measure in measures for line in [measure] * 16]


A, B = "o-----\n", "-o----\n"


def test_stability_is_the_distance_to_the_nearer_neighbour():
    lines = [*piece(A, A, B), *piece(A)[:4]]
    measures = measures_of(lines)
    assert [len(m) for m in measures] == [127, 127, 127, 31]
    (values,) = stabilities([lines])
    slow = [slow_levenshtein(a, b) for a, b in itertools.pairwise(measures)]
    assert values.tolist() == [min(slow[0], slow[1]), min(slow[1], slow[2])]


def test_short_and_missing_pieces():
    metrics = structure([piece(A, A), piece(A, A, A), piece(A, B, A, B, B)])
    assert [len(v) for v in metrics.stabilities] == [0, 1, 3]
    assert metrics.num_without_clusters == 2
    assert np.isnan(structure([piece(A)]).mean)
    for function in (structure, validity):
        with pytest.raises(InvalidInputError, match="at least one piece"):
            function([])
    with pytest.raises(InvalidInputError, match="at least one piece"):
        copying([], [])


def test_repeating_has_no_distance_and_noise_much():
    human = [piece(A, B) * 8]
    assert structure([repeated(lines) for lines in human]).mean == 0
    noise = random_pieces(3)
    assert structure(noise).mean > 30
    assert noise == random_pieces(3)


def test_fills_are_the_spikes():
    assert fill_spikes(np.array([0, 1, 20, 0, 22, 1])).tolist() == [2, 4]
    assert fill_spikes(np.array([3, 3, 3])).tolist() == []


def test_copying_counts_exact_measures_without_silence():
    reference = [piece(A, A, B)]
    found = copying([piece(A, "------\n", B, "--o---\n")], reference)
    assert found.counts.tolist() == [2, 1, 0]
    assert found.new_share == pytest.approx(1 / 3)
    assert found.histogram().tolist() == [2, 1, *[0] * 8]
    assert copying([piece(A, A, B)], reference, generated_only=True).counts.tolist() == [1]


def test_identity_shares_are_averaged_over_pieces():
    first = piece(A, B, B, A)  # third = second, fourth = the prompt's first
    second = piece(A, A, "--o---\n", "---o--\n")
    previous, prompt = identity_shares([first, second, piece(A, B)])
    assert (previous, prompt) == (0.25, 0.5)
    assert np.isnan(identity_shares([piece(A)])).all()


def test_statistics_of_grids():
    hits = np.zeros((32, 6), bool)
    hits[:16, 3], hits[0, 5] = True, True
    assert hit_density([hits]).tolist() == [0, 0, 0, 0.5, 0, 1 / 32]
    assert line_states(hits)[:2].tolist() == [5, 4]
    assert num_states([hits]) == 3
    assert onset_f1(hits, hits) == 1
    assert onset_f1(hits, ~hits) == 0
    assert np.isnan(onset_f1(np.zeros((4, 6), bool), np.zeros((4, 6), bool)))
    assert pattern_distance(hits) == 17
    assert np.isnan(pattern_distance(hits[:16]))
    assert validity([text_of(hits).splitlines(), ["x"]]) == pytest.approx(32 / 33)
    assert np.isnan(validity([["o-----"]], skip_lines=1))
