"""Users on 1 device, over 8 devices, and over 2 processes: the same models."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest


def environment(num_devices):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(arguments, num_devices):
    command = [sys.executable, "-m", "tests.system.dacfl_program", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(num_devices))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Arrays by (processes, devices a process)."""
    folder = tmp_path_factory.mktemp("devices")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    found = {}
    for processes, devices in ((1, 1), (1, 8), (2, 2)):
        out = folder / f"{processes}-{devices}.npz"
        joining = [[coordinator, processes, i] if processes > 1 else [] for i in range(processes)]
        started = [start([out, *arguments], devices) for arguments in joining]
        assert [process.wait(timeout=400) for process in started] == [0] * processes
        found[processes, devices] = dict(np.load(out))
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"devices", "processes"}:
        atol = 2e-5 if "gap" in name else 3e-6
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.slow
def test_eight_devices_give_the_models_of_one(results):
    one, eight = results[1, 1], results[1, 8]
    assert (int(one["devices"]), int(eight["devices"])) == (1, 8)
    assert_same(one, eight)


@pytest.mark.slow
def test_two_processes_give_the_models_of_one(results):
    two = results[2, 2]
    assert (int(two["devices"]), int(two["processes"])) == (4, 2)
    assert_same(results[1, 1], two)
