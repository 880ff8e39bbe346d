"""The entries of golden manifests: where they are, what they compare, and at which tolerance.

Two dialects of manifest are read. With `format` 1, `compare`, `other_keys`, `tolerance_by_key` are
lists and names relative to the entry's `prefix`. Without it, `keys` (inputs, params, outputs ...),
`common` and `tolerance.by_key` hold patterns of full keys, and an entry without `keys` compares
what stands under an `output...`, `grad` or `param_after<k>` component.
"""

import dataclasses
import fnmatch
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.golden.documents import Renamed, group, open_document

SHIPPED_DIR = Path(__file__).parent / "data"
PAPERS_DIR = Path(__file__).parents[2] / "lab" / "papers"
OUTPUT_COMPONENT = re.compile(r"(output.*|grad|param_after\d*)$")


def matches(key: str, patterns) -> bool:
    """Whether a key fits one of the patterns ('*' matches anything, '/' too)."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a manifest: one call of the library whose result the golden file knows.

    Attributes: slug, the paper; folder, where its files are; manifest_entry, the entry as written.
    """

    slug: str
    folder: Path
    manifest_entry: dict[str, Any] = dataclasses.field(hash=False)

    @property
    def kind(self) -> str:
        return self.manifest_entry["kind"]

    @property
    def file(self) -> str:
        return self.manifest_entry["file"]

    @property
    def prefix(self) -> str:
        return self.manifest_entry.get("prefix") or ""

    @property
    def mode(self) -> str:
        return self.manifest_entry.get("mode", "-")

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest_entry["config"]

    @property
    def id(self) -> str:
        """`<slug>-<kind>-<file>-<prefix>`, and the mode where there is one."""
        parts = (self.slug, self.kind, self.file, self.prefix.strip("/"), self.mode)
        return "-".join(part for part in parts if part not in ("", "-"))

    @functools.cached_property
    def document(self) -> Mapping | bytes:
        """The entry's whole file: full key -> value; for `.mid`, `.txt`, `.gguf` ... its bytes."""
        return open_document(self.folder / self.file)

    @functools.cached_property
    def arrays(self) -> Mapping[str, Any]:
        """Key relative to the prefix -> value; loaded when asked for.

        Keys of the file outside the prefix that the entry names (`keys`, `common`) stand here too,
        under their full names.
        """
        document = self._keyed_document()
        names = {rel: key for key in document if (rel := self.relative(key)) is not None}
        outside = [*self.manifest_entry.get("common", ())]
        for patterns in self.manifest_entry.get("keys", {}).values():
            outside += patterns
        names |= {k: k for k in document if self.relative(k) is None and matches(k, outside)}
        return Renamed(document, names)

    def relative(self, key: str) -> str | None:
        """A full key without the prefix; None outside it. `*/name/` cuts the name out instead."""
        if self.prefix.startswith("*/"):
            name = self.prefix[2:].rstrip("/")
            head, _, rest = key.partition("/")
            inside = rest == name or rest.startswith(name + "/")
            return f"{head}{rest[len(name) :]}" if inside else None
        if key.startswith(self.prefix):
            return key[len(self.prefix) :].removeprefix("/")
        return "" if key == self.prefix.rstrip("/") else None

    def other(self, name: str) -> Any:
        """The value (or, for a key ending in '/', the group) that `other_keys` calls `name`."""
        key = self.manifest_entry["other_keys"][name]
        document = self._keyed_document()
        return group(document, key) if key.endswith("/") else document[key]

    def other_file(self, name: str) -> Path | None:
        """The path of the file that `other_files` calls `name` ('base': the `base_file`)."""
        others = {"base": self.manifest_entry.get("base_file")}
        file = (others | self.manifest_entry.get("other_files", {}))[name]
        return None if file is None else self.folder / file

    @property
    def data_files(self) -> list[str]:
        """Files of the data folder that the configuration names, relative to that folder."""
        return sorted(set(_data_files(self.config)))

    def data_path(self, name: str) -> Path:
        """Where a file of the data folder is; `name` as the configuration has it."""
        return Path(os.environ["LAB_DATA_DIR"], name)

    @functools.cached_property
    def expected(self) -> dict[str, Any]:
        """Relative key -> value of everything that this entry compares."""
        if "compare" in self.manifest_entry:
            return self._selected_by_compare()
        document = self._keyed_document()
        hidden = list(self.manifest_entry.get("information", ()))
        if "keys" in self.manifest_entry:
            keys = self.manifest_entry["keys"]
            hidden += keys.get("information", ())
            chosen = [k for k in document if matches(k, keys["outputs"])]
        elif self.file.endswith((".json", ".json.gz")):
            return {"": document[self.prefix.rstrip("/")]}
        else:
            inside = (k for k in document if self.relative(k) is not None)
            chosen = [k for k in inside if any(map(OUTPUT_COMPONENT.match, k.split("/")))]
        named = {k if self.relative(k) is None else self.relative(k): k for k in chosen}
        shown = {rel: key for rel, key in named.items() if not matches(key, hidden)}
        return {rel: document[key] for rel, key in shown.items() if not matches(rel, hidden)}

    def tolerance(self, key: str) -> dict[str, Any]:
        """The tolerance of a relative key: its own rule where one fits (the first), else the
        entry's."""
        general = self.manifest_entry["tolerance"]
        rules = self.manifest_entry.get("tolerance_by_key") or general.get("by_key") or {}
        full_keys = [k for k in self._keyed_document() if self.relative(k) == key]
        for pattern, rule in rules.items():
            if any(fnmatch.fnmatchcase(name, pattern) for name in (key, *full_keys)):
                return rule
        return {name: value for name, value in general.items() if name != "by_key"}

    def _keyed_document(self) -> Mapping:
        """The mapping whose keys the entry speaks of: its file or, beside a file of plain bytes,
        the one that `other_files` calls `expected`."""
        if isinstance(self.document, Mapping):
            return self.document
        expected = self.manifest_entry.get("other_files", {}).get("expected")
        return open_document(self.folder / expected) if expected else {}

    def _selected_by_compare(self) -> dict[str, Any]:
        patterns = self.manifest_entry["compare"]
        hidden = self.manifest_entry.get("information", ())
        selected: dict[str, Any] = {}
        for key in sorted(self.arrays, key=len):
            # Of a JSON tree the topmost node that fits stands for all below it.
            covered = any(key.startswith(f"{top}/") for top in selected if top) or "" in selected
            wanted = key == "" if "" in patterns else key != "" and matches(key, patterns)
            if wanted and not covered and not matches(key, hidden):
                selected[key] = self.arrays[key]
        return selected


def _data_files(node: Any, key: str = "") -> Iterator[str]:
    """Values of the `data` objects (but for `member`, a name inside an archive) and `*_file`s."""
    if isinstance(node, dict):
        for name, child in node.items():
            inside = key == "data" and isinstance(child, str) and "/" in child
            if (inside and name != "member") or (isinstance(child, str) and name.endswith("_file")):
                yield child
            yield from _data_files(child, name)


def golden_dir() -> Path:
    """$LAB_GOLDEN_DIR, or the subset that is part of the repository."""
    return Path(os.environ.get("LAB_GOLDEN_DIR") or SHIPPED_DIR)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of one paper's folder."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def read_entries(root: Path, papers_dir: Path = PAPERS_DIR) -> list[Entry]:
    """Every entry of every manifest below `root` whose paper has a package with code."""
    entries = []
    for path in sorted(root.glob("*/manifest.json")):
        manifest = read_manifest(path.parent)
        slug = manifest.get("slug", path.parent.name)
        if any((papers_dir / slug).glob("*.py")):
            entries += [Entry(slug, path.parent, entry) for entry in manifest["entries"]]
    return entries
