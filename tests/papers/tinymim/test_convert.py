"""Checkpoints of others: names both ways, what is left out, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from lab.errors import CheckpointError, InvalidInputError
from lab.interop import load_checkpoint, save_safetensors
from lab.nn.position import interpolate_positions
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViT, vit_config
from lab.papers.tinymim import (
    ClassifierConfig,
    MAEConfig,
    from_official,
    init_variables,
    to_official,
    variable_shapes,
    vit_config_of,
)
from lab.papers.tinymim.convert import relayout
from tests.papers.tinymim.networks import STUDENT, pictures, quick_jit, random_variables, scanned

LEARNED = dataclasses.replace(STUDENT, position="learned")
CLASSIFIER = ClassifierConfig(dataclasses.replace(LEARNED, final_norm=False), num_classes=5)
STARRED = ClassifierConfig(
    dataclasses.replace(CLASSIFIER.backbone, distilled=True, expanded_width=20), num_classes=5
)
SMALL_MAE = MAEConfig(STUDENT, TransformerConfig(width=8, depth=1, num_heads=2))
SCALED = dataclasses.replace(LEARNED, layer_scale=1e-5, pre_norm=True)
MODELS = {
    "encoder": STUDENT,
    "scanned encoder": scanned(STUDENT),
    "mae": SMALL_MAE,
    "classifier": CLASSIFIER,
    "starred classifier": STARRED,
    "layer scale and first norm": SCALED,
    "relative positions": dataclasses.replace(STUDENT, relative_position_bias=True),
}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("naming", ["official", "timm"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_from_the_official_layout(name, naming):
    variables = random_variables(MODELS[name])
    state_dict = to_official(variables, MODELS[name], naming=naming)
    assert not any("/" in key for key in state_dict)
    back, report = from_official(state_dict, MODELS[name])
    assert report.is_clean
    equal(back, variables)


def test_the_patch_embedding_is_torchs_convolution():
    variables = random_variables(STUDENT)
    weight = to_official(variables, STUDENT)["patch_embed.proj.weight"]
    assert weight.shape == (12, 3, 2, 2)
    image = np.asarray(pictures()[0], np.float64)
    patch = image[2:4, 4:6]  # row 1, column 2 of a 4 x 4 grid
    expected = np.einsum("ocyx,yxc->o", weight, patch) + variables["params"]["patch_embed"]["bias"]
    out = quick_jit(lambda v, x: ViT(STUDENT).apply(v, x, ("embed",)))(variables, pictures())
    token = 1 + 1 * 4 + 2
    placed = expected + variables["constants"]["pos_embed"][0, token]
    np.testing.assert_allclose(out["embed"][0, token], placed, atol=1e-5)


def test_timm_names_its_layer_scale_and_first_norm():
    names = set(to_official(random_variables(SCALED), SCALED, naming="timm"))
    assert {"blocks.1.ls2.gamma", "norm_pre.weight", "patch_embed.proj.weight"} <= names


def test_files_go_both_ways(tmp_path):
    variables = random_variables(CLASSIFIER)
    save_safetensors(tmp_path / "a.safetensors", to_official(variables, CLASSIFIER, naming="timm"))
    back, _ = from_official(load_checkpoint(tmp_path / "a.safetensors"), CLASSIFIER)
    equal(back, variables)


@pytest.mark.parametrize("payload", ["model", "state_dict", None])
def test_payload_and_wrapper_prefix_are_taken_off(payload):
    variables = random_variables(STUDENT)
    state_dict = {f"module.{k}": v for k, v in to_official(variables, STUDENT).items()}
    wrapped = {payload: state_dict, "epoch": 3} if payload else state_dict
    equal(from_official(wrapped, STUDENT)[0], variables)


def test_an_encoder_is_taken_out_of_any_checkpoint():
    mae = random_variables(SMALL_MAE)
    encoder, report = from_official(to_official(mae, SMALL_MAE), STUDENT)
    equal(encoder["params"], mae["params"]["encoder"])
    assert "decoder_embed.weight" in report.ignored
    tuned = random_variables(CLASSIFIER)
    with pytest.warns(UserWarning, match=r"missing \(2\): params/norm"):
        encoder, _ = from_official(to_official(tuned, CLASSIFIER), LEARNED, strict=False)
    equal(encoder["params"]["blocks"], tuned["params"]["backbone"]["blocks"])


def test_positions_of_another_grid_are_resized():
    larger = dataclasses.replace(STUDENT, image_size=12)
    variables = random_variables(STUDENT)
    resized, _ = from_official(to_official(variables, STUDENT), larger)
    expected = interpolate_positions(variables["constants"]["pos_embed"], 6)
    np.testing.assert_array_equal(resized["constants"]["pos_embed"], expected)


def test_a_head_of_other_classes_is_dropped():
    state_dict = to_official(random_variables(CLASSIFIER), CLASSIFIER)
    other = dataclasses.replace(CLASSIFIER, num_classes=4)
    with pytest.warns(UserWarning, match="params/head/bias"):
        variables, report = from_official(state_dict, other, strict=False)
    assert "head" not in variables["params"]
    assert set(report.ignored) == {"head.weight", "head.bias"}
    whole = init_variables(other, jax.random.key(0), variables)
    equal(whole["params"]["backbone"], variables["params"]["backbone"])
    assert whole["params"]["head"]["kernel"].shape == (12, 4)


def test_starred_and_plain_checkpoints_are_not_confused():
    starred = to_official(random_variables(STARRED), STARRED)
    with pytest.raises(CheckpointError, match=r"of a starred model .* 18 rows, class and dist"):
        from_official(starred, LEARNED)
    starred.pop("dist_token")
    with pytest.raises(CheckpointError, match="of a starred model"):
        from_official(starred, LEARNED)
    plain = to_official(random_variables(CLASSIFIER), CLASSIFIER)
    with pytest.raises(CheckpointError, match=r"of a plain model .* 2 special"):
        from_official(plain, STARRED)
    with pytest.raises(CheckpointError, match="register tokens"):
        from_official(plain | {"reg_token": np.zeros((1, 4, 12))}, LEARNED)


def test_a_checkpoint_of_another_size_names_its_keys():
    state_dict = to_official(random_variables(STUDENT), STUDENT)
    wider = dataclasses.replace(STUDENT, width=16)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.norm1\.weight \(12,\) where .* \(16,\)"):
        from_official(state_dict, wider)


def test_a_checkpoint_that_matches_few_keys_is_warned_of():
    state_dict = to_official(random_variables(STUDENT), STUDENT)
    few = {"norm.weight": state_dict["norm.weight"], "conv1.weight": np.zeros(3)}
    with pytest.warns(UserWarning, match=r"matched 1 of .*conv1\.weight.*will not learn"):
        from_official(few, STUDENT, strict=False)
    with pytest.raises(CheckpointError, match="matched 1 of"):
        from_official(few, STUDENT)


def test_what_the_network_does_not_know_is_reported():
    state_dict = to_official(random_variables(STUDENT), STUDENT) | {"extra.weight": np.zeros(3)}
    with pytest.warns(UserWarning, match=r"unexpected \(1\): extra\.weight"):
        _, report = from_official(state_dict, STUDENT)
    assert report.unexpected == ("extra.weight",)


def test_layouts_of_blocks_go_both_ways_wherever_they_lie():
    variables = random_variables(SMALL_MAE)
    stacked = relayout(variables, scan=True)
    assert set(stacked["params"]["decoder"]["blocks"]) == {"stacked"}
    assert set(stacked["params"]["encoder"]["blocks"]) == {"stacked"}
    equal(relayout(stacked, scan=False), variables)


@pytest.mark.parametrize("size", ["T", "T*"])
def test_a_network_is_told_from_its_weights(size):
    config = vit_config(size, image_size=32, position="learned")
    shapes = variable_shapes(config)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert vit_config_of(to_official(zeros, config)) == config
    assert vit_config_of(to_official(zeros, config), num_heads=6).heads == (6,) * 12


def test_only_networks_of_this_paper_have_a_layout():
    with pytest.raises(InvalidInputError, match="no checkpoint layout for a TransformerConfig"):
        to_official({"params": {}}, TransformerConfig(width=8, depth=1, num_heads=2))
