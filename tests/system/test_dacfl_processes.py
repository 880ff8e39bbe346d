"""The command line on several processes: one of them is killed, the others say so, all resume."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from experiments import hosts

OVERRIDES = {
    "num-users": "4",
    "repeats": "1",
    "num-rounds": "40",
    "log-every": "2",
    "checkpoint-every": "4",
    "networks": "sparse",
    "partitions": "shards",
    "algorithms": "dacfl",
    "num-train": "400",
}
FIRST_CELL = "dacfl/quick-default/checkpoints/generated_digits-shards-sparse"


def start(runs, num_processes=1, *extra):
    """The processes of one run, started; their stderr can be read."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    started = []
    for i in range(num_processes):
        joining = f"--coordinator {coordinator} --num-processes {num_processes} --process-id {i}"
        command = [sys.executable, "-m", "experiments.dacfl", "quick", f"--runs-dir={runs}"]
        command += [f"--{name}={value}" for name, value in OVERRIDES.items()]
        command += ["--extras.link-losses"]  # none
        command += [*extra, *(joining.split() if num_processes > 1 else [])]
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(processes, seconds=500):
    """Waits for all; returns their exit codes and what they wrote to stderr."""
    texts = [process.communicate(timeout=seconds)[1] for process in processes]
    return [process.returncode for process in processes], texts


def claims(runs):
    result = json.loads((runs / "dacfl/quick-default/result.json").read_text())
    return {claim["id"]: claim["measured"] for claim in result["claims"]}


def wait_for(path, processes, seconds=300):
    end = time.monotonic() + seconds
    while not path.exists():
        assert all(process.poll() is None for process in processes), "a process ended too early"
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    runs = tmp_path_factory.mktemp("alone")
    codes, texts = finish(start(runs))
    assert codes == [0], texts
    return claims(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "victim"), [(2, 1), (4, 2)])
def test_the_others_stop_with_a_line_and_the_run_resumes(tmp_path, alone, num_processes, victim):
    processes = start(tmp_path, num_processes)
    wait_for(tmp_path / FIRST_CELL / "4", processes)
    processes[victim].kill()
    codes, texts = finish(processes)
    for i in set(range(num_processes)) - {victim}:
        assert codes[i] == 3, texts[i]
        lines = [line for line in texts[i].splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert f"process {i} of {num_processes}: another process of this run has gone" in lines[0]
        assert "--resume" in lines[0]
        assert "Traceback" not in texts[i]
    kept = {int(path.name) for path in (tmp_path / FIRST_CELL).iterdir() if path.name.isdecimal()}
    assert kept
    codes, texts = finish(start(tmp_path, num_processes, "--resume"))
    assert codes == [0] * num_processes, texts
    for name, measured in claims(tmp_path).items():
        if measured is not None and name != "C6":  # C6 measures rounding itself
            assert measured["mean"] == pytest.approx(alone[name]["mean"], rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "localhost:1"], "--num-processes, --process-id is missing"),
        (["--process-id", "0"], "--coordinator, --num-processes is missing"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "two", "--process-id", "0"],
            "must be whole numbers, got two and 0",
        ),
        (
            ["--coordinator=localhost", "--num-processes=2", "--process-id=0"],
            "--coordinator must be host:port, got 'localhost'",
        ),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "process_id must lie in 0..1, got 2",
        ),
    ],
)
def test_bad_ways_to_join_are_one_line(arguments, message, capsys, monkeypatch):
    left = []
    monkeypatch.setattr(hosts.os, "_exit", left.append)
    hosts.paper_main("dacfl", ["quick", *arguments])
    assert left == [2]
    assert message in capsys.readouterr().err
