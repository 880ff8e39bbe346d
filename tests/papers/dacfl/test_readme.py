"""The README's example runs as it stands."""

import re
from pathlib import Path

from lab.papers import dacfl

README = Path(dacfl.__file__).with_name("README.md")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    exec(compile(code, str(README), "exec"), {})
    assert "fedavg" in capsys.readouterr().out
    assert (tmp_path / "models.npz").exists()
