import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import CheckpointError, InvalidInputError
from lab.train import Checkpoints


def state(value=1.0, size=1000):
    return {
        "w": jnp.full(size, value, jnp.float32),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "key": jax.random.key(7),
        "step": jnp.int32(3),
        "nested": ({"flag": jnp.array([True, False])},),
        "empty": jnp.zeros((0, 3), jnp.int32),
    }


def test_what_is_saved_comes_back_keys_and_dtypes_included(tmp_path):
    saved = Checkpoints(tmp_path / "new" / "folder")
    saved.save(3, state(2.5), metrics={"accuracy": 0.5}, position={"epoch": 1})
    back = saved.restore(jax.eval_shape(state))
    assert jax.tree.structure(back) == jax.tree.structure(state())
    np.testing.assert_array_equal(back["w"], np.full(1000, 2.5, np.float32))
    assert back["half"].dtype == jnp.bfloat16
    assert jax.random.normal(back["key"]) == jax.random.normal(jax.random.key(7))
    assert saved.note(3)["position"] == {"epoch": 1}
    assert saved.note(3)["metrics"] == {"accuracy": 0.5}


def test_old_saves_go_and_the_best_stays(tmp_path):
    saved = Checkpoints(tmp_path, keep=2, best=lambda metrics: metrics["accuracy"])
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.5]):
        saved.save(step, state(step, size=4), metrics={"accuracy": accuracy})
    assert saved.steps() == [1, 3, 4]
    assert (saved.best(), saved.latest()) == (1, 4)
    assert float(saved.restore(state(size=4), step=1)["w"][0]) == 1.0


def test_saving_a_step_again_replaces_it(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, state(1.0))
    saved.save(1, state(2.0))
    assert float(saved.restore(state())["w"][0]) == 2.0


def test_nothing_saved_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="it has none"):
        Checkpoints(tmp_path / "absent").restore(state())
    saved = Checkpoints(tmp_path)
    saved.save(5, state())
    with pytest.raises(CheckpointError, match=r"no saved state for step 4 .* it has steps \[5\]"):
        saved.restore(state(), step=4)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (lambda: state() | {"w": jnp.zeros(999)}, r"\['w'\] is float32\[1000\]"),
        (lambda: state() | {"more": jnp.zeros(1)}, "it lacks .*more"),
        (lambda: {"w": jnp.zeros(1000)}, "has .* besides"),
    ],
)
def test_a_state_of_another_shape_or_structure_is_refused_by_name(tmp_path, like, message):
    saved = Checkpoints(tmp_path)
    saved.save(1, state())
    with pytest.raises(CheckpointError, match=message):
        saved.restore(like())


def data_files(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [p for p in files if p.stat().st_size and p.name != "note.json"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_file_is_noticed_and_an_earlier_save_is_named(tmp_path, damage):
    saved = Checkpoints(tmp_path)
    noise = {"w": jax.random.normal(jax.random.key(0), (5000,))}
    saved.save(1, noise)
    saved.save(2, noise)
    largest = max(data_files(tmp_path / "2"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    if damage == "delete":
        largest.unlink()
    elif damage == "truncate":
        largest.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        largest.write_bytes(
            content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        )
    with pytest.raises(CheckpointError, match=r"damaged.*go on from step 1"):
        saved.restore(noise)
    np.testing.assert_array_equal(saved.restore(noise, step=1)["w"], noise["w"])


def test_an_unreadable_note_is_damage(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, state())
    (tmp_path / "1" / "note.json").write_text('{"checksums": ')
    with pytest.raises(CheckpointError, match=r"note\.json cannot be read"):
        saved.restore(state())


def test_a_full_disk_leaves_earlier_saves_whole(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, state(1.0))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        noise = jax.random.normal(jax.random.key(0), (1_000_000,))
        with pytest.raises(CheckpointError, match="earlier saves are untouched"):
            saved.save(2, state() | {"w": noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert saved.steps() == [1]
    assert float(saved.restore(state())["w"][0]) == 1.0


def test_a_read_only_folder_is_a_clear_error(tmp_path):
    # A file in the way stands for a folder that cannot be written: root ignores permissions.
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointError, match="cannot save step 1"):
        Checkpoints(blocked / "folder").save(1, state())


def test_an_unfinished_save_is_not_seen(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, state())
    os.rename(tmp_path / "1", tmp_path / "2.partial")
    assert saved.latest() is None
    saved.save(2, state(4.0))
    assert float(saved.restore(state())["w"][0]) == 4.0


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="keep must be at least 1"):
        Checkpoints(tmp_path, keep=0)
