"""Results as Markdown for READMEs."""

import pytest

from lab.errors import InvalidInputError
from lab.report import Claim, Table
from lab.report.markdown import (
    BEGIN,
    END,
    claims_table_markdown,
    replace_block,
    results_markdown,
    table_markdown,
)
from tests.report.example import example_result


def test_claims_stand_beside_the_papers_values():
    lines = claims_table_markdown(example_result()).splitlines()
    assert lines == [
        "|  | claim | paper | measured here | verdict |",
        "| --- | --- | --- | --- | --- |",
        "| C1 | faster (warm) | 2x | 3.50 ± 0.71x (n=2) | **holds** |",
        "| C2 | grows | 35x | – | **not tested at this scale** |",
    ]


def test_cells_cannot_break_the_table():
    result = example_result(claims=[Claim("C1", "P(a|b)\nis high", "1", 1.0)])
    assert claims_table_markdown(result).splitlines()[2].startswith("| C1 | P(a\\|b) is high |")


def test_table_with_its_note():
    text = table_markdown(Table("F1", ["method", "F1"], [["mean", 0.5], ["none", None]], "warm"))
    assert text == "| method | F1 |\n| --- | --- |\n| mean | 0.5 |\n| none | – |\n\nwarm"


def test_results_say_where_they_were_measured():
    text = results_markdown(example_result())
    for part in ("Preset `quick`", "2 CPU cores", "abc1234", "2026-01-02", "**F1**"):
        assert part in text


def test_block_is_replaced_again_and_again():
    text = f"# Paper\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
    once = replace_block(text, "new")
    assert once == f"# Paper\n\n{BEGIN}\nnew\n{END}\n\nThe end.\n"
    assert replace_block(once, "new") == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_missing_markers_are_told(text):
    with pytest.raises(InvalidInputError, match="results:begin"):
        replace_block(text, "new")
