"""The pages of the site, made of what the repository says already: a hook of mkdocs.

Root pages and the papers' READMEs are taken as they are; of every room there is a page with the
docstrings of its modules. A new room, module or paper needs no line here.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LAB = ROOT / "lab"
TEXTS = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md"}
TEXTS |= {"CONTRIBUTING.md": "contributing.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: root pages, then the papers, then the shared rooms."""
    papers = [
        {path.name: [{"On a page": f"papers/{path.name}.md"}, {"API": f"api/{path.name}.md"}]}
        for path in _papers()
    ]
    rooms = [{f"lab.{path.name}": f"api/lab.{path.name}.md"} for path in _rooms()]
    config.nav = [
        {"Tenfold": "index.md"},
        {"Architecture": "architecture.md"},
        {"Contributing": "contributing.md"},
        {"Papers": papers},
        {"Shared rooms": [{"lab": "api/lab.md"}, *rooms]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made pages."""
    places = TEXTS | {f"lab/papers/{p.name}/README.md": f"papers/{p.name}.md" for p in _papers()}
    pages = {place: _text(source, places) for source, place in places.items()}
    pages |= {f"api/{path.name}.md": _api(path, path.name) for path in _papers()}
    pages |= {f"api/lab.{path.name}.md": _api(path, f"lab.{path.name}") for path in _rooms()}
    single = [f"lab.{path.stem}" for path in sorted(LAB.glob("[a-z]*.py"))]
    pages["api/lab.md"] = _page("lab", "lab", single)
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    return files


def _papers() -> list[Path]:
    return [p for p in sorted((LAB / "papers").iterdir()) if (p / "README.md").exists()]


def _rooms() -> list[Path]:
    packages = (p for p in sorted(LAB.iterdir()) if (p / "__init__.py").exists())
    return [p for p in packages if p.name != "papers"]


def _text(source: str, places: dict[str, str]) -> str:
    """A Markdown file whose links lead to pages; other files of the repository are only named."""

    def link(match: re.Match) -> str:
        label, target = match.groups()
        file = os.path.normpath(os.path.join(os.path.dirname(source), target.split("#")[0]))
        if file not in places:
            return label
        return f"[{label}]({os.path.relpath(places[file], os.path.dirname(places[source]))})"

    text = (ROOT / source).read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", link, text)


def _api(package: Path, title: str) -> str:
    modules = [path.relative_to(ROOT) for path in sorted(package.rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules]
    first, *others = names
    return _page(title, first, others)


def _page(title: str, package: str, modules: list[str]) -> str:
    """What the package says of itself, then its modules with everything that is public in them."""
    alone = "    options: {members: false, show_root_heading: false}"
    blocks = [f"# {title}", f"::: {package}\n{alone}"]
    for module in modules:
        heading = "    options: {heading_level: 2}"
        blocks.append(f"::: {module}\n{heading}")
    return "\n\n".join(blocks) + "\n"
