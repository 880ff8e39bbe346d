"""The ten lines of the paper's README run as they stand."""

import re
from pathlib import Path

from lab.papers import drums

README = Path(drums.__file__).parent / "README.md"


def test_the_ten_lines_make_four_bars_of_midi_and_sound():
    (example,) = re.findall(r"## In ten lines\n\n```python\n(.*?)```", README.read_text(), re.S)
    names: dict = {}
    exec(example, names)
    performance = drums.read_midi(names["midi"])
    assert performance.num_ticks == 4 * 4 * 480
    assert abs(performance.bpm - 92) < 0.01
    assert names["sound"][:4] == b"RIFF"
    assert names["groove"].hits.shape == (64, 6)
