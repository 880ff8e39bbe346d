import os
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from lab.errors import (
    CheckpointError,
    CorruptFileError,
    InvalidInputError,
    MissingExtraError,
    UnsafeFileError,
)
from lab.interop import load_checkpoint, save_safetensors
from tests.interop import archives
from tests.interop.archives import FIXTURES

FOREIGN_DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def expected() -> dict[tuple[str, str, str], np.ndarray]:
    with np.load(FIXTURES / "expected.npz") as arrays:
        return {tuple(key.split("|")): arrays[key] for key in arrays if "|" in key}


EXPECTED = expected()
READ_HERE = [key for key in EXPECTED if key[0] != "legacy.pth"]


@pytest.mark.parametrize("key", READ_HERE, ids="-".join)
def test_array_is_the_one_that_torch_reads(key):
    file, name, dtype = key
    array = load_checkpoint(FIXTURES / file)[name]
    assert array.dtype == np.dtype(FOREIGN_DTYPES.get(dtype, dtype))
    reference = EXPECTED[key]
    np.testing.assert_array_equal(array.astype(reference.dtype), reference)
    assert array.shape == reference.shape


@pytest.mark.parametrize("file", sorted({file for file, _, _ in READ_HERE} - {"containers.pth"}))
def test_names_are_exactly_those_of_the_payload(file):
    assert set(load_checkpoint(FIXTURES / file)) == {n for f, n, _ in EXPECTED if f == file}


def test_training_arguments_are_inert_values():
    extras = load_checkpoint(FIXTURES / "training.pth").extras
    assert extras["epoch"] == 3
    assert extras["args.lr"] == 0.1
    assert (extras["args.betas.0"], extras["args.betas.1"]) == (0.9, 0.95)
    assert extras["args.resume"] is None
    assert extras["optimizer.param_groups.0.momentum"] == 0.9


def test_containers_become_plain_values():
    checkpoint = load_checkpoint(FIXTURES / "containers.pth")
    np.testing.assert_array_equal(checkpoint["array"], np.arange(6).reshape(2, 3))
    assert checkpoint["array"].dtype == np.int32
    assert checkpoint.extras == {
        "nested.pair.1": 4,
        "size.0": 2,
        "size.1": 3,
        "dtype": "torch.float32",
        "device": "cuda:1",
        "scalar": 2.5,
        "counter.3": 2,
        "default.a": 1,
        "set": {1, 2},
        "frozenset": frozenset(["x"]),
        "bytes": b"raw",
        "bytearray": b"more",
        "complex": 1 + 2j,
        "none": None,
        "large": 2**80,
    }


def test_payload_can_be_chosen():
    path = FIXTURES / "training.pth"
    whole = load_checkpoint(path, payload="")
    momentum = load_checkpoint(path, payload="optimizer.state.0")
    np.testing.assert_array_equal(
        momentum["momentum_buffer"], whole["optimizer.state.0.momentum_buffer"]
    )
    assert "model.module.conv.weight" in whole
    assert "module.conv.weight" in load_checkpoint(path, unwrap=False)


def test_unknown_payload_lists_what_there_is():
    with pytest.raises(InvalidInputError, match="'weights' is not among 'model', 'optimizer'"):
        load_checkpoint(FIXTURES / "training.pth", payload="weights")
    with pytest.raises(InvalidInputError, match="'epoch' is a int"):
        load_checkpoint(FIXTURES / "training.pth", payload="epoch")


def test_two_possible_payloads_are_an_error(tmp_path):
    weights = archives.dict_of(w=archives.tensor(archives.storage(1), 0, (1,), (1,)))
    pickled = archives.program(archives.dict_of(model=weights, state_dict=weights))
    path = archives.write_archive(tmp_path / "a.pth", pickled, {"data/0": bytes(4)})
    with pytest.raises(InvalidInputError, match="'model' and 'state_dict'"):
        load_checkpoint(path)
    assert list(load_checkpoint(path, payload="model")) == ["w"]


def test_part_under_a_prefix():
    checkpoint = load_checkpoint(FIXTURES / "training.pth").under("blocks.")
    assert set(checkpoint) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    with pytest.raises(InvalidInputError, match=r"starts with 'backbone\.'"):
        checkpoint.under("backbone.")


def test_shared_storage_is_read_once():
    checkpoint = load_checkpoint(FIXTURES / "layouts.pth")
    assert np.shares_memory(checkpoint["base"], checkpoint["transposed"])
    assert not np.shares_memory(checkpoint["scalar"], checkpoint["scalar"])


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    pickled = archives.program(
        archives.dict_of(
            good=archives.tensor(archives.storage(2), 0, (2,), (1,)),
            bad=archives.tensor(archives.storage(2, record="absent"), 0, (2,), (1,)),
        )
    )
    records = {"data/0": np.array([1, 2], "<f4").tobytes()}
    checkpoint = load_checkpoint(archives.write_archive(tmp_path / "a.pth", pickled, records))
    np.testing.assert_array_equal(checkpoint["good"], [1, 2])
    with pytest.raises(CorruptFileError, match="absent"):
        checkpoint["bad"]


def test_program_archive_is_refused():
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        load_checkpoint(FIXTURES / "torchscript.pt")


def test_old_form_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"tenfold\[torch\]"):
        load_checkpoint(FIXTURES / "legacy.pth")


def test_old_form_is_read_by_torch_where_it_is_installed():
    pytest.importorskip("torch")
    checkpoint = load_checkpoint(FIXTURES / "legacy.pth")
    for (file, name, _), reference in EXPECTED.items():
        if file == "legacy.pth":
            np.testing.assert_array_equal(checkpoint[name], reference)
    assert len(checkpoint) == 2
    assert checkpoint.extras == {"args.lr": 0.1}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"PK\x05\x06" * 9])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"a\.pth"):
        load_checkpoint(path)


def test_absent_file():
    with pytest.raises(FileNotFoundError):
        load_checkpoint(FIXTURES / "absent.pth")


@pytest.mark.parametrize("file", ["layouts.pth", "weights.safetensors"])
def test_every_truncation_is_noticed(tmp_path, file):
    content = (FIXTURES / file).read_bytes()
    path = tmp_path / file
    for length in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError):
            load_checkpoint(path)


def test_compressed_record_is_refused(tmp_path):
    pickled = archives.program(
        archives.dict_of(w=archives.tensor(archives.storage(1 << 22), 0, (1 << 22,), (1,)))
    )
    path = archives.write_archive(
        tmp_path / "bomb.pth", pickled, {"data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(CorruptFileError, match="compressed"):
        load_checkpoint(path)


def test_damaged_record_is_refused(tmp_path):
    content = bytearray((FIXTURES / "bare.pth").read_bytes())
    content[content.index(np.array([1.0, 2.0], "<f4").tobytes())] ^= 1
    path = tmp_path / "bare.pth"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="CRC"):
        load_checkpoint(path)["tensor"]


ARRAYS = {
    "blocks.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.ones(3, ml_dtypes.bfloat16),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 4), np.int8),
    "flags": np.array([True, False]),
    "swapped": np.arange(3, dtype=">i4"),
}


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_safetensors(path, ARRAYS, metadata={"format": "pt"})
    checkpoint = load_checkpoint(path)
    assert checkpoint.extras == {"format": "pt"}
    assert set(checkpoint) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint[name], array)
        assert checkpoint[name].dtype == array.dtype.newbyteorder("=")
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_npz_is_a_checkpoint_too(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **{"net.a": np.arange(3), "net.b": np.ones(())})
    assert set(load_checkpoint(path)) == {"net.a", "net.b"}
    np.testing.assert_array_equal(load_checkpoint(path, payload="net")["a"], np.arange(3))
    np.savez(path, objects=np.array([{}], dtype=object))
    with pytest.raises(UnsafeFileError, match=r"weights\.npz.*allow_pickle"):
        load_checkpoint(path)["objects"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_safetensors(path, ARRAYS)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_safetensors(path, {"other": np.ones(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_safetensors(tmp_path / "absent" / "weights.safetensors", ARRAYS)


@pytest.mark.parametrize("array", [np.ones(2, np.complex128), np.array(["text"])])
def test_types_that_safetensors_lacks(tmp_path, array):
    with pytest.raises(InvalidInputError, match="cannot hold"):
        save_safetensors(tmp_path / "weights.safetensors", {"w": array})


def test_import_needs_neither_jax_nor_torch():
    program = "import sys, lab.interop; print({'jax', 'torch', 'flax'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.stdout.strip() == "set()", output.stderr
