"""Fixtures that every test folder uses, and how tests share processors and compiled programs."""

import os
import shutil
import tempfile

import hypothesis
import pytest

from lab.data import catalogue
from lab.errors import DatasetNotFoundError

_CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    """Tests run on the CPU; what one process compiled serves the others, subprocesses included."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if _CACHE not in os.environ:
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="tenfold-tests-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        config.add_cleanup(lambda folder=os.environ[_CACHE]: shutil.rmtree(folder, True))
    # An example that takes long on a busy machine, or because it compiles, is no failure; a run
    # draws the examples of the run before, so that a change fails for what it changed.
    hypothesis.settings.register_profile("tenfold", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("tenfold")


def pytest_collection_modifyitems(items):
    """With several workers (-n), the tests of a file share one, golden cases those of a paper's."""
    for item in items:
        entry = getattr(getattr(item, "callspec", None), "params", {}).get("entry")
        path = item.nodeid.split("::")[0]
        group = path if entry is None else f"{path}-{entry.slug}-{entry.kind}"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def require_dataset():
    """`require_dataset(name)` gives the path of a data set, or skips and says how to get it.

    Tests that use it carry the marker `real_data`.
    """

    def locate(name: str):
        try:
            return catalogue.locate(name)
        except DatasetNotFoundError as error:
            pytest.skip(str(error))

    return locate
