"""Streaming training is killed at random moments, resumed, and ends as if undisturbed."""

import random
import signal
import time

import numpy as np
import pytest

from lab.train import Checkpoints
from tests.system.test_stream_devices import finish, start

LENGTH = ["--steps", "240", "--save-every", "4", "--keep", "2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, *LENGTH))
    return dict(np.load(folder / "host0.npz"))


def kill_during_training(folder, moments):
    """Starts the training and kills it soon after it has saved something; returns its step."""
    saved = Checkpoints(folder / "saved")
    before = saved.latest()
    process = start(folder, *LENGTH)
    while saved.latest() == before and process.poll() is None:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the training ended before it could be killed"
    return saved.latest()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed_training_ends_to_the_bit_as_undisturbed(tmp_path, undisturbed, kills):
    moments = random.Random(kills)
    reached = [kill_during_training(tmp_path, moments) for _ in range(kills)]
    assert reached == sorted(set(reached))
    assert reached[-1] < 240
    finish(start(tmp_path, *LENGTH))
    ended = dict(np.load(tmp_path / "host0.npz"))
    assert set(ended) == set(undisturbed)
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(ended[name], value, err_msg=name)
