"""A paper invented for the tests, put beside the real ones by `launch` or a fixture."""

from pathlib import Path

HERE = Path(__file__).parent
