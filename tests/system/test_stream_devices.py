"""Streaming training on one device, eight devices and two hosts."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = [sys.executable, "-m", "tests.train.stream_program"]


def start(folder, *arguments, num_devices=1):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*PROGRAM, str(folder), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """name -> what a process computed: on one device, on every one, crossing over, on a host."""
    folder = tmp_path_factory.mktemp("streams")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    hosts = [start(folder, "--host", str(i), "--port", port) for i in range(2)]
    for process in hosts:
        finish(process)
    finish(start(folder, "--across", num_devices=8))
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize("name", ["every", "host0", "host1", "from-one", "from-every"])
def test_training_is_that_of_one_device(results, name):
    one = results["one"]
    assert len(one) > 5
    for key, value in one.items():
        np.testing.assert_allclose(results[name][key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def test_the_hosts_agree_to_the_bit(results):
    for key, value in results["host0"].items():
        np.testing.assert_array_equal(results["host1"][key], value, err_msg=key)
