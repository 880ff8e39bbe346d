"""Fixtures that every test folder uses."""

import pytest

from lab.data import catalogue
from lab.errors import DatasetNotFoundError


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
