"""The report page: whole, self-contained, safe against what results say, and accessible."""

import base64
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import lab.report.page
from lab.report import Claim, Figure, Table
from lab.report.page import Finished, render
from tests.report.example import example_result

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "link", "img", "br"}
ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(1)>&'


class Page(HTMLParser):
    """Elements in order, checked to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open, self.texts = [], [], []
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "f1.png").write_bytes(PNG)
    return tmp_path


@pytest.fixture
def page(folder):
    return Page(render([Finished(example_result(), folder)]))


def test_page_asks_nothing_of_the_network(folder):
    text = render([Finished(example_result(), folder)])
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:", "#")), address
    assert not re.search(r"@import|url\(|https?://", text)


def test_pictures_are_inside_byte_for_byte(page):
    pictures = [image["src"] for image in page.all("img") if image["src"] != "data:,"]
    assert len(pictures) == 2  # on the card and among the figures
    for source in pictures:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG


def test_claims_stand_beside_the_papers_values(page):
    text = " ".join(page.texts)
    for part in ("C1", "faster", "2x", "3.50", "± 0.71x (n=2)", "holds", "not tested", "warm"):
        assert part in text
    assert "2 claims: 1 holds, 1 not tested" in text
    for part in ("train.steps", "2 CPU cores", "abc1234", "12 s", "2026-01-02 03:04"):
        assert part in text


def test_page_is_accessible(page):
    tags = {name for name, _ in page.elements}
    assert {"header", "main", "footer", "nav", "dialog"} <= tags
    assert dict(page.elements[0][1])["lang"] == "en"
    assert all(image.get("alt") is not None for image in page.all("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {link["href"][1:] for link in page.all("a")}
    assert targets <= set(ids)
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_verdicts_differ_in_more_than_colour(page):
    text = "".join(page.texts)
    assert "✓ 1 holds" in text
    assert "○ not tested at this scale" in text


def test_nothing_in_a_result_becomes_markup(folder):
    attacked = example_result(
        title=ATTACK,
        summary=ATTACK,
        notes=[ATTACK],
        paper=ATTACK,
        preset=ATTACK,
        name=ATTACK,
        machine=ATTACK,
        commit=ATTACK,
        date=ATTACK,
        config={ATTACK: {ATTACK: ATTACK}},
        claims=[Claim(ATTACK, ATTACK, ATTACK, 1.0, note=ATTACK)],
        tables=[Table(ATTACK, [ATTACK], [[ATTACK]], ATTACK)],
        figures=[Figure("figures/f1.png", ATTACK, ATTACK), Figure(ATTACK, ATTACK, ATTACK)],
    )
    page = Page(render([Finished(attacked, folder)], problems=[ATTACK]))
    assert len(page.all("script")) == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag
    assert all(image["src"].startswith("data:") for image in page.all("img"))


def test_only_files_of_the_run_are_taken_in(folder):
    secret = folder.parent / "secret.png"
    secret.write_bytes(b"secret")
    (folder / "figures" / "link.png").symlink_to(secret)
    for path in ("../secret.png", str(secret), "figures/link.png"):
        result = example_result(figures=[Figure(path, "caption", "alt")])
        text = render([Finished(result, folder)])
        assert base64.b64encode(b"secret").decode() not in text
        assert "picture not at hand" in text


def test_fullest_preset_fills_the_card_and_the_newest_of_equals_comes_first(folder):
    runs = [
        Finished(example_result(preset="quick", date="2026-03-01T00:00:00+00:00"), folder),
        Finished(example_result(preset="bench", date="2026-01-01T00:00:00+00:00"), None),
        Finished(
            example_result(preset="bench", name="newer", date="2026-02-01T00:00:00+00:00"), None
        ),
    ]
    text = "".join(Page(render(runs)).texts)
    assert "bench preset" in text
    places = [
        text.index(part) for part in ("Preset bench “newer”", "Preset bench,", "Preset quick")
    ]
    assert places == sorted(places)


def test_card_shows_a_picture_of_another_preset_where_its_own_has_none(folder):
    kept = Finished(example_result(preset="bench"), None)
    quick = Finished(example_result(preset="quick"), folder)
    text = render([kept, quick])
    card = text[text.index('<li class="card">') : text.index("</li>")]
    assert "bench preset" in card
    assert base64.b64encode(PNG).decode() in card


def test_sections_are_jumped_to_part_by_part(page):
    places = [link["href"] for link in page.all("a") if "-" in link["href"]]
    assert places == [
        f"#graph_unlearning-{part}" for part in ("claims", "figures", "tables", "notes")
    ]


def test_what_belongs_to_several_papers_comes_last_and_is_no_paper(folder):
    together = example_result(paper="compositions", title="Two in one", claims=())
    text = render([Finished(example_result(), folder)], (), [Finished(together, None)])
    page = Page(text)
    assert "1 paper, 2 claims" in "".join(page.texts)
    assert text.index('id="graph_unlearning"') < text.index('id="compositions"')
    assert text.count("Two in one") == 2  # on the card and as a heading
    assert "#compositions" in [link["href"] for link in page.all("a")]


def test_empty_page_says_what_to_do():
    page = Page(render([]))
    assert "python -m experiments" in "".join(page.texts)
    assert "0 papers, 0 claims" in "".join(page.texts)


def _luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first, second):
    """Contrast ratio of two colours (WCAG 2.2)."""
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme):
    style = (Path(lab.report.page.__file__).parent / "page.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colors = {name: pair[scheme] for name, *pair in found}
    pairs = [(ink, back) for ink in ("ink", "soft", "accent") for back in ("page", "panel")]
    pairs += [(name, f"{name}-back") for name in ("holds", "fails", "reported", "untested")]
    for ink, back in pairs:
        assert _contrast(colors[ink], colors[back]) >= 4.5, (ink, back)
