"""The shipped subset: small, covering, cut with its manifest, replaced as a whole."""

import json

import numpy as np
import pytest

from tests.golden import select
from tests.golden.entries import SHIPPED_DIR, read_manifest


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "golden" / "paper"
    folder.mkdir(parents=True)
    for name, size in {"big": 30_000, "small": 100, "other": 200, "base": 50}.items():
        np.savez(folder / f"{name}.npz", x=np.zeros(size))

    def entry(file, kind, **config):
        return {"file": file, "kind": kind, "config": config, "tolerance": {"atol": 0, "rtol": 0}}

    entries = [
        entry("big.npz", "net", bias=True),
        entry("small.npz", "net", bias=True),
        entry("other.npz", "net", bias=False) | {"base_file": "base.npz"},
        entry("small.npz", "loss", reduction="mean"),
    ]
    (folder / "manifest.json").write_text(json.dumps({"slug": "paper", "entries": entries}))
    return folder


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_smallest_files_that_cover_kinds_and_options_are_kept(source, tmp_path):
    select.cut_paper(source, tmp_path / "out", exclude=[])
    assert files(tmp_path / "out") == {
        "small.npz",
        "other.npz",
        "base.npz",
        "manifest.json",
        "README.md",
    }
    kept = [entry["file"] for entry in read_manifest(tmp_path / "out")["entries"]]
    assert kept == ["small.npz", "other.npz", "small.npz"]


def test_size_limit_is_kept_and_the_readme_says_what_is_missing(source, tmp_path):
    small = (source / "small.npz").stat().st_size
    manifest = (source / "manifest.json").stat().st_size
    limit = small + manifest + 4096 + 10
    select.cut_paper(source, tmp_path / "out", exclude=[], limit=limit)
    assert files(tmp_path / "out") == {"small.npz", "manifest.json", "README.md"}
    assert "net (-): bias = False" in (tmp_path / "out" / "README.md").read_text()


def test_excluded_files_and_entries_that_need_them_are_left_out(source, tmp_path):
    select.cut_paper(source, tmp_path / "out", exclude=["base*"])
    assert "other.npz" not in files(tmp_path / "out")


def test_failure_leaves_the_old_subset(source, tmp_path, monkeypatch):
    target = tmp_path / "out"
    select.cut_paper(source, target, exclude=[])
    before = files(target)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(select.shutil, "copyfile", fail)
    with pytest.raises(OSError, match="disk full"):
        select.cut_paper(source, target, exclude=["small*"])
    assert files(target) == before


def test_command_writes_built_papers_only(source, tmp_path, capsys):
    select.main([str(source.parent), "--target", str(tmp_path / "shipped")])
    assert not (tmp_path / "shipped").exists()
    arguments = [str(source.parent), "--target", str(tmp_path / "shipped"), "--paper", "paper"]
    select.main(arguments)
    assert "paper: 3 entries" in capsys.readouterr().out


def test_folder_without_manifests_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="holds no"):
        select.main([str(tmp_path)])


@pytest.mark.parametrize("folder", sorted(p.parent for p in SHIPPED_DIR.glob("*/manifest.json")))
def test_shipped_subsets_are_whole_and_within_a_megabyte(folder):
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= select.MAX_BYTES
    for entry in read_manifest(folder)["entries"]:
        assert all((folder / name).is_file() for name in select.used_files(entry, folder))
        assert (folder / entry["file"]).is_file()
