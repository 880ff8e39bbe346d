"""Cuts the golden subset that ships with the repository: `python -m tests.golden.select <folder>`.

For each paper, within the size limit: the smallest file of every kind, then the files that cover
most of the options of its kinds (a yes/no, a name or a null in the configuration) per byte. The
manifest is cut to the entries of those files; the README lists what did not fit.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden.entries import PAPERS_DIR, SHIPPED_DIR, matches, read_manifest

MAX_BYTES = 1_000_000
Option = tuple[str, str, str, str]

README = """# Golden files of {slug}

Inputs, parameters and outputs of the paper's official implementation, made by running it once
(NumPy arrays and JSON, no code). `manifest.json` says per entry what to call and how closely the
result must agree; `tests/golden/test_golden.py` does that.

This is a subset, cut by `python -m tests.golden.select`: {num_entries} of {all_entries} entries,
{num_files} of {all_files} files. Point `LAB_GOLDEN_DIR` at a folder of the same layout to test
more.
{gaps}"""


def options(entry: dict[str, Any]) -> set[Option]:
    """The options that an entry exercises: (kind, mode, name in the configuration, value)."""
    found = set(_categorical(entry["config"]))
    return {(entry["kind"], entry.get("mode", "-"), name, value) for name, value in found}


def _categorical(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _categorical(child, f"{name}/{key}")
    elif node is None or isinstance(node, bool | str):
        yield name, repr(node)


def used_files(entry: dict[str, Any], folder: Path) -> set[str]:
    """Every file of the folder that an entry needs."""
    named = {entry["file"], entry.get("base_file"), *entry.get("other_files", {}).values()}
    named |= {value.strip("'\"") for _, value in _categorical(entry["config"])}
    return {name for name in named if name and (folder / name).is_file()}


def choose(
    entries: list[dict], sizes: dict[str, int], needs: list[set[str]], limit: int
) -> set[str]:
    """Files to ship: the smallest of every kind, then the cheapest per option still uncovered.

    Args: entries, their `needs` (file names) in the same order, the `sizes` in bytes of the files,
      and the `limit` on the sum of sizes. Kinds whose files do not fit are left out, largest first.
    """

    def cost(files: set[str]) -> int:
        return sum(sizes[file] for file in files)

    chosen: set[str] = set()
    smallest: dict[str, set[str]] = {}
    for entry, files in zip(entries, needs, strict=True):
        best = smallest.setdefault(entry["kind"], files)
        smallest[entry["kind"]] = min(best, files, key=lambda names: (cost(names), sorted(names)))
    for files in sorted(smallest.values(), key=lambda names: (cost(names), sorted(names))):
        if cost(chosen | files) <= limit:
            chosen |= files
    while True:
        done = covered(entries, needs, chosen)
        candidates = []
        for files in {frozenset(files) for files in needs}:
            extra = cost(set(files) - chosen)
            gain = len(covered(entries, needs, chosen | files) - done)
            if gain and cost(chosen) + extra <= limit:
                candidates.append((extra / gain, sorted(files)))
        if not candidates:
            return chosen
        chosen |= set(min(candidates)[1])


def covered(entries: list[dict], needs: list[set[str]], chosen: set[str]) -> set[Option]:
    """The options of the entries that can be run from the chosen files."""
    runnable = (e for e, files in zip(entries, needs, strict=True) if files <= chosen)
    return set().union(*(options(entry) for entry in runnable))


def cut_paper(source: Path, target: Path, exclude: list[str], limit: int = MAX_BYTES) -> str:
    """Writes the subset of one paper's folder; returns a line that says what was written.

    `exclude` are patterns of files that must not be shipped (no licence to pass them on). The
    target is replaced as a whole, or not at all.
    """
    manifest = read_manifest(source)
    support = [
        item for item in manifest.get("support_files", []) if not matches(item["file"], exclude)
    ]
    entries = [e for e in manifest["entries"] if not _any_excluded(used_files(e, source), exclude)]
    needs = [used_files(entry, source) for entry in entries]
    names = set().union(*needs, (item["file"] for item in support))
    sizes = {name: (source / name).stat().st_size for name in names}
    fixed = sum(sizes[item["file"]] for item in support)
    fixed += (source / "manifest.json").stat().st_size + 4096
    chosen = choose(entries, sizes, needs, limit - fixed)
    kept = [e for e, files in zip(entries, needs, strict=True) if files <= chosen]

    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in chosen | {item["file"] for item in support}:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, part / name)
    cut = {**manifest, "entries": kept}
    if "support_files" in manifest:
        cut["support_files"] = support
    (part / "manifest.json").write_text(json.dumps(cut, indent=1) + "\n", encoding="utf-8")
    text = README.format(
        slug=target.name,
        num_entries=len(kept),
        all_entries=len(manifest["entries"]),
        num_files=len(chosen),
        all_files=len(set().union(*(used_files(e, source) for e in manifest["entries"]))),
        gaps=_gaps_text(manifest["entries"], kept),
    )
    (part / "README.md").write_text(text, encoding="utf-8")
    _replace(part, target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return f"{target.name}: {len(kept)} entries, {len(chosen)} files, {size / 1000:.0f} kB"


def _any_excluded(files: set[str], exclude: list[str]) -> bool:
    return any(matches(file, exclude) for file in files)


def _gaps_text(entries: list[dict], kept: list[dict]) -> str:
    kinds = sorted({e["kind"] for e in entries} - {e["kind"] for e in kept})
    gaps = set().union(*map(options, entries)) - set().union(*map(options, kept))
    gaps = sorted(gap for gap in gaps if gap[0] not in kinds)
    if not kinds and not gaps:
        return "Every option of every kind in the whole set occurs here.\n"
    lines = [f"- every entry of kind {kind}" for kind in kinds]
    lines += [f"- {kind} ({mode}): {name[1:]} = {value}" for kind, mode, name, value in gaps]
    return "Of the whole set, this does not occur here:\n\n" + "\n".join(lines) + "\n"


def _replace(part: Path, target: Path) -> None:
    """Puts `part` where `target` is; a crash leaves the old or the new folder, never a mixture."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="golden folder: <folder>/<paper>/manifest.json")
    parser.add_argument("--paper", action="append", help="only these (default: every built paper)")
    parser.add_argument("--exclude", action="append", default=[], help="files not to be shipped")
    parser.add_argument("--target", type=Path, default=SHIPPED_DIR)
    args = parser.parse_args(arguments)
    sources = [path.parent for path in sorted(args.folder.glob("*/manifest.json"))]
    if not sources:
        sys.exit(f"{args.folder} holds no <paper>/manifest.json")
    for source in sources:
        wanted = args.paper or [source.name] * any((PAPERS_DIR / source.name).glob("*.py"))
        if source.name in wanted:
            print(cut_paper(source, args.target / source.name, args.exclude))


if __name__ == "__main__":
    main()
