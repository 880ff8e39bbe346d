"""Measurements and verdicts."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.report import FAILS, HOLDS, NOT_TESTED, REPORTED, Claim, Measurement, format_number
from lab.report.claims import counted

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(numbers, min_size=2, max_size=20))
def test_measurement_is_mean_and_sample_deviation(values):
    measured = Measurement.of(values)
    assert measured.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert measured.std == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)
    assert measured.n == len(values)


def test_measurement_of_array_counts_every_element():
    assert Measurement.of(np.ones((2, 3), np.float32), "s") == Measurement(1.0, 0.0, 6, "s")


def test_single_value_has_no_spread():
    assert Measurement.of(np.float32(2.5), "x") == Measurement(2.5, None, 1, "x")


@pytest.mark.parametrize("values", [[], ["a"], None, [[1], [1, 2]], 1j])
def test_measurement_refuses_what_is_not_numbers(values):
    with pytest.raises(InvalidInputError, match="measurement"):
        Measurement.of(values)


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        (2.0641, "x", "2.064x"),
        (62.5, "%", "62.5%"),
        (1.5, "s", "1.5 s"),
        ([0.82, 0.83, 0.81], "", "0.820 ± 0.010 (n=3)"),
        ([0.81, 0.84], "s", "0.825 ± 0.021 s (n=2)"),
        ([100, 200, 300], "", "200 ± 100 (n=3)"),
        ([1, 1], "", "1 ± 0 (n=2)"),
        ([1e-9, 2e-9], "", "1.5e-09 ± 7.1e-10 (n=2)"),
        (12345.6, "", "12,346"),
    ],
)
def test_measurement_reads_as_people_write(values, unit, text):
    assert str(Measurement.of(values, unit)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (20000, "20,000"),
        (np.int32(7), "7"),
        (0.5, "0.5"),
        (1e-5, "1e-05"),
        (3e8, "3e+08"),
        (math.nan, "nan"),
        (True, "yes"),
        (0.0, "0"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("measured", "holds", "verdict"),
    [
        (3.0, lambda m: m.mean > 2, HOLDS),
        (1.0, lambda m: m.mean > 2, FAILS),
        (1.0, lambda m: np.bool_(m.mean < 2), HOLDS),
        (1.0, None, REPORTED),
        (None, lambda m: m.mean > 2, NOT_TESTED),
        (None, None, NOT_TESTED),
        ([1.0, math.nan], lambda m: True, FAILS),
        (math.inf, lambda m: m.mean > 2, FAILS),
        (math.nan, None, FAILS),
    ],
)
def test_verdict_follows_from_measurement_and_bar(measured, holds, verdict):
    assert Claim("C1", "it is fast", "2x", measured, holds).verdict == verdict


def test_claim_says_that_a_measurement_is_not_finite():
    claim = Claim("C1", "it is fast", "2x", math.nan, lambda m: True, note="warm")
    assert claim.note == "warm; the measured value is not finite"


def test_claim_takes_numbers_for_the_papers_value_and_the_measured_one():
    claim = Claim("C1", "it is fast", 35.94, [1.0, 3.0])
    assert (claim.paper, claim.measured) == ("35.94", Measurement.of([1.0, 3.0]))


def test_counted_agrees_in_number():
    assert [counted(HOLDS, 1), counted(HOLDS, 2)] == ["1 holds", "2 hold"]
    assert [counted(FAILS, 3), counted(NOT_TESTED, 1)] == ["3 fail", "1 not tested"]
