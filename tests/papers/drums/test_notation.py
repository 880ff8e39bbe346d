"""Drumroll text: round trips, malformed lines, prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lab.errors import CorruptFileError, InvalidInputError
from lab.papers.drums.notation import (
    check_prompt,
    drumroll_of,
    hits_of,
    lines_of,
    parse_drumroll,
    piano_roll_text,
    prompt_of,
    text_of,
)

GRIDS = st.integers(0, 70).flatmap(lambda n: arrays(bool, (n, 6)))


@given(GRIDS)
def test_reading_what_was_written_gives_the_hits(hits):
    back, malformed = parse_drumroll(text_of(hits))
    assert np.array_equal(back, hits)
    assert malformed == []


@given(GRIDS)
def test_windows_line_ends_are_read_the_same(hits):
    back, _ = parse_drumroll(text_of(hits).replace("\n", "\r\n"))
    assert np.array_equal(back, hits)


def test_malformed_lines_are_raised_dropped_or_repaired():
    text = "o-----\n--o\n-x-o--\n------oo\nSEP\n\nEND\n"
    with pytest.raises(CorruptFileError, match=r"3 malformed lines.*line 2 '--o'"):
        parse_drumroll(text)
    dropped, reported = parse_drumroll(text, "drop")
    assert text_of(dropped) == "o-----\n"
    assert [(line.number, line.text) for line in reported] == [
        (2, "--o"),
        (3, "-x-o--"),
        (4, "------oo"),
    ]
    repaired, _ = parse_drumroll(text, "repair")
    assert text_of(repaired) == "o-----\n--o---\n---o--\n------\n"
    with pytest.raises(InvalidInputError, match="on_error is 'ignore'"):
        parse_drumroll(text, "ignore")


@given(st.text())
def test_any_text_can_be_repaired(text):
    hits, _ = parse_drumroll(text, "repair")
    assert hits.shape[1] == 6


def test_a_generated_text_is_cut_at_its_first_end():
    assert drumroll_of("o-----\nSEP\n------\nEND\nENDo-") == "o-----\n------\n"
    assert drumroll_of("o-----\n--") == "o-----\n--"
    assert drumroll_of("") == ""


def test_a_prompt_is_two_measures_that_sound():
    hits = np.zeros((40, 6), bool)
    hits[[0, 20], 3] = True
    prompt = prompt_of(hits)
    assert prompt.count("SEP\n") == 2
    assert prompt.endswith("SEP\n")
    assert np.array_equal(hits_of([line for line in lines_of(prompt) if line != "SEP"]), hits[:32])
    hits[20] = False
    with pytest.raises(InvalidInputError, match=r"measure \[2\] is"):
        prompt_of(hits)
    with pytest.raises(InvalidInputError, match="got 20 steps"):
        prompt_of(hits[:20])


def test_prompt_texts_are_checked():
    good = "o-----\n" * 16
    assert check_prompt(good.replace("\n", "\r\n")) == good + "SEP\n"
    with pytest.raises(InvalidInputError, match="got 17 lines"):
        check_prompt(good + "o-----\n")
    with pytest.raises(InvalidInputError, match="'o----x' is no line"):
        check_prompt(good.replace("o-----", "o----x"))
    with pytest.raises(InvalidInputError, match="got 0 lines"):
        check_prompt("")


def test_hits_of_another_shape_are_refused():
    with pytest.raises(InvalidInputError, match=r"shape \(4, 5\)"):
        text_of(np.zeros((4, 5)))


def test_piano_roll_has_a_row_a_drum():
    hits = np.zeros((32, 6), bool)
    hits[::4, 4] = True
    rows = piano_roll_text(hits).split("\n")
    assert len(rows) == 6
    assert rows[4] == "hi-hat |" + "o---" * 4 + "|" + "o---" * 4 + "|"
