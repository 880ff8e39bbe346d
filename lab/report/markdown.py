"""Results as Markdown, for a README whose tables are regenerated between markers."""

from lab.errors import InvalidInputError
from lab.report.result import Result, Table, format_cell

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def results_markdown(result: Result) -> str:
    """The claims, every table, and where they were measured."""
    parts = [claims_table_markdown(result)]
    parts += [f"**{_cell(table.title)}**\n\n{table_markdown(table)}" for table in result.tables]
    return "\n\n".join([*parts, _origin(result)])


def claims_table_markdown(result: Result) -> str:
    """The claims beside the paper's values, one a row."""
    columns = ("", "claim", "paper", "measured here", "verdict")
    rows = []
    for claim in result.claims:
        statement = f"{claim.statement} ({claim.note})" if claim.note else claim.statement
        measured = format_cell(claim.measured)
        rows.append((claim.id, statement, claim.paper, measured, f"**{claim.verdict}**"))
    return _pipes(columns, rows)


def table_markdown(table: Table) -> str:
    """A table, its note underneath."""
    rows = [tuple(format_cell(cell) for cell in row) for row in table.rows]
    text = _pipes(table.columns, rows)
    return f"{text}\n\n{table.note}" if table.note else text


def replace_block(text: str, block: str) -> str:
    """Puts `block` between the results markers of a README's text.

    Raises: InvalidInputError unless both markers are there once, in order.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or begin > end:
        raise InvalidInputError(
            f"the text needs {BEGIN} and, behind it, {END}, each once, to say where results go"
        )
    return f"{text[: begin + len(BEGIN)]}\n{block.strip()}\n{text[end:]}"


def _origin(result: Result) -> str:
    return (
        f"Preset `{result.preset}`, mean ± sample standard deviation over n repeats, "
        f"{result.seconds:.0f} s on {result.machine}; commit {result.commit}, {result.date[:10]}."
    )


def _pipes(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
