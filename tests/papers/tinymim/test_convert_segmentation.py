import jax
import numpy as np
import pytest

from lab.errors import CheckpointError, InvalidInputError
from lab.nn.position import interpolate_positions
from lab.papers.tinymim.convert_segmentation import from_mmseg, to_mmseg
from lab.papers.tinymim.segmentation import SegmenterConfig, init_segmenter, segmentation_backbone
from tests.papers.tinymim.segmenters import BACKBONE, ENCODER, SEGMENTER, segmenter_variables


def official():
    return to_mmseg(segmenter_variables(), SEGMENTER)


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_variables_come_back_from_mmsegs_names():
    variables, report = from_mmseg({"state_dict": official()}, SEGMENTER)
    assert report.is_clean
    assert_same(variables, segmenter_variables())


def test_export_has_the_names_of_torchs_strict_loading():
    arrays = official()
    assert arrays["backbone.fpn1.0.weight"].shape == (8, 8, 2, 2)
    assert arrays["decode_head.psp_modules.1.1.conv.weight"].shape == (6, 8, 1, 1)
    assert arrays["decode_head.fpn_bottleneck.conv.weight"].shape == (6, 24, 3, 3)
    assert arrays["auxiliary_head.convs.0.bn.num_batches_tracked"].shape == ()
    assert arrays["backbone.blocks.3.attn.relative_position_index"].shape == (17, 17)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_the_backbone_alone_is_taken_out_of_a_file(prefix):
    arrays = {
        prefix + name.removeprefix("backbone."): array
        for name, array in official().items()
        if prefix or name.startswith("backbone.")
    }
    if prefix:
        arrays = official()
    variables, _ = from_mmseg(arrays, SEGMENTER, backbone_only=True)
    whole = segmenter_variables()
    assert_same(variables, {name: tree["backbone"] for name, tree in whole.items()})
    exported = to_mmseg(variables, SEGMENTER, backbone_only=True)
    np.testing.assert_array_equal(exported["fpn2.0.bias"], arrays[f"{prefix}fpn2.0.bias"])


def test_a_position_table_of_another_grid_is_resized():
    arrays = official()
    table = np.random.default_rng(0).normal(size=(1, 10, 8)).astype(np.float32)
    variables, _ = from_mmseg(arrays | {"backbone.pos_embed": table}, SEGMENTER)
    expected = interpolate_positions(table, BACKBONE.grid)
    loaded = variables["params"]["backbone"]["vit"]["pos_embed"]
    np.testing.assert_array_equal(loaded, expected)


def test_a_missing_weight_is_named():
    arrays = official()
    del arrays["decode_head.bottleneck.conv.weight"]
    with pytest.raises(CheckpointError, match="decode_head/bottleneck/conv/kernel"):
        from_mmseg(arrays, SEGMENTER)


def test_weights_of_another_width_are_named():
    arrays = official()
    arrays["decode_head.lateral_convs.0.conv.weight"] = np.zeros((7, 8, 1, 1), np.float32)
    with pytest.raises(CheckpointError, match=r"lateral_convs.0.conv.weight \(8, 7\)"):
        from_mmseg(arrays, SEGMENTER)


def test_classifiers_of_other_classes_are_dropped_and_made_afresh():
    config = SegmenterConfig(BACKBONE, 5, 6, (1, 2), auxiliary_width=4, feature_blocks=(1, 2, 3, 4))
    with pytest.raises(CheckpointError, match="conv_seg"):
        from_mmseg(official(), config)
    with pytest.warns(UserWarning, match="missing"):
        loaded, _ = from_mmseg(official(), config, strict=False)
    assert "conv_seg" not in loaded["params"]["decode_head"]
    variables = init_segmenter(config, jax.random.key(0), loaded)
    assert variables["params"]["decode_head"]["conv_seg"]["kernel"].shape == (6, 5)
    np.testing.assert_array_equal(
        variables["params"]["decode_head"]["fpn0"]["conv"]["kernel"],
        segmenter_variables()["params"]["decode_head"]["fpn0"]["conv"]["kernel"],
    )


def test_a_starred_checkpoint_does_not_pass_for_a_plain_one():
    arrays = official()
    starred = {
        "backbone.pos_embed": np.zeros((1, 18, 8), np.float32),
        "backbone.dist_token": np.zeros((1, 1, 8), np.float32),
    }
    with pytest.raises(CheckpointError, match=r"starred model.*18 rows"):
        from_mmseg(arrays | starred, SEGMENTER)
    vit = segmentation_backbone(ENCODER, image_size=8, distilled=True, expanded_width=12)
    config = SegmenterConfig(vit, 3, 6, (1, 2), 4, feature_blocks=(1, 2, 3, 4))
    with pytest.raises(CheckpointError, match="plain model"):
        from_mmseg(arrays, config)


def test_variables_without_a_name_are_refused():
    strange = {"params": {"decode_head": {"extra": np.zeros(3)}}}
    with pytest.raises(InvalidInputError, match="decode_head/extra"):
        to_mmseg(strange, SEGMENTER)
