import pytest


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """A machine without any data: every folder that is searched is empty. Gives the home folder."""
    for name in ("LAB_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LAB_CACHE_DIR", str(home / "cache"))
    return home
