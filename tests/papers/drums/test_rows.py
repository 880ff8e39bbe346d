"""Prompts and completions, and their files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import CorruptFileError, InvalidInputError
from lab.papers.drums.notation import drumroll_of
from lab.papers.drums.rows import make_row, read_rows, save_rows, strip_silence

SILENT, HIT = "------\n", "o-----\n"
LINES = st.lists(st.sampled_from([SILENT, HIT, "--o-o-\n"]), min_size=129, max_size=300)


@given(LINES)
def test_prompt_and_completion_make_the_stripped_text_again(lines):
    row = make_row(lines, strip="none")
    assert drumroll_of(row.prompt + row.completion) == "".join(lines)
    assert row.num_completion_lines == len(row.completion.split("\n"))
    assert row.completion.endswith("\nEND")


@given(LINES)
def test_rows_survive_their_file(lines):
    row = make_row(lines, "a_b", strip="none")
    assert read_rows(save_rows([row, row])) == [row, row]


def test_the_official_strip_looks_at_a_quarter_only():
    lines = [SILENT] * 4 + [HIT] * 12 + [HIT] * 160
    assert len(strip_silence(lines)) == 160
    assert len(strip_silence(lines, "measure")) == 176
    assert len(strip_silence(lines, "none")) == 176
    with pytest.raises(InvalidInputError, match="strip is 'all'"):
        strip_silence(lines, "all")


def test_silence_behind_is_trimmed_on_request_only():
    lines = [HIT] * 160 + [SILENT] * 96
    assert make_row(lines).num_completion_lines == 224 + 13 + 1
    assert make_row(lines, trim=True).num_completion_lines == 128 + 7 + 1
    assert make_row([HIT] * 128) is None


def test_files_that_hold_no_rows_name_the_line():
    with pytest.raises(CorruptFileError, match=r"bad\.jsonl, line 2"):
        read_rows(json.dumps({"prompt": "", "completion": ""}) + "\n{]\n", "bad.jsonl")
    with pytest.raises(CorruptFileError, match="line 1"):
        read_rows('{"prompt": "o"}\n')
