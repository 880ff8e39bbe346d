"""GGUF files: a written file comes back; damaged and foreign ones are refused; Llama weights."""

import contextlib
import struct

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import CorruptFileError, DataError, LabError, MissingExtraError
from lab.interop.gguf_files import QUANTISATIONS, dequantise, open_gguf
from lab.nn import decoder
from lab.papers.drums.convert import (
    config_of_gguf,
    from_gguf,
    from_official,
    half_split_rows,
    to_official,
)

WIDTH, HEADS, VOCABULARY = 32, 2, 20


def write_llama(path, *, architecture="llama", skip=(), shapes=None, keys=()):
    """A one-block Llama; `skip` tensors are left out, `keys` metadata replaced (None: dropped)."""
    writer = gguf.GGUFWriter(str(path), architecture)
    values = {
        "llama.context_length": 16,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": HEADS,
        "llama.vocab_size": VOCABULARY,
    }
    for key, value in (values | dict(keys)).items():
        if value is not None:
            writer.add_uint32(key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    rng = np.random.default_rng(0)
    sizes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        sizes[f"blk.0.{name}.weight"] = (WIDTH, WIDTH)
    sizes |= {f"blk.0.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in (sizes | (shapes or {})).items():
        if name not in skip:
            writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_written_file_comes_back(tmp_path):
    file = open_gguf(write_llama(tmp_path / "a.gguf"))
    assert file.metadata["general.architecture"] == "llama"
    assert file.required("llama.block_count") == 1
    expected = np.random.default_rng(0).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    assert np.array_equal(file["token_embd.weight"], expected)
    assert file.tensors["token_embd.weight"].kind == "F32"
    assert len(file) == 11
    with pytest.raises(CorruptFileError, match=r"lacks the key llama\.rope"):
        file.required("llama.rope")


def test_a_llama_runs_and_its_weights_go_back(tmp_path):
    config, params = from_gguf(open_gguf(write_llama(tmp_path / "a.gguf")))
    assert (config.num_heads, config.kv_heads, config.is_tied) == (2, 2, True)
    ids = jnp.arange(5)[None]
    assert np.isfinite(decoder.apply(config, params, ids)).all()
    named = to_official(params, config, prefix="model.")
    again = from_official(named, config)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_rotary_rows_are_put_into_half_split_order():
    rows = np.arange(8)[:, None] * np.ones((1, 3))
    assert half_split_rows(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"architecture": "qwen2"}, DataError, "is a 'qwen2'; supported: 'llama'"),
        ({"skip": ("blk.0.attn_q.weight",)}, CorruptFileError, "lacks the tensors"),
        ({"keys": {"llama.block_count": None}.items()}, CorruptFileError, "llama.block_count"),
        ({"keys": {"llama.block_count": 2}.items()}, CorruptFileError, "lacks the tensors"),
        ({"keys": {"llama.vocab_size": 21}.items()}, CorruptFileError, "its metadata says"),
        ({"keys": {"llama.vocab_size": None}.items()}, CorruptFileError, "llama.vocab_size"),
        ({"shapes": {"blk.0.ffn_up.weight": (16, 32)}}, CorruptFileError, "has shape"),
    ],
)
def test_files_that_are_no_whole_llama_are_refused(tmp_path, options, error, message):
    path = write_llama(tmp_path / "a.gguf", **options)
    with pytest.raises(error, match=message):
        from_gguf(open_gguf(path))


def test_the_configuration_comes_out_of_the_file(tmp_path):
    config = config_of_gguf(open_gguf(write_llama(tmp_path / "a.gguf")))
    assert (config.width, config.mlp_width, config.context) == (32, 32, 16)
    assert config.norm_epsilon == pytest.approx(1e-5)


def test_other_magic_version_and_truncation_are_told(tmp_path):
    good = write_llama(tmp_path / "a.gguf").read_bytes()
    bad = tmp_path / "bad.gguf"

    def refused(content, message):
        bad.write_bytes(content)
        with pytest.raises(CorruptFileError, match=message):
            open_gguf(bad)

    refused(b"GGML" + good[4:], "no GGUF file: it begins with b'GGML'")
    refused(b"", "no GGUF file")
    refused(good[:4] + struct.pack("<I", 9) + good[8:], "version 9")
    refused(good[: len(good) // 2], "truncated")
    refused(good[:30], "truncated")
    refused(good[:16] + struct.pack("<Q", 2**60) + good[24:], "bad.gguf")
    with pytest.raises(FileNotFoundError):
        open_gguf(tmp_path / "none.gguf")


def test_an_array_that_claims_to_be_endless_ends_the_reading(tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    path = tmp_path / "a.gguf"
    path.write_bytes(head + struct.pack("<IIQ", 9, 0, 2**60) + b"\0" * 100)
    with pytest.raises(CorruptFileError, match="truncated"):
        open_gguf(path)
    nested = struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 200
    path.write_bytes(head + nested)
    with pytest.raises(CorruptFileError, match="nested too deeply"):
        open_gguf(path)


def test_unknown_quantisations_are_refused():
    with pytest.raises(DataError, match=r"quantisation 'IQ1_S'; supported: F32"):
        dequantise(np.zeros(50, np.uint8), "IQ1_S")
    with pytest.raises(CorruptFileError, match="no whole blocks of 18"):
        dequantise(np.zeros(17, np.uint8), "Q4_0")


@pytest.mark.parametrize("kind", [k for k in QUANTISATIONS if k.startswith(("Q4_0", "Q5", "Q8"))])
def test_quantised_values_are_near_what_they_were(kind):
    values = np.random.default_rng(0).normal(size=(2, 256)).astype(np.float32)
    quantisation = gguf.GGMLQuantizationType[kind]
    try:
        blocks = gguf.quants.quantize(values, quantisation)
    except NotImplementedError:
        pytest.skip(f"the library does not write {kind}")
    assert (
        np.abs(dequantise(blocks, kind) - values).max() < {"4": 0.5, "5": 0.25, "8": 0.05}[kind[1]]
    )


def test_without_the_library_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    path = write_llama(tmp_path / "a.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tenfold\[drums\]'"):
        open_gguf(path)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 900), st.binary(min_size=1, max_size=9))
def test_damage_anywhere_is_read_or_refused(tmp_path, place, noise):
    good = tmp_path / "good.gguf"
    if not good.exists():
        write_llama(good)
    content = bytearray(good.read_bytes())
    content[place : place + len(noise)] = noise
    (tmp_path / "bad.gguf").write_bytes(content)
    with contextlib.suppress(LabError):
        from_gguf(open_gguf(tmp_path / "bad.gguf"))
