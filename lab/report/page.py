"""The report: one self-contained HTML page of all results, for any screen, paper and reader."""

import base64
import dataclasses
import datetime
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.report.claims import FAILS, HOLDS, NOT_TESTED, REPORTED, Claim, Measurement, counted
from lab.report.plain import dotted
from lab.report.result import Cell, Figure, Result, Table, format_cell

# Verdict to its class in page.css and a sign: colour is never the only difference.
_BADGES = {
    HOLDS: ("holds", "✓"),
    FAILS: ("fails", "✗"),
    REPORTED: ("reported", "•"),
    NOT_TESTED: ("untested", "○"),
}
_PRESET_ORDER = ("paper", "bench", "quick")
_BACK = '<p class="soft back"><a href="#overview">Back to the overview</a></p>\n'
_TOGETHER = "One paper&#x27;s functions on another&#x27;s models and data, with no adapter."


@dataclasses.dataclass(frozen=True)
class Finished:
    """A result and the run folder that holds its pictures (None: no pictures at hand)."""

    result: Result
    folder: Path | None


def render(
    runs: Iterable[Finished],
    problems: Sequence[str] = (),
    compositions: Sequence[Finished] = (),
) -> str:
    """The whole page.

    Args:
      runs: results in any order; a paper's fullest preset comes first and fills its card.
      problems: sentences about results that could not be read, shown at the top.
      compositions: results that belong to several papers, which come last.
    """
    papers: dict[str, list[Finished]] = {}
    for finished in runs:
        papers.setdefault(finished.result.paper, []).append(finished)
    ordered = [sorted(papers[name], key=_rank) for name in sorted(papers)]
    here = Path(__file__).parent
    style = (here / "page.css").read_text(encoding="utf-8")
    script = (here / "page.js").read_text(encoding="utf-8")
    cards = "".join(map(_card, ordered)) + _compositions_card(compositions)
    sections = "".join(map(_section, ordered)) + _compositions(compositions)
    empty = (
        ""
        if ordered or compositions
        else "<p>No run has finished yet: <code>python -m experiments</code></p>"
    )
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tenfold: results</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#overview">Skip to the overview</a>
<header>
<div><h1>Tenfold</h1><p class="soft">{_overall(ordered)}</p></div>
<button id="theme" type="button" hidden>Dark colours</button>
</header>
<main>
{_problems(problems)}{empty}<nav id="overview" aria-label="Papers"><ul class="cards">
{cards}</ul></nav>
{sections}</main>
<footer class="soft"><p>Built {now}. Every verdict is computed from the measured value; a value is
the mean ± sample standard deviation over n repeats.</p></footer>
<dialog id="large" aria-label="Figure, large">
<form method="dialog"><button type="button" data-step="-1">Previous</button>
<button type="button" data-step="1">Next</button><button autofocus>Close</button></form>
<img src="data:," alt=""><p class="soft" aria-live="polite"></p>
</dialog>
<script>
{script}</script>
</body>
</html>
"""


def _rank(finished: Finished) -> tuple[int, int]:
    preset, date = finished.result.preset, finished.result.date
    place = _PRESET_ORDER.index(preset) if preset in _PRESET_ORDER else len(_PRESET_ORDER)
    return place, -int(re.sub(r"\D", "", date.split("+")[0]) or 0)


def _overall(papers: list[list[Finished]]) -> str:
    firsts = [paper[0].result for paper in papers]
    totals = {verdict: sum(result.counts()[verdict] for result in firsts) for verdict in _BADGES}
    num_claims = sum(totals.values())
    parts = [counted(verdict, count) for verdict, count in totals.items() if count]
    papers_text = f"{len(papers)} paper{'s' if len(papers) != 1 else ''}"
    claims_text = f"{num_claims} claim{'s' if num_claims != 1 else ''}"
    return f"{papers_text}, {claims_text}{': ' if parts else ''}{', '.join(parts)}"


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    heading = "<h2>Could not be read</h2>"
    return f'<section class="paper" role="alert">{heading}<ul>{items}</ul></section>\n'


def _card(paper: list[Finished]) -> str:
    result = paper[0].result
    # Kept results have no pictures at hand; another preset's show the same thing.
    pictures = (_image(run, figure) for run in paper for figure in run.result.figures)
    image = next(filter(None, pictures), "")
    counts = "".join(
        _badge(verdict, counted(verdict, count))
        for verdict, count in result.counts().items()
        if count
    )
    return f"""<li class="card">{image}<div class="body">
<h2><a href="#{_text(result.paper)}">{_text(result.title)}</a></h2>
<p>{_text(result.summary)}</p><p class="counts">{counts}</p>
<p class="soft">{_text(result.preset)} preset, {_duration(result.seconds)}</p></div></li>
"""


def _section(paper: list[Finished]) -> str:
    first = paper[0].result
    name = _text(first.paper)
    others = "".join(
        f"<details><summary>{_run_name(finished.result)}</summary>{_run(finished)}</details>"
        for finished in paper[1:]
    )
    return f"""<section class="paper" id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{_text(first.title)}</h2>
<p>{_text(first.summary)}</p>
<p class="soft">{_run_name(first)}; {_duration(first.seconds)} on {_text(first.machine)}</p>
{_jumps(first)}{_run(paper[0], name)}{others}
{_BACK}</section>
"""


def _jumps(result: Result) -> str:
    """Links to the parts of a section."""
    parts = {
        "Claims": result.claims,
        "Figures": result.figures,
        "Tables": result.tables,
        "Notes": result.notes,
    }
    links = [
        f'<a href="#{_place(_text(result.paper), part)}">{part} ({len(items)})</a>'
        for part, items in parts.items()
        if items
    ]
    return f'<p class="jumps">{" ".join(links)}</p>\n' if len(links) > 1 else ""


def _place(section: str, part: str) -> str:
    return f"{section}-{part.lower()}"


def _compositions_card(runs: Sequence[Finished]) -> str:
    if not runs:
        return ""
    titles = "".join(f"<li>{_text(finished.result.title)}</li>" for finished in runs)
    return f"""<li class="card"><div class="body">
<h2><a href="#compositions">Papers put together</a></h2>
<p>{_TOGETHER}</p><ul class="titles">{titles}</ul></div></li>
"""


def _compositions(runs: Sequence[Finished]) -> str:
    if not runs:
        return ""
    parts = "".join(map(_composition, runs))
    return f"""<section class="paper" id="compositions" aria-labelledby="compositions-title">
<h2 id="compositions-title">Papers put together</h2>
<p>{_TOGETHER}</p>
{parts}{_BACK}</section>
"""


def _composition(finished: Finished) -> str:
    result = finished.result
    tables = "".join(map(_table, result.tables))
    return f"""<h3>{_text(result.title)}</h3><p>{_text(result.summary)}</p>
{tables}{_origin(result)}
"""


def _run_name(result: Result) -> str:
    name = "" if result.name == "default" else f" “{_text(result.name)}”"
    return f"Preset {_text(result.preset)}{name}, {_date(result.date)}"


def _run(finished: Finished, section: str = "") -> str:
    """Everything of a run; `section` is where its parts are jumped to, if they are."""
    result = finished.result
    figures = "".join(_figure(finished, figure) for figure in result.figures)
    notes = "".join(f"<li>{_text(note)}</li>" for note in result.notes)
    content = {
        "Claims": _claims(result.claims) if result.claims else "",
        "Figures": figures and f'<div class="figures">{figures}</div>',
        "Tables": "".join(map(_table, result.tables)),
        "Notes": notes and f"<ul>{notes}</ul>",
    }
    parts = []
    for part, inner in content.items():
        place = f' id="{_place(section, part)}"' if section else ""
        parts += [f"<h3{place}>{part}</h3>{inner}"] if inner else []
    return "\n".join([*parts, _origin(result)])


def _claims(claims: Sequence[Claim]) -> str:
    heads = ("", "Claim", "Paper", "Measured here", "Verdict")
    head = "".join(f'<th scope="col">{text or _hidden("Id")}</th>' for text in heads)
    rows = "".join(map(_claim, claims))
    body = f"<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody>"
    return _scrolling("Claims", body, kind="claims")


def _claim(claim: Claim) -> str:
    note = f'<br><span class="soft">{_text(claim.note)}</span>' if claim.note else ""
    return f"""<tr><th scope="row">{_text(claim.id)}</th><td>{_text(claim.statement)}{note}</td>
<td data-name="Paper">{_text(claim.paper)}</td>
<td data-name="Measured here">{_cell(claim.measured)}</td>
<td>{_badge(claim.verdict, claim.verdict)}</td></tr>
"""


def _table(table: Table) -> str:
    is_number = [
        any(not isinstance(row[i], str | None) for row in table.rows)
        for i in range(len(table.columns))
    ]
    kinds = [' class="number"' if flag else "" for flag in is_number]
    head = "".join(
        f'<th scope="col"{kind}>{_text(name)}</th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>\n" for row in table.rows)
    note = f'<p class="soft">{_text(table.note)}</p>' if table.note else ""
    title = _text(table.title)
    whole = f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody>"
    return f"<h4>{title}</h4>{_scrolling(title, whole)}{note}"


def _scrolling(name: str, body: str, kind: str = "plain") -> str:
    """A table that scrolls sideways by itself where it is too wide, by keyboard too."""
    part = f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">'
    return f'{part}<table class="{kind}" aria-label="{name}">{body}</table></div>'


def _cells(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    first, *rest = (f"{kind}>{_cell(cell)}" for cell, kind in zip(row, kinds, strict=True))
    return f'<th scope="row"{first}</th>' + "".join(f"<td{cell}</td>" for cell in rest)


def _cell(cell: Cell) -> str:
    text = _text(format_cell(cell))
    if isinstance(cell, Measurement) and cell.std is not None:
        mean, spread = text.split(" ± ", 1)
        return f'{mean} <span class="spread">± {spread}</span>'
    return text


def _figure(finished: Finished, figure: Figure) -> str:
    image, caption = _image(finished, figure), _text(figure.caption)
    if not image:
        return f"<figure><figcaption>{caption} (picture not at hand)</figcaption></figure>"
    inner = f"{image}{_hidden('Open large')}"
    button = f'<button type="button" aria-haspopup="dialog">{inner}</button>'
    return f"<figure>{button}<figcaption>{caption}</figcaption></figure>\n"


def _image(finished: Finished, figure: Figure) -> str:
    """The picture with its bytes inside; empty unless it is a file within the run folder."""
    if finished.folder is None:
        return ""
    folder = finished.folder.resolve()
    path = (folder / figure.path).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{content}" alt="{_text(figure.alt)}">'


def _origin(result: Result) -> str:
    facts = {
        "Duration": _duration(result.seconds),
        "Machine": _text(result.machine),
        "Commit": f"<code>{_text(result.commit)}</code>",
        "Date": _date(result.date),
    }
    settings = {f"<code>{_text(name)}</code>": _setting(v) for name, v in dotted(result.config)}
    return f"""<details><summary>Machine, duration and configuration</summary>
{_facts(facts)}<h4>Configuration</h4>{_facts(settings)}</details>"""


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _setting(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _badge(verdict: str, text: str) -> str:
    kind, sign = _BADGES[verdict]
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {_text(text)}</span>'


def _hidden(text: str) -> str:
    return f'<span class="hidden">{text}</span>'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _date(date: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(date)
    except ValueError:
        return _text(date)
    return f'<time datetime="{_text(date)}">{moment:%Y-%m-%d %H:%M} UTC</time>'


def _text(value: object) -> str:
    return html.escape(str(value))
